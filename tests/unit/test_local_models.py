"""Local models are told apart by their content, which is read once."""

import hashlib
import logging
import os
import shutil
from pathlib import Path

import pytest

from mjd import io, local_models
from mjd.errors import ModelError
from mjd.local_models import content_hash, hash_of_files, model_files


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory of two files, one in a directory of its own."""
    directory = tmp_path / "model"
    (directory / "tokens").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "tokens" / "vocab.txt").write_bytes(b"words")
    return directory


@pytest.fixture
def kept_in(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "model_hashes"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, as they are."""
    names: list[str] = []

    def noted(path: Path) -> str:
        names.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(io, "sha256_file", noted)
    return names


def new_process() -> None:
    """Forget what this process knows, as if another one asked."""
    hash_of_files.cache_clear()


def test_file_hash_is_that_of_sha256sum_whatever_its_name(tmp_path: Path, kept_in: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"weights")
        assert content_hash(tmp_path / name, kept_in) == hashlib.sha256(b"weights").hexdigest()


def test_directory_hash_is_that_of_lines_of_its_files(model: Path, kept_in: Path) -> None:
    weights, words = (hashlib.sha256(content).hexdigest() for content in (b"weights", b"words"))
    lines = f"{weights}  model.safetensors\n{words}  tokens/vocab.txt\n"
    assert content_hash(model, kept_in) == hashlib.sha256(lines.encode()).hexdigest()


def test_missing_model_has_no_hash(tmp_path: Path, kept_in: Path) -> None:
    assert content_hash(tmp_path / "not-there", kept_in) == ""
    assert not kept_in.exists()


def test_copied_model_keeps_its_hash(model: Path, kept_in: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "elsewhere")
    assert content_hash(tmp_path / "elsewhere", kept_in) == content_hash(model, kept_in)


def test_linked_files_keep_the_hash(model: Path, kept_in: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    (linked / "tokens").mkdir(parents=True)
    for file in model_files(model):
        (linked / file.relative_to(model)).symlink_to(file)
    assert content_hash(linked, kept_in) == content_hash(model, kept_in)
    (tmp_path / "link").symlink_to(model)
    assert content_hash(tmp_path / "link", kept_in) == content_hash(model, kept_in)


def test_touched_file_keeps_the_hash_and_is_read_once_more(model: Path, kept_in: Path, read: list[str]) -> None:
    first = content_hash(model, kept_in)
    read.clear()
    os.utime(model / "model.safetensors", ns=(0, 0))
    assert content_hash(model, kept_in) == first
    assert read == ["model.safetensors"]


def test_changed_file_of_same_size_and_mtime_changes_the_hash(model: Path, kept_in: Path) -> None:
    weights = model / "model.safetensors"
    before, first = weights.stat(), content_hash(model, kept_in)
    while weights.stat().st_ctime_ns == before.st_ctime_ns:  # file systems tick every few milliseconds
        weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert content_hash(model, kept_in) != first


def test_renamed_file_changes_the_hash(model: Path, kept_in: Path) -> None:
    first = content_hash(model, kept_in)
    (model / "model.safetensors").rename(model / "other.safetensors")
    assert content_hash(model, kept_in) != first


@pytest.mark.parametrize("name", [".git/index", ".cache/x.metadata", "README.md", "onnx/model.onnx", "runs/events"])
def test_files_beside_the_model_do_not_count(model: Path, kept_in: Path, name: str) -> None:
    first = content_hash(model, kept_in)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"not part of the model")
    assert content_hash(model, kept_in) == first


def test_kept_hash_is_found_by_the_next_process_without_reading(model: Path, kept_in: Path, read: list[str]) -> None:
    first = content_hash(model, kept_in)
    assert sorted(read) == ["model.safetensors", "vocab.txt"]
    read.clear()
    new_process()
    assert content_hash(model, kept_in) == first
    assert read == []


def test_kept_hashes_are_readable_for_all_and_name_their_model(model: Path, kept_in: Path) -> None:
    content_hash(model, kept_in)
    (kept,) = kept_in.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o644
    assert str(model) in kept.read_text()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"path": "x", "files": {"a": {"sha256": "b"}}}', b"\xff"])
def test_damaged_kept_hashes_are_made_anew(model: Path, kept_in: Path, read: list[str], damage: bytes) -> None:
    first = content_hash(model, kept_in)
    (kept,) = kept_in.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    read.clear()
    new_process()
    assert content_hash(model, kept_in) == first
    assert len(read) == 2
    assert kept.read_bytes() == whole


def test_hashes_that_cannot_be_kept_are_warned_about_and_read_once_a_process(
    model: Path, tmp_path: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory can be made below")
    kept_in = tmp_path / "file" / "model_hashes"
    assert content_hash(model, kept_in) == content_hash(model, kept_in)
    assert len(read) == 2
    assert f"The hash of {model} cannot be kept" in caplog.text


def test_large_model_is_announced(
    model: Path, kept_in: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    content_hash(model, kept_in)
    assert not caplog.records
    monkeypatch.setattr(local_models, "BYTES_WITHOUT_A_WORD", 1)
    (model / "model.safetensors").write_bytes(b"further weights")
    content_hash(model, kept_in)
    assert f"Reading the local model {model} (0.0 GB)" in caplog.text


def test_unreadable_file_is_named(tmp_path: Path, kept_in: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.symlink_to("/proc/self/mem")  # even root cannot read its first page
    with pytest.raises(ModelError, match=f"{file}, of a local model, cannot be read"):
        content_hash(tmp_path, kept_in)
