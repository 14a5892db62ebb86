"""Interrupted runs end their jobs and leave no lock; two runs of one results directory do not do one job twice.

The tests share a results directory, as the interruptions of one user's run would.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from mjd.io import read_parquet
from tests.workflow.conftest import ROOT, Run, command

TARGET = "scores/smollm2/human-all-explicit.parquet"
# Items scored, and their prompts: half a minute's work, so that no machine is done before it is interrupted.
N_ITEMS, N_PROMPTS = 20, 20 * 144


@pytest.fixture(scope="module")
def config(tiny_llm: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny local scorer, slow enough to be interrupted."""
    folder = tmp_path_factory.mktemp("interrupted")
    slow = {"prefix_tree": False, "tokens_per_pass": 256}
    return {
        **tiny_llm,
        "results_dir": str(folder / "results"),
        "llms": {"smollm2": tiny_llm["llms"]["smollm2"] | slow},
        "scoring": {"orders": "all"},
        "limit": N_ITEMS,
    }


@contextlib.contextmanager
def started(config: dict[str, Any], output: Path, at: str = "lock") -> Iterator[subprocess.Popen[str]]:
    """Snakemake in a session of its own, its scoring job at work: holding its lock, or `scoring`."""
    begun = time.time()
    with output.open("w", encoding="utf-8") as stream:
        run = subprocess.Popen(
            command("--cores", "1", "--rerun-incomplete", f"{config['results_dir']}/{TARGET}", config=config),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            text=True,
            start_new_session=True,
        )
        try:
            wait_for(lambda: run.poll() is not None or any(lock.stat().st_mtime > begun for lock in locks(config)))
            if at == "scoring":
                wait_for(lambda: run.poll() is not None or "scoring uses" in log(config))
            assert run.poll() is None, output.read_text(encoding="utf-8")
            assert job_processes(run)
            yield run
        finally:
            kill_all(run)


def locks(config: dict[str, Any]) -> list[Path]:
    return list(Path(config["results_dir"]).glob("store/locks/scores/smollm2/*.lock"))


def log(config: dict[str, Any]) -> str:
    path = Path(config["results_dir"]) / "logs/score/smollm2/human-all-explicit.log"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def job_processes(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a run that work on its scoring job."""
    found = []
    for child in psutil.Process(run.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "score.py" in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill_all(run: subprocess.Popen[str]) -> None:
    """Kill a run with its jobs, the jobs first: they would end of themselves, and tidy up, without their parent."""
    if run.poll() is None:
        for child in psutil.Process(run.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        run.kill()
    run.wait()


def is_python(process: psutil.Process) -> bool:
    return "python" in Path(process.exe()).name


def n_kept(config: dict[str, Any]) -> int:
    """Scores on disk."""
    chunks = Path(config["results_dir"]).glob("store/scores/smollm2/*/chunk-*.parquet")
    return sum(pq.read_metadata(path).num_rows for path in chunks)


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def is_over(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("number", "at"), [(signal.SIGTERM, "scoring"), (signal.SIGHUP, "lock"), (signal.SIGINT, "lock")]
)
def test_signal_to_snakemake_alone_ends_its_job_and_leaves_no_lock(
    config: dict[str, Any], tmp_path: Path, snakemake: Run, number: signal.Signals, at: str
) -> None:
    results = Path(config["results_dir"])
    with started(config, tmp_path / "output.txt", at) as run:
        jobs = job_processes(run)
        if at == "scoring":
            job = next(one for one in jobs if is_python(one))
            used = job.cpu_times().user
            wait_for(lambda: job.cpu_times().user > used + 2)
        run.send_signal(number)
        run.wait(timeout=60)
        wait_for(lambda: all(map(is_over, jobs)), 10)
    assert run.returncode != 0
    assert "stopped by SIG" in log(config)
    assert not (results / TARGET).exists()
    assert not [path for path in (results / "scores").rglob("*") if path.is_file()]
    # Nothing to unlock; what was scored is kept.
    assert "cannot be locked" not in snakemake("-n", f"{results}/{TARGET}", config=config).stderr
    assert at == "lock" or n_kept(config) > 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_killed_snakemake_takes_its_job_along(config: dict[str, Any], tmp_path: Path, snakemake: Run) -> None:
    with started(config, tmp_path / "output.txt") as run:
        jobs = job_processes(run)
        run.kill()
        wait_for(lambda: all(map(is_over, jobs)), 30)
    assert "is gone: this job ends too" in log(config)
    assert snakemake("--unlock", config=config).returncode == 0


def test_second_run_of_one_results_directory_is_refused_and_names_the_first(
    config: dict[str, Any], tmp_path: Path, snakemake: Run
) -> None:
    with started(config, tmp_path / "output.txt") as run:
        (job,) = [one for one in job_processes(run) if is_python(one)]
        job.suspend()  # holding its lock, however long the second run takes
        target = f"{config['results_dir']}/{TARGET}"
        # As from another working directory: without Snakemake's own lock.
        second = snakemake("--cores", "1", "--nolock", "--ignore-incomplete", target, config=config)
        assert second.returncode != 0
        assert f"is being done by process {job.pid} on" in second.stderr
        assert run.poll() is None
    assert snakemake("--unlock", config=config).returncode == 0


def test_run_whose_processes_were_killed_goes_on_where_it_was(
    config: dict[str, Any], tmp_path: Path, snakemake: Run
) -> None:
    """Its locks were left behind; scores are on disk after ten seconds at the latest."""
    with started(config, tmp_path / "output.txt", "scoring") as run:
        wait_for(lambda: n_kept(config) > 0)
        kill_all(run)
    kept, target = n_kept(config), f"{config['results_dir']}/{TARGET}"
    assert locks(config)
    assert snakemake("--unlock", config=config).returncode == 0
    quick = {"smollm2": config["llms"]["smollm2"] | {"prefix_tree": True, "tokens_per_pass": 4096}}
    done = snakemake("--cores", "1", "--rerun-incomplete", target, config=config | {"llms": quick})
    assert done.returncode == 0, done.stderr
    last = re.findall(r"(\d+) done, (\d+) cached, 0 failed of (\d+) prompts", log(config))[-1]
    assert [int(n) for n in last] == [N_PROMPTS - kept, kept, N_PROMPTS]
    assert len(read_parquet(target)) == N_PROMPTS
    assert not locks(config)
