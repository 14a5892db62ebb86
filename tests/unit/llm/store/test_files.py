"""Replies of local engines in Parquet files: shared directories, earlier versions, interrupted jobs."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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


def test_page_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    add(scores(tmp_path), *(f"key {n}" for n in range(500)))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 200 + content[204:])
    with pytest.raises(DataError, match=rf"{path.name} is not a readable Parquet file .*Delete it and run again"):
        scores(tmp_path)


def test_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "chunk-1.parquet").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"chunk-1\.parquet does not exist"):
        scores(tmp_path)


def test_answers_are_not_read_as_scores(tmp_path: Path) -> None:
    files = LocalAnswers(tmp_path)
    files.add("key", INFO, QUESTION, ANSWER)
    files.flush()
    with pytest.raises(DataError, match=r"chunk-\w+\.parquet lacks column 'mass': it holds no replies of this kind"):
        scores(tmp_path)


def test_scores_of_the_first_version_lack_columns(tmp_path: Path) -> None:
    rows = {"key": ["one"], "scores": [[1.0, 2.0]], "mass": [0.5]}
    pq.write_table(pa.table(rows), tmp_path / "chunk-1.parquet")
    assert scores(tmp_path).look_up(["one"]) == {"one": Scored((1.0, 2.0), "logit", 0.5, Usage(0))}


def test_directory_that_cannot_be_made_is_an_error_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/scores cannot be written .*choose another results_dir"):
        scores(tmp_path / "file" / "scores")


def test_replies_before_a_long_pass_are_on_disk_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mjd.llm.store.files.SECONDS_PER_FILE", 0.2)
    files = scores(tmp_path)
    files.add("one", INFO, REQUEST, SCORE)
    files.add("two", INFO, REQUEST, SCORE)
    deadline = time.monotonic() + 10
    while n_replies(tmp_path) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert n_replies(tmp_path) == 2


def test_replies_that_a_full_disk_does_not_take_are_kept_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files = scores(tmp_path)
    files.add("one", INFO, REQUEST, SCORE)
    with monkeypatch.context() as patch:
        patch.setattr("mjd.llm.store.files.pq.write_table", full)
        with pytest.raises(DataError, match=r"No space left on device.*Free space on its disk"):
            files.flush()
    files.flush()
    assert set(scores(tmp_path).look_up(["one"])) == {"one"}


def test_compaction_that_is_cut_off_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = scores(tmp_path)
    add(files, "one")
    add(files, "two")
    removed: list[Path] = []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if "chunk-" in path.name and not path.name.startswith("."):
            if removed:
                raise KeyboardInterrupt
            removed.append(path)
        os.remove(path) if path.exists() else None

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            files.compact()
    assert len(list(tmp_path.iterdir())) == 2
    again = scores(tmp_path)
    again.compact()
    assert len(list(tmp_path.iterdir())) == 1
    assert set(scores(tmp_path).look_up(["one", "two"])) == {"one", "two"}


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
