"""How PyTorch's threads wait, and that importing mjd decides nothing of the kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mjd.runtime.threads import thread_environment

ROOT = Path(__file__).parents[3]

# Other libraries set variables when they are imported (scikit-learn does): they come first.
IMPORT_ALL = """
import importlib, os, pkgutil, sys
import accelerate, dcor, loky, matplotlib.pyplot, openai, sklearn.metrics, torch, transformers
before = dict(os.environ)
import mjd
names = [module.name for module in pkgutil.walk_packages(mjd.__path__, "mjd.")]
for name in names:
    importlib.import_module(name)
assert len(names) > 80, names
changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
sys.exit(f"changed: {sorted(changed)}" if changed else 0)
"""


@pytest.mark.slow
def test_importing_every_module_of_mjd_changes_no_environment_variable() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        env=environment | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_thread_environment_lets_waiting_threads_sleep_unless_the_user_chose() -> None:
    assert thread_environment({"HOME": "/"}) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert thread_environment({"OMP_WAIT_POLICY": "ACTIVE"}) == {}
