"""Caches of libraries where the usual places cannot be written: a read-only environment, a home that is not there."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def import_dcor() -> Any:
    """The package dcor, whose functions numba compiles and keeps beside the package, or below the home directory.

    Where it can do neither, importing dcor fails; it then keeps them in a temporary directory.
    """
    try:
        import dcor
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        import numba

        for name in [name for name in sys.modules if name.partition(".")[0] == "dcor"]:
            del sys.modules[name]  # half imported
        numba.config.CACHE_DIR = str(temporary_cache("numba"))
        import dcor
    return dcor


def temporary_cache(name: str) -> Path:
    """A directory for a cache that this user alone can write: caches hold code."""
    chosen = Path(tempfile.gettempdir()) / f"mjd-{name}-{os.getuid()}"
    with contextlib.suppress(OSError):
        chosen.mkdir(mode=0o700, exist_ok=True)
        found = chosen.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return chosen
    return Path(tempfile.mkdtemp(prefix=f"mjd-{name}-"))


def is_writable(directory: Path) -> bool:
    """Whether files can be made in a directory, or in the nearest one above it that exists."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def cache_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that name temporary caches, for a process in `environment` whose caches cannot be written.

    XDG_CACHE_HOME serves vLLM, Hugging Face and Matplotlib; Triton, FlashInfer and numba have their own.
    """
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    shared = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    places = {
        "XDG_CACHE_HOME": shared,
        "TRITON_CACHE_DIR": Path(environment.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"),
        "FLASHINFER_WORKSPACE_BASE": Path(environment.get("FLASHINFER_WORKSPACE_BASE") or home),
        "NUMBA_CACHE_DIR": Path(environment.get("NUMBA_CACHE_DIR") or shared),
    }
    return {
        name: str(temporary_cache(name.partition("_")[0].lower()))
        for name, place in places.items()
        if not is_writable(place)
    }
