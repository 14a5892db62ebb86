"""Interrupted runs end their jobs and leave no lock; two runs of one results directory do not do one job twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mjd.io import read_parquet
from tests.unit.tiny_llms import save_tiny_llm
from tests.workflow.conftest import ROOT, Run, command

TARGET = "scores/smollm2/human-all-explicit.parquet"


@pytest.fixture
def config(tmp_path: Path) -> dict[str, object]:
    """A tiny local scorer, slow enough to be interrupted."""
    model = save_tiny_llm(tmp_path / "tiny")
    return {
        "results_dir": str(tmp_path / "results"),
        "downloads_dir": str(tmp_path / "downloads"),
        "models": {"tiny": {"local": str(model)}},
        "llms": {"smollm2": {"model": "tiny", "prefix_tree": False, "tokens_per_pass": 256}},
        "scoring": {"orders": "all"},
    }


@contextlib.contextmanager
def started(config: dict[str, object], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Snakemake in a session of its own, its scoring job at work."""
    target = f"{config['results_dir']}/{TARGET}"
    with open(tmp_path / "output.txt", "w", encoding="utf-8") as output:
        run = subprocess.Popen(
            command("--cores", "1", target, config=config),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
        try:
            wait_for(lambda: "prompts/s" in log(config) or "plain batches" in log(config) or bool(locks(config)))
            wait_for(lambda: bool(job_processes(run)))
            assert run.poll() is None, (tmp_path / "output.txt").read_text()
            yield run
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()


def locks(config: dict[str, object]) -> list[Path]:
    return list(Path(str(config["results_dir"])).glob("store/locks/scores/smollm2/*.lock"))


def log(config: dict[str, object]) -> str:
    path = Path(str(config["results_dir"])) / "logs/score/smollm2/human-all-explicit.log"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def job_processes(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a run that work on its scoring job."""
    found = []
    for child in psutil.Process(run.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "score.py" in " ".join(child.cmdline()):
                found.append(child)
    return found


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def is_over(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_to_snakemake_alone_ends_its_job_and_leaves_no_lock(
    config: dict[str, object], tmp_path: Path, snakemake: Run, number: signal.Signals
) -> None:
    with started(config, tmp_path) as run:
        jobs = job_processes(run)
        run.send_signal(number)
        run.wait(timeout=60)
        wait_for(lambda: all(map(is_over, jobs)), 10)
    assert run.returncode != 0
    assert "stopped by SIG" in log(config)
    results = Path(str(config["results_dir"]))
    assert not (results / TARGET).exists()
    assert not [path for path in (results / "scores").rglob("*") if path.is_file()]
    # Nothing to unlock; what was scored is kept.
    assert "cannot be locked" not in snakemake("-n", f"{results}/{TARGET}", config=config).stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_killed_snakemake_takes_its_job_along(config: dict[str, object], tmp_path: Path) -> None:
    with started(config, tmp_path) as run:
        jobs = job_processes(run)
        run.kill()
        wait_for(lambda: all(map(is_over, jobs)), 30)
    assert "is gone: this job ends too" in log(config)


def test_second_run_of_one_results_directory_is_refused_and_names_the_first(
    config: dict[str, object], tmp_path: Path, snakemake: Run
) -> None:
    with started(config, tmp_path) as run:
        wait_for(lambda: bool(locks(config)))
        (job,) = [one for one in job_processes(run) if "python" in Path(one.exe()).name]
        target = f"{config['results_dir']}/{TARGET}"
        # As from another working directory: without Snakemake's own lock.
        second = snakemake("--cores", "1", "--nolock", "--ignore-incomplete", target, config=config)
        assert second.returncode != 0
        assert f"is being done by process {job.pid} on" in second.stderr
        assert run.poll() is None
    third = snakemake("--cores", "1", "--nolock", "--ignore-incomplete", target, config=config)
    assert third.returncode == 0, third.stderr
    assert len(read_parquet(target)) > 0
