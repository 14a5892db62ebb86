"""The response store: whole or refused, shared between writers, and looked after by `mjd store`."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from mjd.cli import main
from mjd.errors import DataError
from mjd.io import read_parquet
from mjd.llm.base import EngineInfo, Generate, Message, Score, Usage, request_key
from mjd.llm.store.ledger import Ledger
from mjd.llm.store.maintenance import stats
from mjd.llm.store.replies import Store, one_at_a_time, record_key, request_record
from tests.unit.runtime.test_caches import READ_ONLY, can_mount
from tests.workflow.conftest import ROOT

INFO = EngineInfo("fake", "1", "fake-model", (("dtype", "float32"),))


def requests(n: int, start: int = 0) -> list[Generate | Score]:
    """Alternating answers and scores."""
    texts = [(Message("user", f"question {i}"),) for i in range(start, start + n)]
    return [Score(m, ("A", "B")) if i % 2 else Generate(m, 8) for i, m in enumerate(texts)]


def fill(path: Path, n: int = 200, start: int = 0, info: EngineInfo = INFO) -> list[str]:
    """Put n replies in, one transaction each, as engines do; returns their keys."""
    asked = requests(n, start)
    keys = [request_key(info, request) for request in asked]
    with Store(path) as store:
        for key, request in zip(keys, asked, strict=True):
            store.put([(key, request_record(info, request), {"text": "x" * 200})])
    return keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


def test_a_store_is_made_when_first_used(path: Path) -> None:
    with Store(path) as store:
        assert not path.exists()
        assert len(store) == 0
    assert path.exists()


def test_a_stored_request_gives_its_key_again() -> None:
    for request in requests(2):
        assert record_key(request_record(INFO, request)) == request_key(INFO, request)
        assert record_key(json.loads(json.dumps(request_record(INFO, request)))) == request_key(INFO, request)


def test_the_first_reply_stays(path: Path) -> None:
    with Store(path) as first, Store(path) as second:
        first.put([("k", {"letters": []}, {"scores": [1.0]})])
        second.put([("k", {"letters": []}, {"scores": [2.0]}), ("l", {"letters": []}, {"scores": [3.0]})])
        assert first.get(["k", "l", "m"]) == {"k": {"scores": [1.0]}, "l": {"scores": [3.0]}}


@pytest.mark.slow
def test_concurrent_writers_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=fill, args=(path, 60, 60 * i)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with Store(path) as store:
        assert len(store) == 180


@pytest.mark.slow
def test_kill_9_loses_no_stored_reply(path: Path) -> None:
    writer = multiprocessing.get_context("spawn").Process(target=fill, args=(path, 100_000))
    writer.start()
    deadline = time.monotonic() + 60
    seen = 0
    while seen < 20:
        assert time.monotonic() < deadline, "the writer wrote nothing"
        if path.exists():
            with Store(path) as store:
                seen = len(store)
        time.sleep(0.05)  # a reader that never pauses holds the writer back
    os.kill(writer.pid or 0, signal.SIGKILL)
    writer.join()
    with Store(path) as store:
        assert len(store) >= seen
    assert main(["store", "verify", str(path)]) == 0


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_store_is_refused_and_left_alone(path: Path, share: float) -> None:
    fill(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    before = path.read_bytes()
    with Store(path) as store, pytest.raises(DataError, match=r"answers\.sqlite cannot be used.*restore it"):
        store.get(["k"])
    assert path.read_bytes() == before


def test_a_store_with_a_damaged_page_is_refused_and_left_alone(path: Path) -> None:
    fill(path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 4096] = b"\xff" * 4096
    path.write_bytes(damaged)
    with Store(path) as store, pytest.raises(DataError, match="cannot be used"):
        store.put([("k", {}, {})])
    assert path.read_bytes() == bytes(damaged)


def test_another_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE things (name TEXT)")
    with Store(path) as store, pytest.raises(DataError, match="no table of replies"):
        len(store)


def test_a_store_of_the_first_version_is_read(path: Path) -> None:
    with sqlite3.connect(path) as old:
        old.execute(
            "CREATE TABLE replies (key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL, "
            "created REAL NOT NULL) WITHOUT ROWID"
        )
        old.execute("INSERT INTO replies VALUES ('k', '{}', '{\"text\": \"t\"}', 0)")
    with Store(path) as store:
        assert store.get(["k"]) == {"k": {"text": "t"}}


def test_jobs_of_one_paid_model_take_turns(path: Path) -> None:
    with one_at_a_time(path, "api:m"), one_at_a_time(path, "api:other"):
        locks = sorted(path.parent.glob("*.lock"))
        assert len(locks) == 2
        with open(locks[0], "w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with one_at_a_time(path, "api:m"):
        pass


# -- mjd store -----------------------------------------------------------------------------------------------------


def test_stats_counts_by_model_and_kind(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(path, 5)
    assert main(["store", "stats", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "5 replies" in said[0]
    assert [line.split()[:4] for line in said[1:]] == [["3", "answers", "fake", "1"], ["2", "scores", "fake", "1"]]


def test_verify_names_a_row_that_was_changed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = fill(path, 3)
    assert main(["store", "verify", str(path)]) == 0
    with sqlite3.connect(path) as db:
        db.execute("UPDATE replies SET request = replace(request, 'question', 'answer') WHERE key = ?", (keys[1],))
    assert main(["store", "verify", str(path)]) == 1
    assert keys[1] in capsys.readouterr().err


def test_export_holds_every_reply(path: Path, tmp_path: Path) -> None:
    keys = fill(path, 7)
    assert main(["store", "export", str(path), str(tmp_path / "out.parquet")]) == 0
    table = read_parquet(tmp_path / "out.parquet")
    assert sorted(table["key"]) == sorted(keys)
    row = table.set_index("key").loc[keys[0]]
    assert (row["model"], row["kind"], json.loads(row["reply"])) == ("fake-model", "Generate", {"text": "x" * 200})
    assert json.loads(row["request"]) == json.loads(json.dumps(asdict(requests(1)[0])))


def test_prune_removes_only_what_fits(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(path, 4)
    kept = fill(path, 3, info=EngineInfo("fake", "1", "other-model"))
    assert main(["store", "prune", str(path), "--model", "fake-model", "--dry-run"]) == 0
    assert main(["store", "prune", str(path), "--model", "fake-model"]) == 0
    assert capsys.readouterr().out.count("4 replies") == 2
    with Store(path) as store:
        assert sorted(key for key, *_ in store.rows()) == sorted(kept)


def test_prune_needs_a_condition(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(path, 1)
    assert main(["store", "prune", str(path)]) == 1
    assert "prune needs a condition" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--key", "--text", "--model", "--engine"])
def test_prune_with_an_empty_condition_removes_nothing(
    path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a variable of the shell that is unset gives it."""
    fill(path, 3)
    assert main(["store", "prune", str(path), option, ""]) == 1
    assert f"empty {option}" in capsys.readouterr().err
    with Store(path) as store:
        assert len(store) == 3


def test_a_store_that_does_not_exist_is_an_error(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "stats", str(path)]) == 1
    assert not path.exists()
    assert "no response store" in capsys.readouterr().err


def test_a_locked_store_is_not_called_damaged(path: Path) -> None:
    fill(path, 1)
    with Store(path) as store:
        store.db.execute("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataError, match=r"database is locked\)\. What it holds is kept\. Another process"):
            store.put([("k", {}, {})])
        other.close()
        store.put([("k", {}, {})])


def test_a_full_disk_is_not_called_damage_and_the_store_goes_on(path: Path) -> None:
    fill(path, 1)
    with Store(path) as store:
        (pages,) = store.db.execute("PRAGMA page_count").fetchone()
        store.db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DataError, match=r"is full\)\. What it holds is kept\. Free space"):
            store.put([("big", {}, {"text": "x" * 100_000})])
        store.db.execute(f"PRAGMA max_page_count = {pages + 100}")
        store.put([("big", {}, {"text": "x" * 100_000})])
        assert len(store) == 2


def test_a_transaction_that_fails_leaves_nothing(path: Path) -> None:
    def fail(store: Store) -> None:
        with store.transaction() as db:
            db.execute("INSERT INTO replies VALUES ('k', '{}', '{}', 0)")
            raise KeyError

    with Store(path) as store:
        with pytest.raises(KeyError):
            fail(store)
        assert len(store) == 0
        store.put([("k", {}, {})])


def test_a_store_of_an_earlier_version_gets_the_later_columns_and_keeps_its_spending(path: Path) -> None:
    with sqlite3.connect(path) as old:
        old.executescript(
            """CREATE TABLE replies (key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL,
                   created REAL NOT NULL) WITHOUT ROWID;
               CREATE TABLE spending (model TEXT PRIMARY KEY, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
                   completion_tokens INTEGER NOT NULL, usd REAL NOT NULL) WITHOUT ROWID;
               CREATE TABLE batches (id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, server_id TEXT, keys TEXT NOT NULL,
                   created REAL NOT NULL) WITHOUT ROWID;
               INSERT INTO spending VALUES ('api:m', 3, 30, 3, 0.5);
               INSERT INTO batches VALUES ('b', 'https://a/v1', 'batch-1', '["k"]', 0);"""
        )
    with Store(path) as store:
        ledger = Ledger(store, "api:m", None, None)
        ledger.book(Usage(10, 1), estimated=True)
        assert store.db.execute("SELECT * FROM spending").fetchall() == [("api:m", 4, 40, 4, 0.5, 1)]
        (batch,) = ledger.open_batches("https://a/v1")
        assert (batch.keys, batch.requests) == (("k",), {})
    with Store(path) as again:
        assert "4 requests (1 estimated: without usage)" in stats(again)


@pytest.mark.parametrize(
    ("chosen", "n"),
    [
        (["--text", "question 3"], 1),
        (["--text", "question 1", "--kind", "score"], 6),
        (["--kind", "answer"], 10),
        (["--text", "no such text"], 0),
    ],
)
def test_prune_removes_single_replies(path: Path, chosen: list[str], n: int, capsys: pytest.CaptureFixture) -> None:
    fill(path, 20)
    assert main(["store", "prune", str(path), *chosen, "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == n + 1
    with Store(path) as store:
        assert len(store) == 20
    assert main(["store", "prune", str(path), *chosen]) == 0
    with Store(path) as store:
        assert len(store) == 20 - n


def test_prune_by_key_shows_and_removes_that_reply(path: Path, capsys: pytest.CaptureFixture) -> None:
    key = fill(path, 20)[3]
    main(["store", "prune", str(path), "--key", key[:12], "--dry-run"])
    assert capsys.readouterr().out.startswith(f"{key[:12]} score  fake-model  ...'question 3' -> 'xxx")
    main(["store", "prune", str(path), "--key", key[:12].upper()])
    with Store(path) as store:
        assert (len(store), store.get([key])) == (19, {})


@pytest.mark.parametrize(
    ("code", "name", "cure"),
    [
        (sqlite3.SQLITE_PROTOCOL, "locking protocol", "local disk"),
        (sqlite3.SQLITE_IOERR_SHMMAP, "disk I/O error", "local disk"),
        (sqlite3.SQLITE_IOERR_LOCK, "disk I/O error", "local disk"),
        (sqlite3.SQLITE_CANTOPEN, "unable to open database file", "readable and writable"),
        (sqlite3.SQLITE_READONLY, "attempt to write a readonly database", "Make it writable"),
        (sqlite3.SQLITE_NOMEM, "out of memory", "Free memory"),
        (sqlite3.SQLITE_INTERNAL, "internal error", "Run again"),
    ],
)
def test_error_that_is_no_damage_never_advises_to_move_replies_away(
    path: Path, code: int, name: str, cure: str
) -> None:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = code
    found = Store(path).unusable(error)
    assert name in found.problem
    assert cure in found.cure
    assert "move it away" not in str(found)


@pytest.mark.skipif(not can_mount(), reason="needs to mount")
def test_store_on_a_read_only_disk_is_refused_before_anything_is_asked(path: Path) -> None:
    with Store(path) as store:
        store.check_writable()
    mount = READ_ONLY.format(directories=path.parent)
    program = (
        "from mjd.errors import DataError\nfrom mjd.llm.store.replies import Store\n"
        f"for name in ('{path}', '{path.parent}/new/answers.sqlite'):\n"
        "    try:\n        Store(name).check_writable()\n"
        "    except DataError as error:\n        print(error)\n"
        "    else:\n        raise SystemExit('no error')\n"
    )
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", f'{mount} && exec "$@"', "x", sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "cannot be used" in first
    assert "move it away" not in first
    assert "cannot be written (Read-only file system). Its disk is mounted read-only" in second


def test_store_on_a_file_system_without_hard_links_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    with Store(path) as store:
        store.put([("k", {}, {"text": "kept"})])
        assert store.get(["k"]) == {"k": {"text": "kept"}}
    assert not list(path.parent.glob(".answers*"))
