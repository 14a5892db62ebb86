"""Replies of local engines in Parquet files: shared directories, earlier versions, interrupted jobs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mjd.errors import DataError
from mjd.llm.base import Generated, GenerateRequest, Message, Scored, ScoreRequest, Usage, request_key
from mjd.llm.fake import FakeEngine
from mjd.llm.store.files import LocalAnswers, LocalScores, n_replies
from mjd.llm.store.paid import PaidReplies
from mjd.llm.store.replies import Store

INFO = FakeEngine().info
SCORE = Scored((1.0, 2.0), "logit", 0.5, Usage(0), None, "A")
REQUEST = ScoreRequest((Message("user", "x"),), ("A", "B"))
ANSWER = Generated("- because", "stop", Usage(7, 3))
QUESTION = GenerateRequest((Message("user", "Why?"),), 8)


def scores(directory: Path) -> LocalScores:
    return LocalScores(directory, "logit")


def add(files: LocalScores, *keys: str) -> None:
    for key in keys:
        files.add(key, INFO, REQUEST, SCORE)
    files.flush()


def test_two_jobs_that_compact_one_directory_keep_the_replies_of_both(tmp_path: Path) -> None:
    add(scores(tmp_path), "before")
    first, second = scores(tmp_path), scores(tmp_path)
    add(first, "one")
    add(second, "two")
    first.compact()
    add(second, "three")
    second.compact()
    first.compact()
    found = scores(tmp_path).look_up(["before", "one", "two", "three"])
    assert set(found) == {"before", "one", "two", "three"}
    assert n_replies(tmp_path) == 4


@pytest.mark.slow
def test_two_processes_that_compact_one_directory_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tests.unit.llm.store.test_files import add, scores\n"
        "from pathlib import Path\n"
        "for n in range(40):\n"
        "    files = scores(Path(sys.argv[1]))\n"
        "    add(files, f'{sys.argv[2]}-{n}')\n"
        "    files.compact()\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", "."])}
    jobs = [subprocess.Popen([*arguments, name], env=environment) for name in ("a", "b")]
    assert [job.wait(timeout=120) for job in jobs] == [0, 0]
    assert n_replies(tmp_path) == 80


def test_compacted_directory_holds_one_file(tmp_path: Path) -> None:
    files = scores(tmp_path)
    add(files, "one")
    add(files, "two")
    files.compact()
    assert len(list(tmp_path.iterdir())) == 1
    assert scores(tmp_path).look_up(["one", "two"]) == {"one": SCORE, "two": SCORE}


def test_answers_are_found_again_with_their_tokens(tmp_path: Path) -> None:
    files = LocalAnswers(tmp_path)
    files.add("key", INFO, QUESTION, ANSWER)
    files.compact()
    assert LocalAnswers(tmp_path).look_up(["key", "other"]) == {"key": ANSWER}


def test_damaged_file_of_replies_is_named(tmp_path: Path) -> None:
    (tmp_path / "chunk-1.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match=r"chunk-1\.parquet is not a readable Parquet file"):
        scores(tmp_path)


# -- answers that earlier versions kept in the response store ------------------------------------------------------


def store_of_earlier_version(path: Path) -> str:
    """A store with one answer of a local engine; returns its key."""
    key = request_key(INFO, QUESTION)
    with Store(path) as store:
        PaidReplies(store).add(key, INFO, QUESTION, ANSWER)
    return key


def test_answers_of_an_earlier_version_are_found_in_the_store_which_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    key = store_of_earlier_version(path)
    before = path.read_bytes()
    assert LocalAnswers(tmp_path / "new", earlier=path).look_up([key, "other"]) == {key: ANSWER}
    assert path.read_bytes() == before


def test_store_in_a_directory_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.sqlite"
    key = store_of_earlier_version(path)
    connect = sqlite3.connect

    def read_only_mount(address: str, **how: object) -> sqlite3.Connection:
        """What SQLite does with a write-ahead log whose shared memory cannot be made."""
        db = connect(address, **how)
        if "immutable" not in address:
            db.close()
            raise sqlite3.OperationalError("unable to open database file")
        return db

    monkeypatch.setattr("mjd.llm.store.replies.sqlite3.connect", read_only_mount)
    assert LocalAnswers(tmp_path / "new", earlier=path).look_up([key]) == {key: ANSWER}


def test_local_answers_without_an_earlier_store_make_none(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    files = LocalAnswers(tmp_path / "new", earlier=path)
    assert files.look_up(["key"]) == {}
    files.add("key", INFO, QUESTION, ANSWER)
    files.compact()
    assert not path.exists()
