"""Log files; progress lines: counts, and rates taken at the end of a burst."""

import logging
import time
from pathlib import Path

import pytest

from mjd.logs import Progress, logging_to


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_line_counts_done_cached_failed_and_left(clock: list[float]) -> None:
    with Progress("scoring", 10, "prompts") as progress:
        progress.cached(2)
        clock[0] = 4.0
        progress.done(4)
        progress.failed(1)
        line = progress.line()
    assert line == "scoring: 4 done, 2 cached, 1 failed of 10 prompts (1.00 prompts/s, 0:04 elapsed, 0:03 left)"


def test_log_lines_come_between_bursts(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("scoring", 100, "prompts") as progress:
        for second in (20.0, 40.0):
            clock[0] = second
            for _ in range(10):
                progress.done()
        assert [record.message for record in caplog.records] == [
            "scoring: 0 done, 0 cached, 0 failed of 100 prompts (0.00 prompts/s, 0:00 elapsed)",
            "scoring: 10 done, 0 cached, 0 failed of 100 prompts (0.50 prompts/s, 0:20 elapsed, 3:00 left)",
        ]


def test_steps_without_a_pause_are_logged_all_the_same(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("scoring", 10_000, "prompts") as progress:
        for step in range(1, 6_000):
            clock[0] = step / 100
            progress.done()
        lines = [record.message.split(" of ")[0] for record in caplog.records]
        assert lines == ["scoring: 2999 done, 0 cached, 0 failed"]


def test_a_note_ends_the_line(clock: list[float]) -> None:
    with Progress("scoring", 1, "prompts") as progress:
        progress.note = lambda: "0.0100 USD spent"
        assert progress.line().endswith(", 0.0100 USD spent")


def test_log_that_a_second_run_empties_holds_whole_lines_of_both(tmp_path: Path) -> None:
    path = tmp_path / "rule.log"
    with logging_to(path):
        logging.getLogger("mjd").info("a long line of the first run")
        with logging_to(path):
            logging.getLogger("mjd").info("second")
        logging.getLogger("mjd").info("first again")
    lines = path.read_bytes().splitlines()
    assert b"\0" not in path.read_bytes()
    assert lines[0].endswith(b"mjd: second")
    assert lines[-1].endswith(b"mjd: first again")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_log_on_a_full_disk_is_given_up_and_stderr_keeps_every_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rule.log"
    path.symlink_to("/dev/full")
    with logging_to(path):
        logging.getLogger("mjd").info("first")
        logging.getLogger("mjd").info("second")
    shown = capfd.readouterr().err
    assert "first" in shown
    assert "second" in shown
    assert shown.count("cannot be written (No space left on device)") == 1
    assert "Traceback" not in shown


def test_log_that_cannot_be_made_keeps_nobody_from_working(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with logging_to(tmp_path / "file" / "rule.log"):
        logging.getLogger("mjd").info("first")
    shown = capfd.readouterr().err
    assert "first" in shown
    assert "cannot be written (" in shown
