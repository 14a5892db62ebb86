"""The files of a local model, and a hash of their content that is computed once and kept.

Light on purpose: the Snakefile asks for these hashes while it builds the DAG.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from tqdm import tqdm

from mjd.errors import ModelError
from mjd.settings import Settings

# The same weights in other formats, and logs of training.
NOT_MODEL_FILES = ("original/*", "onnx/*", "openvino/*", "coreml/*", "runs/*")

# Hashing fewer bytes takes about a second at most, and needs no word.
BYTES_WITHOUT_A_WORD = 1_000_000_000
MOST_THREADS = 8

log = logging.getLogger(__name__)


class Signature(NamedTuple):
    """What `stat` says of a file's content: writing to the file changes it, even where size and mtime are set back."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Signature:
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class _HashedFile(Settings):
    """The hash of a file's content, and the file's signature when it was read."""

    signature: Signature
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _HashedModel(Settings):
    """What is kept of a model: its path, for readers, and its hashed files by their names in it."""

    path: str
    files: dict[str, _HashedFile]


def model_files(path: Path) -> list[Path]:
    """Files that belong to a local model, sorted: a file itself, or those in a directory, links followed.

    Hidden files and directories, READMEs and `NOT_MODEL_FILES` are left out; nothing is found where there is nothing.
    """
    if path.is_file():
        return [path]
    return [file for file in sorted(path.rglob("*")) if file.is_file() and _is_of_model(file.relative_to(path))]


def _is_of_model(name: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in name.parts)
    is_other = any(fnmatch.fnmatch(name.as_posix(), pattern) for pattern in NOT_MODEL_FILES)
    return not (is_hidden or is_other or name.name.upper().startswith("README"))


def content_hash(path: Path, kept_in: Path) -> str:
    """SHA-256 (hex) of a local model's content, wherever it lies and whatever its times; "" where no file is there yet.

    That of a file is what `sha256sum` prints; that of a directory is the SHA-256 of lines `sha256  name`, one a file,
    sorted by name. A file is read when its size, times or inode are not those that were kept with its hash.

    Args:
        kept_in: directory that keeps hashes, a small file a model; where it cannot be written, nothing is kept.

    Raises:
        ModelError: a file cannot be read.
    """
    try:
        signatures = tuple((file, Signature.of(file)) for file in model_files(path))
    except OSError as error:
        raise _unreadable(Path(error.filename or path), error) from error
    return hash_of_files(path, signatures, kept_in) if signatures else ""


def _unreadable(file: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{file}, of a local model, cannot be read ({error.strerror or error}).",
        "Make it readable for you, or give a copy of the model under local.",
    )


@functools.lru_cache(maxsize=64)
def hash_of_files(path: Path, signatures: tuple[tuple[Path, Signature], ...], kept_in: Path) -> str:
    """`content_hash` of files with these signatures, worked out once a process: params of many jobs hold it."""
    place = kept_in / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}.json"
    known = _kept(place)
    hashes, unknown = {}, {}
    for file, signature in signatures:
        name = file.relative_to(path).as_posix()
        if name in known and known[name].signature == signature:
            hashes[name] = known[name]
        else:
            unknown[name] = file, signature
    if unknown:
        digests = _read_all(path, list(unknown.values()))
        for (name, (_, signature)), sha256 in zip(unknown.items(), digests, strict=True):
            hashes[name] = _HashedFile(signature=signature, sha256=sha256)
        _keep(_HashedModel(path=str(path.absolute()), files=hashes), place)
    if path.is_file():
        return next(iter(hashes.values())).sha256
    lines = "".join(f"{hashes[name].sha256}  {name}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def _read_all(path: Path, files: Sequence[tuple[Path, Signature]]) -> list[str]:
    """SHA-256 of a model's files, several read at a time; announced and with a progress bar where they are large."""
    size = sum(signature.size for _, signature in files)
    is_short = size < BYTES_WITHOUT_A_WORD
    if not is_short:
        log.warning("Reading the local model %s (%.1f GB) to hash its content, once.", path, size / 1e9)
    with (
        tqdm(total=size, unit="B", unit_scale=True, desc=path.name, leave=False, disable=is_short or None) as bar,
        ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool,  # hashing needs no GIL
    ):
        digests = []
        for digest, (_, signature) in zip(pool.map(_sha256, [file for file, _ in files]), files, strict=True):
            digests.append(digest)
            bar.update(signature.size)
        return digests


def _sha256(file: Path) -> str:
    from mjd import io  # imports pandas: only where something is hashed

    try:
        return io.sha256_file(file)
    except OSError as error:
        raise _unreadable(file, error) from error


def _kept(place: Path) -> dict[str, _HashedFile]:
    """Hashes that were kept, by file name; none where the file is missing, damaged or not readable."""
    try:
        return _HashedModel.model_validate_json(place.read_bytes()).files
    except (OSError, ValueError):
        return {}


def _keep(model: _HashedModel, place: Path) -> None:
    from mjd import io  # imports pandas: only where something is hashed

    try:
        with io.atomic_path(place) as temporary:
            temporary.write_text(model.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        log.warning("The hash of %s cannot be kept (%s): its files are read again next time.", model.path, error)
