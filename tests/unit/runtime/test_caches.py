"""Caches in temporary directories where the usual ones cannot be written, with real read-only directories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mjd.runtime.caches import cache_environment, is_writable, temporary_cache
from tests.workflow.conftest import ROOT

READ_ONLY = (
    "mount --make-rprivate / && for d in {directories}; do mount --bind $d $d && mount -o remount,bind,ro $d; done"
)


def can_mount() -> bool:
    """Whether this machine lets the test make directories read-only for a process of its own."""
    if not shutil.which("unshare"):
        return False
    return not subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs to mount")
def test_distance_correlation_in_a_read_only_environment_with_an_unwritable_home_is_computed(tmp_path: Path) -> None:
    """The packages directory holds a small dcor, which numba compiles and keeps as it does the real one's functions."""
    home, tmp, packages = tmp_path / "home", tmp_path / "tmp", tmp_path / "packages"
    for directory in (home, tmp, packages / "dcor"):
        directory.mkdir(parents=True)
    (packages / "dcor/__init__.py").write_text("from dcor.compiled import first as distance_correlation\n")
    (packages / "dcor/compiled.py").write_text(
        "import numba\n\n@numba.njit('float64(float64[:,:], float64[:,:])', cache=True)\n"
        "def first(p, q):\n    return p[0, 0] + q[0, 0]\n"
    )
    program = (
        "import numpy as np\n"
        "from mjd.evaluation.metrics import distance_correlation\n"
        "print(distance_correlation(np.full((2, 3), 0.25), np.full((2, 3), 0.5)))\n"
    )
    mount = READ_ONLY.format(directories=f"{packages} {home}")
    kept = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    path = f"{packages}:{ROOT / 'src'}"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", f'{mount} && exec "$@"', "x", sys.executable, "-c", program],
        env=kept | {"HOME": str(home), "TMPDIR": str(tmp), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 0.75
    assert list(tmp.glob("mjd-numba-*/**/*.nbi"))


def test_caches_that_can_be_written_stay_where_they_are(tmp_path: Path) -> None:
    assert cache_environment({"HOME": str(tmp_path)}) == {}


def test_caches_that_cannot_be_written_are_temporary(tmp_path: Path) -> None:
    file = tmp_path / "no-directory"
    file.write_text("")
    found = cache_environment({"HOME": str(file)})
    assert set(found) == {"XDG_CACHE_HOME", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE", "NUMBA_CACHE_DIR"}
    assert all(is_writable(Path(place)) for place in found.values())
    given = {"HOME": str(file), "XDG_CACHE_HOME": str(tmp_path), "TRITON_CACHE_DIR": str(file)}
    assert set(cache_environment(given)) == {"TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"}


def test_temporary_cache_that_others_may_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = temporary_cache("x")
    assert own == temporary_cache("x") == tmp_path / f"mjd-x-{os.getuid()}"
    own.chmod(0o777)
    assert temporary_cache("x") != own
