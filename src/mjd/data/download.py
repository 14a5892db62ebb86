"""Download the files of a data source: cache, then mirror, then network; every file checked by SHA-256."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError
from urllib3.util import Retry

from mjd.data.files import atomic_directory, copy_file, link_or_copy, valid_blob
from mjd.errors import DownloadError
from mjd.io import sha256_file
from mjd.logs import Progress
from mjd.registry import Source

RAW_URL = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"
CONNECTIONS = 6
RETRIES = 3  # of a connection that is refused or a server that is busy
RESUMES = 10  # of a body that breaks off
BACKOFF_SECONDS = 0.5
TIMEOUT_SECONDS = (15.0, 60.0)
CHUNK_BYTES = 1 << 16  # what a broken connection loses at most

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wanted:
    """One content to fetch: its SHA-256, where it may come from, and the paths that hold it."""

    sha256: str
    url: str
    mirror: Path | None
    paths: tuple[str, ...]


def mirror_directory(configured: str | None) -> Path | None:
    """The mirror: environment variable MJD_MIRROR, else the configuration's `mirror`, else none."""
    chosen = os.environ.get("MJD_MIRROR") or configured
    return Path(chosen).expanduser() if chosen else None


def file_url(source: Source, path: str) -> str:
    """Address of one file of a source: the archive's URL, or the raw file at the pinned commit."""
    if source.url:
        return source.url
    return RAW_URL.format(repository=source.repository, commit=source.commit, path=quote(path))


def mirror_path(source: Source, path: str, mirror: Path) -> Path:
    """Place of one file in a mirror: `<mirror>/<owner>/<repo>/<commit>/<path>`, or `<mirror>/<file name>` for a URL."""
    if source.url:
        return mirror / path
    return mirror / str(source.repository) / str(source.commit) / path


def fetch_source(source: Source, directory: Path, blobs: Path, mirror: Path | None = None) -> None:
    """Put every file of `source` at `directory/<path>`.

    Each file is taken from the cache `blobs/<sha256>`, else from `mirror`, else from its URL. Its SHA-256 is always
    checked. An interrupted call keeps what it has: finished files in `blobs`, the beginning of an unfinished one in
    `blobs/<sha256>.part`, continued with an HTTP Range request. `directory` appears only when complete.

    Raises:
        DownloadError: a file is in neither cache nor mirror and cannot be downloaded, or has another SHA-256.
    """
    blobs.mkdir(parents=True, exist_ok=True)
    wanted = _wanted(source, mirror)
    with Progress(source.title, len(source.files), "files") as progress, _session() as session:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            jobs = {pool.submit(_fetch, one, blobs, session): one for one in wanted}
            try:
                for job in as_completed(jobs):
                    count = progress.cached if job.result() else progress.done
                    count(len(jobs[job].paths))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        with atomic_directory(directory) as temporary:
            for path, sha256 in source.files.items():
                link_or_copy(blobs / sha256, temporary / path)


def _wanted(source: Source, mirror: Path | None) -> list[_Wanted]:
    """One entry per content: files of equal content are fetched once."""
    paths: dict[str, list[str]] = {}
    for path, sha256 in source.files.items():
        paths.setdefault(sha256, []).append(path)
    return [
        _Wanted(sha256, file_url(source, same[0]), mirror and mirror_path(source, same[0], mirror), tuple(same))
        for sha256, same in paths.items()
    ]


def _session() -> requests.Session:
    """A session that retries refused and throttled requests, waiting longer each time."""
    retry = Retry(
        total=RETRIES, backoff_factor=BACKOFF_SECONDS, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=CONNECTIONS))
    return session


def _fetch(wanted: _Wanted, blobs: Path, session: requests.Session) -> bool:
    """Make `blobs/<sha256>` exist; True when it was there already."""
    if valid_blob(blobs, wanted.sha256):
        return True
    if wanted.mirror and wanted.mirror.is_file():
        _take_from_mirror(wanted, wanted.mirror, blobs)
        return False
    with _part_file(blobs, wanted.sha256) as part:
        if not valid_blob(blobs, wanted.sha256):  # another job may have finished it meanwhile
            _download(wanted, part, session)
            part.rename(blobs / wanted.sha256)
    return False


def _take_from_mirror(wanted: _Wanted, path: Path, blobs: Path) -> None:
    found = sha256_file(path)
    if found != wanted.sha256:
        raise DownloadError(
            f"Mirror file {path} has SHA-256 {found}, expected {wanted.sha256}.",
            "Replace it by the pinned version, or delete it so that it is downloaded.",
        )
    copy_file(path, blobs / wanted.sha256)


@contextlib.contextmanager
def _part_file(blobs: Path, sha256: str) -> Iterator[Path]:
    """The `.part` file of a content, kept for a later resume; a private one while another job writes the shared one."""
    part = blobs / f"{sha256}.part"
    with part.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            private = False
        except OSError:
            private = True
            part = blobs / f"{sha256}.{time.monotonic_ns()}.part"
            part.touch()
        try:
            yield part
        finally:
            if part.exists() and (private or part.stat().st_size == 0 or (blobs / sha256).exists()):
                part.unlink()


def _download(wanted: _Wanted, part: Path, session: requests.Session) -> None:
    """Fill `part` from the URL, continuing what it holds; raises `DownloadError`, having emptied a wrong file."""
    resumed = part.stat().st_size > 0
    _fill(wanted, part, session)
    found = sha256_file(part)
    if found != wanted.sha256 and resumed:  # what was there before may have been the wrong part
        part.write_bytes(b"")
        _fill(wanted, part, session)
        found = sha256_file(part)
    if found != wanted.sha256:
        part.write_bytes(b"")
        raise DownloadError(
            f"{wanted.url} has SHA-256 {found}, expected {wanted.sha256}.",
            "Try again later; if it persists, the file was changed upstream: put the pinned version into the mirror.",
        )


def _fill(wanted: _Wanted, part: Path, session: requests.Session) -> None:
    """Request until the body is complete: a connection that breaks midway is continued where it broke."""
    for attempt in range(1, RESUMES + 1):
        try:
            return _request(wanted, part, session)
        except requests.HTTPError as error:
            raise _unreachable(wanted, f"HTTP {error.response.status_code}") from error
        except requests.RequestException as error:
            retried = error.args and isinstance(error.args[0], MaxRetryError)
            if retried or attempt == RESUMES:
                raise _unreachable(wanted, _reason(error)) from error
            _log.warning("%s broke off at byte %d (%s).", wanted.url, part.stat().st_size, _reason(error))
            time.sleep(BACKOFF_SECONDS)
    raise AssertionError("unreachable")


def _request(wanted: _Wanted, part: Path, session: requests.Session) -> None:
    offset = part.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with session.get(wanted.url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is left to fetch; the SHA-256 tells whether the part is the file
        response.raise_for_status()
        continues = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        resume = response.status_code == requests.codes.partial_content and continues
        if resume:
            _log.info("Continuing %s at byte %d.", wanted.url, offset)
        with part.open("ab" if resume else "wb") as handle:
            for chunk in response.iter_content(CHUNK_BYTES):
                handle.write(chunk)


def _reason(error: Exception) -> str:
    """The innermost message of a network error, without the nesting of requests and urllib3."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", None) or inner)


def _unreachable(wanted: _Wanted, reason: str) -> DownloadError:
    mirror = f"the mirror has no such file ({wanted.mirror})" if wanted.mirror else "no mirror is set"
    return DownloadError(
        f"{wanted.paths[0]} could not be downloaded from {wanted.url} ({reason}) and {mirror}.",
        "Set MJD_MIRROR or the configuration key mirror to a directory that holds it "
        "(<owner>/<repo>/<commit>/<path>, or the archive's file name), or connect to the network.",
    )
