"""Jobs know how PyTorch's threads are to wait before PyTorch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT

# A job of its own beside the project's: its script imports PyTorch first of all.
PROBE = """

rule probe:
    output:
        "probe.txt",
    script:
        "probe.py"
"""
SCRIPT = """
import torch
import os

with open(snakemake.output[0], "w") as file:
    file.write(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("chosen", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_job_that_imports_pytorch_has_the_wait_policy_before(
    tmp_path: Path, chosen: dict[str, str], policy: str
) -> None:
    (tmp_path / "Snakefile").write_text((ROOT / "Snakefile").read_text() + PROBE)
    (tmp_path / "probe.py").write_text(SCRIPT)
    for name in ("src", "workflow", "config", "resources"):
        (tmp_path / name).symlink_to(ROOT / name)
    given = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "probe.txt"],
        cwd=tmp_path,
        env=given | chosen | {"OMP_DISPLAY_ENV": "TRUE"},  # OpenMP prints what it has read
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "probe.txt").read_text() == policy
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
