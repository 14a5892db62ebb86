"""Downloads: cache, mirror, network; resume; every failure says what to do."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mjd.data import download
from mjd.data.download import fetch_source, file_url, mirror_path
from mjd.errors import DownloadError
from mjd.registry import Source

BODY = bytes(range(256)) * 400
COMMIT = "0" * 40


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@dataclass
class Site:
    """What the local server answers, and what it was asked."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cut_after: int | None = None
    failures: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Handler(BaseHTTPRequestHandler):
    def __init__(self, site: Site, *args: object) -> None:
        self.site = site
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.site.requests.append((self.path, wanted))
        body = self.site.files.get(self.path)
        if self.site.failures:
            self.site.failures -= 1
            return self.send_error(503)
        if body is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.site.ranges else 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        cut, self.site.cut_after = self.site.cut_after, None
        self.wfile.write(body[start:][:cut])
        return None


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site))
    site.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "source"


def archive(site: Site, body: bytes = BODY) -> Source:
    """A one-file source served at /data.zip, expected to be BODY."""
    site.files["/data.zip"] = body
    return Source(title="archive", license="none", url=f"{site.url}/data.zip", files={"data.zip": sha256(BODY)})


def repository(files: dict[str, bytes]) -> Source:
    return Source(
        title="repo",
        license="none",
        repository="owner/name",
        commit=COMMIT,
        files={path: sha256(body) for path, body in files.items()},
    )


def test_source_file_has_its_url_and_mirror_path(tmp_path: Path) -> None:
    repo = repository({"a dir/x.json": b"x"})
    assert file_url(repo, "a dir/x.json") == f"https://raw.githubusercontent.com/owner/name/{COMMIT}/a%20dir/x.json"
    assert mirror_path(repo, "a dir/x.json", tmp_path) == tmp_path / "owner/name" / COMMIT / "a dir/x.json"
    single = Source(title="t", license="l", url="https://example.org/a/x.zip", files={"x.zip": sha256(b"x")})
    assert file_url(single, "x.zip") == "https://example.org/a/x.zip"
    assert mirror_path(single, "x.zip", tmp_path) == tmp_path / "x.zip"


def test_download_is_checked_and_cached(site: Site, out: Path, blobs: Path) -> None:
    source = archive(site)
    fetch_source(source, out, blobs)
    assert (out / "data.zip").read_bytes() == BODY
    assert sorted(path.name for path in blobs.iterdir()) == [sha256(BODY)]
    site.files.clear()
    fetch_source(source, out, blobs)  # from the cache, in place of the first
    assert len(site.requests) == 1


def test_damaged_cache_is_fetched_again(site: Site, out: Path, blobs: Path) -> None:
    blobs.mkdir()
    (blobs / sha256(BODY)).write_bytes(b"damaged")
    fetch_source(archive(site), out, blobs)
    assert (out / "data.zip").read_bytes() == BODY


def test_download_resumes_a_part_of_an_earlier_call(site: Site, out: Path, blobs: Path) -> None:
    blobs.mkdir()
    (blobs / f"{sha256(BODY)}.part").write_bytes(BODY[:1000])
    fetch_source(archive(site), out, blobs)
    assert (out / "data.zip").read_bytes() == BODY
    assert site.requests == [("/data.zip", "bytes=1000-")]


def test_download_continues_when_the_connection_breaks(
    site: Site, out: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    site.cut_after = 5000
    fetch_source(archive(site), out, blobs)
    assert (out / "data.zip").read_bytes() == BODY
    assert [wanted for _, wanted in site.requests] == [None, "bytes=5000-"]


def test_download_starts_over_where_the_server_knows_no_ranges(site: Site, out: Path, blobs: Path) -> None:
    site.ranges = False
    blobs.mkdir()
    (blobs / f"{sha256(BODY)}.part").write_bytes(BODY[:1000])
    fetch_source(archive(site), out, blobs)
    assert (out / "data.zip").read_bytes() == BODY


@pytest.mark.parametrize("stale", [b"something else", BODY + b"too long"])
def test_download_starts_over_after_a_wrong_part(site: Site, out: Path, blobs: Path, stale: bytes) -> None:
    blobs.mkdir()
    (blobs / f"{sha256(BODY)}.part").write_bytes(stale)
    fetch_source(archive(site), out, blobs)
    assert (out / "data.zip").read_bytes() == BODY


def test_complete_part_needs_no_body(site: Site, out: Path, blobs: Path) -> None:
    blobs.mkdir()
    (blobs / f"{sha256(BODY)}.part").write_bytes(BODY)
    fetch_source(archive(site), out, blobs)
    assert len(site.requests) == 1


def test_download_from_a_busy_server_is_retried(site: Site, out: Path, blobs: Path) -> None:
    site.failures = 2
    fetch_source(archive(site), out, blobs)
    assert len(site.requests) == 3


def test_wrong_content_is_an_error_and_leaves_nothing(site: Site, out: Path, blobs: Path) -> None:
    with pytest.raises(DownloadError, match=rf"data\.zip has SHA-256 {sha256(b'other')}, expected {sha256(BODY)}\."):
        fetch_source(archive(site, b"other"), out, blobs)
    assert not out.exists()
    assert list(blobs.iterdir()) == []


def test_file_that_is_not_found_names_url_and_cure(site: Site, out: Path, blobs: Path) -> None:
    source = archive(site)
    site.files.clear()
    with pytest.raises(DownloadError, match=r"data\.zip \(HTTP 404\) and no mirror is set\. Set MJD_MIRROR"):
        fetch_source(source, out, blobs)


def test_mirror_comes_before_the_network(site: Site, out: Path, blobs: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "data.zip").write_bytes(BODY)
    fetch_source(archive(site), out, blobs, mirror)
    assert (out / "data.zip").read_bytes() == BODY
    assert site.requests == []


def test_bad_mirror_file_is_not_passed_over(site: Site, out: Path, blobs: Path, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"stale")
    with pytest.raises(
        DownloadError, match=rf"Mirror file {tmp_path}/data\.zip has SHA-256 .*, expected {sha256(BODY)}"
    ):
        fetch_source(archive(site), out, blobs, tmp_path)
    assert site.requests == []


def test_download_with_neither_network_nor_mirror_names_the_cure(
    out: Path, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(download, "RAW_URL", f"http://127.0.0.1:{port}/{{repository}}/{{commit}}/{{path}}")
    source = repository({"x.json": b"x"})
    with pytest.raises(
        DownloadError, match=r"x\.json could not be downloaded .*refused.* and no mirror is set.*connect"
    ):
        fetch_source(source, out, blobs)
    with pytest.raises(DownloadError, match=rf"the mirror has no such file \({tmp_path}/owner/name/{COMMIT}/x\.json\)"):
        fetch_source(source, out, blobs, tmp_path)
    assert list(blobs.iterdir()) == []


def test_many_files_survive_an_interruption(
    site: Site, out: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RAW_URL", site.url + "/{path}")
    files = {f"raw/{number}/E": f"answer {number}".encode() for number in range(50)}
    files["raw/twin/E"] = files["raw/0/E"]
    source = repository(files)
    site.files = {f"/{path}": body for path, body in files.items() if path != "raw/49/E"}
    with pytest.raises(DownloadError, match="raw/49/E"):
        fetch_source(source, out, blobs)
    assert not out.exists()
    fetched = {path.name for path in blobs.iterdir()}
    site.files["/raw/49/E"] = files["raw/49/E"]
    site.requests.clear()
    fetch_source(source, out, blobs)
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("E")} == files
    assert len(site.requests) == 50 - len(fetched)  # equal contents are fetched once
