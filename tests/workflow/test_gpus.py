"""Jobs that ask for GPUs: as many at a time as this machine has them for, or a clear refusal."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runtime.test_gpus import listed, nvidia_smi
from tests.workflow.conftest import PLUGINS, ROOT, Run

VARIANTS = ("none-all-plain", "human-all-explicit")


def config(tmp_path: Path, gpu: int) -> dict[str, Any]:
    """A scorer that asks for GPUs."""
    places = {"results_dir": str(tmp_path / "results"), "downloads_dir": str(tmp_path / "downloads")}
    return {**places, "limit": 2, "llms": {"smollm2": {"resources": {"gpu": gpu, "threads": 1}}}}


def most_at_a_time(log: str) -> int:
    """The most scoring jobs that Snakemake had under way together."""
    running = most = 0
    for event in re.findall(r"^Job \d+: smollm2 scores|Finished jobid: \d+ \(Rule: score\)", log, re.MULTILINE):
        running += -1 if event.startswith("Finished") else 1
        most = max(most, running)
    return most


@pytest.mark.parametrize(("there", "given", "together"), [(4, [], 1), (8, [], 2), (4, ["--resources", "gpu=8"], 2)])
def test_jobs_of_four_gpus_start_as_there_are_gpus_for_them(
    snakemake: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: int,
    given: list[str],
    together: int,
) -> None:
    monkeypatch.setenv("PATH", f"{nvidia_smi(tmp_path / 'bin', listed(there))}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{PLUGINS}{os.pathsep}{ROOT / 'src'}")
    own = config(tmp_path, 4)
    targets = [f"{own['results_dir']}/scores/smollm2/{variant}.parquet" for variant in VARIANTS]
    done = snakemake("--executor", "pretend", "--cores", "4", *targets, *given, config=own)
    assert done.returncode == 0, done.stderr
    assert most_at_a_time(done.stderr + done.stdout) == together, json.dumps(done.stderr)


def test_machine_without_gpus_refuses_a_job_that_asks_for_some(
    snakemake: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{nvidia_smi(tmp_path / 'bin', '')}:{os.environ['PATH']}")
    own = config(tmp_path, 1)
    target = f"{own['results_dir']}/scores/smollm2/none-all-plain.parquet"
    done = snakemake("--cores", "1", target, config=own)
    assert done.returncode != 0
    assert "llms.smollm2.resources.gpu is 1, but this machine has 0" in done.stderr
    assert not (tmp_path / "results" / "data").exists()
    assert snakemake("-n", target, config=own).returncode == 0
