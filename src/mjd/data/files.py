"""Files on disk: the content-addressed cache of downloads, and directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mjd.io import atomic_path, sha256_file


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; put it in the place of `path` when the block succeeds.

    Removed when the block fails, so that `path` is never half written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link_or_copy(origin: Path, target: Path) -> None:
    """Put `origin` at `target` (which must not exist): a hard link where the file system allows it, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(origin, target)
    except OSError:
        shutil.copyfile(origin, target)


def copy_file(origin: Path, target: Path) -> None:
    """Copy `origin` to `target` atomically: a file of that name is always complete."""
    with atomic_path(target) as temporary:
        shutil.copyfile(origin, temporary)


def valid_blob(blobs: Path, sha256: str) -> Path | None:
    """The file `blobs/<sha256>` if it is there with that content, else None; a damaged one is deleted."""
    blob = blobs / sha256
    if not blob.is_file():
        return None
    if sha256_file(blob) == sha256:
        return blob
    blob.unlink()
    return None
