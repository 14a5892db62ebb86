"""Packages that a checkpoint's tokenizer needs. Light: no model library is imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# Tokenizer files that Transformers can read only with packages that mjd does not need otherwise.
SENTENCEPIECE_FILES = ("tokenizer.model", "spm.model", "spiece.model", "sentencepiece.bpe.model")
_TOKENIZER_PACKAGES = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf", "tiktoken": "tiktoken"}


def missing_packages(directory: Path) -> str | None:
    """The cure where a directory has no other tokenizer than one for which packages are missing; else None."""
    found = [file for file in SENTENCEPIECE_FILES if (directory / file).exists()]
    found += [file.name for file in sorted(directory.glob("*.tiktoken"))]
    if not found or any((directory / other).exists() for other in ("tokenizer.json", "vocab.json", "vocab.txt")):
        return None
    lacking = [package for package, module in _TOKENIZER_PACKAGES.items() if not _is_installed(module)]
    if not lacking:
        return None
    return (
        f"Its only tokenizer file is {found[0]}: install the packages that read it (`.venv/bin/pip install "
        f"{' '.join(lacking)}`), or save it once as tokenizer.json where they are installed "
        "(`AutoTokenizer.from_pretrained(directory).save_pretrained(directory)`)."
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent package
        return False
