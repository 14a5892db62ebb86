"""Locks between processes: the kernel releases them with the process that holds them, however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mjd.errors import DataError

log = logging.getLogger(__name__)

# What file systems answer that have no locks (many mounts of Lustre, NFS without lockd, some FUSE file systems).
NO_LOCKS = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.EPERM}
)
_HELD = frozenset({errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK})
LOCAL_DISK = "Put results_dir on a local disk, or on a file system that is mounted with locks, then run again."


@contextlib.contextmanager
def only_process(path: str | Path, what: str) -> Iterator[None]:
    """Do the block while no other process does it for the same `path`, a small file that names who does.

    A file system without locks is warned about: nothing then keeps two runs from doing the same work twice.

    Args:
        what: the work, for errors, such as "fine-tuning of minilm".

    Raises:
        DataError: another process is doing it; the message names it.
    """
    path = Path(path)
    with contextlib.ExitStack() as held:
        while True:
            handle = held.enter_context(_opened(path))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _HELD:
                    raise _held(path, handle, what) from None
                if error.errno not in NO_LOCKS:
                    raise
                log.warning("No locks at %s (%s): make sure that no other run does the %s.", path, error.strerror, what)
                break
            if _is_file(handle, path):
                _sign(handle)
                break
            handle.close()  # its last holder has removed it meanwhile
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def in_turn(path: str | Path, what: str) -> Iterator[None]:
    """Do the block when no other process does it for the same `path`, waiting for one that does.

    Raises:
        DataError: the file system has no locks.
    """
    with _opened(Path(path)) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise no_locks(Path(path).parent, error, what) from None
        _sign(handle)
        yield


def check_locks(directory: Path, what: str) -> None:
    """Raise `DataError` where the directory's file system has no locks; one that cannot be written to is left alone."""
    try:
        probe = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 -- closed below
    except OSError:
        return
    with probe:
        try:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise no_locks(directory, error, what) from None


def no_locks(directory: Path, error: OSError, what: str) -> DataError:
    """The error of a file system without locks."""
    return DataError(
        f"The file system of {directory} gives no file locks ({error.strerror}), which {what} needs: nothing was asked "
        "for.",
        LOCAL_DISK,
    )


def unwritable(path: Path, error: OSError) -> DataError:
    """The error of a file that cannot be made or written, with the cure for its cause."""
    cures = {
        errno.ENOSPC: "Free space on its disk, then run again.",
        errno.EDQUOT: "Free some of your quota on its disk, then run again.",
        errno.EROFS: "Its disk is mounted read-only: choose another results_dir.",
    }
    cure = cures.get(error.errno or 0, "Make its directory writable for you, or choose another results_dir.")
    return DataError(f"{path} cannot be written ({error.strerror or error}).", cure)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 -- closed below; what another wrote stays readable
    except OSError as error:
        raise unwritable(path, error) from None
    with handle:
        yield handle


def _is_file(handle: IO[str], path: Path) -> bool:
    """Whether an open file still is the one at `path`."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    return False


def _sign(handle: IO[str]) -> None:
    """Write down who holds a lock, for the error of whoever comes second."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "directory": str(Path.cwd())}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without it
        handle.truncate(0)
        handle.write(json.dumps(holder) + "\n")
        handle.flush()


def _held(path: Path, handle: IO[str], what: str) -> DataError:
    try:
        handle.seek(0)
        holder = json.loads(handle.read())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        who = f"process {holder['pid']} on {holder['host']} since {since}, started in {holder['directory']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return DataError(
        f"The {what} is being done by {who} (lock {path}).",
        "Wait for that run, or stop it; two runs of one results_dir would do the same work twice.",
    )
