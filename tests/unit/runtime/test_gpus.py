"""GPUs: found without torch, counted for a run, and one job's alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mjd.backends.devices import resolve_device
from mjd.config.files import load_config
from mjd.errors import ConfigError, ModelError
from mjd.runtime import gpus
from mjd.runtime.gpus import find_gpus, limit_gpus, take_gpus
from tests.unit.config.test_schema import llm, values
from tests.workflow.conftest import ROOT

TAKE = """
import os, sys
from mjd.runtime.gpus import take_gpus
take_gpus(int(sys.argv[1]), "auto", "llms.x")
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


def nvidia_smi(folder: Path, listing: str, status: int = 0) -> Path:
    """A stand-in for NVIDIA's program, which prints `listing`."""
    folder.mkdir(exist_ok=True)
    (folder / "listing").write_text(listing)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n/bin/cat {folder}/listing\nexit {status}\n")
    program.chmod(0o755)
    return folder


def listed(n: int) -> str:
    return "".join(f"GPU {i}: NVIDIA H100 (UUID: GPU-{i}a2b-c3)\n" for i in range(n))


@pytest.fixture
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that lists four GPUs."""
    folder = nvidia_smi(tmp_path / "bin", listed(4))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(gpus, "_held", [])
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # noted, so that it is taken back: the tests' own process sets it
        monkeypatch.delenv(name)
    return folder


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ("0", "1", "2", "3")),
        ("", ()),
        ("-1", ()),
        ("2,0", ("2", "0")),
        ("0,7,1", ("0",)),
        ("1,1", ("1",)),
        ("GPU-3a2b", ("GPU-3a2b",)),
        ("0,-1,2", ("0",)),
    ],
)
def test_gpus_are_those_that_cuda_would_show(four: Path, visible: str | None, names: tuple[str, ...]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = find_gpus(environment)
    assert found.names == names
    assert all(name.startswith("GPU-") for name in found.machine_names)


def test_parts_of_a_cut_up_gpu_count_one_each(four: Path) -> None:
    parts = "".join(f"  MIG 1g.10gb Device {i}: (UUID: MIG-{i}f)\n" for i in range(3))
    nvidia_smi(four, "GPU 0: NVIDIA H100 (UUID: GPU-9)\n" + parts)
    assert find_gpus({}).names == ("MIG-0f", "MIG-1f", "MIG-2f")


def test_machine_without_gpus_has_none(four: Path) -> None:
    nvidia_smi(four, "No devices found.\n")
    assert len(find_gpus({})) == 0


def test_driver_that_fails_is_no_gpu(four: Path) -> None:
    nvidia_smi(four, "NVIDIA-SMI has failed\n", status=9)
    assert len(find_gpus({})) == len(list(Path("/dev").glob("nvidia[0-9]*")))


@pytest.mark.parametrize(
    ("given", "found", "limit"), [(None, 4, 4), (2, 4, 2), (8, 4, 8), (2, None, 2), (None, None, None)]
)
def test_limit_is_the_users_else_this_machines(given: int | None, found: int | None, limit: int | None) -> None:
    assert limit_gpus({"llms.a": 2, "encoders.b": 0}, given, found) == limit


@pytest.mark.parametrize(
    ("given", "found", "there"),
    [
        (None, 0, "this machine has 0"),
        (0, 4, "`--resources gpu=0` allows 0"),
        (2, None, "`--resources gpu=2` allows 2"),
    ],
)
def test_job_that_asks_for_more_gpus_than_there_are_is_refused(
    given: int | None, found: int | None, there: str
) -> None:
    with pytest.raises(ConfigError, match=rf"llms\.llama\.resources\.gpu is 4, but {there}"):
        limit_gpus({"llms.small": 0, "llms.llama": 4}, given, found)


def taking(n: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": tempfile.gettempdir()}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", TAKE, str(n)], env=environment, **pipes)  # type: ignore[call-overload, no-any-return]


def test_jobs_side_by_side_get_different_gpus(four: Path) -> None:
    jobs = [taking(2), taking(1), taking(1)]
    shown = [job.stdout.readline().strip().split(",") for job in jobs]  # type: ignore[union-attr]
    try:
        assert sorted(map(len, shown)) == [1, 1, 2]
        assert sorted(name for names in shown for name in names) == ["0", "1", "2", "3"]
        jobs[0].kill()
        jobs[0].wait()
        take_gpus(2, "auto", "llms.x")  # the kernel gave them back
        assert os.environ["CUDA_VISIBLE_DEVICES"].split(",") == sorted(shown[0])
        assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    finally:
        for job in jobs:
            job.kill()
            job.wait()


def test_gpus_that_a_batch_system_chose_stay(four: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    take_gpus(2, "cuda", "llms.x")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,3"


def test_job_that_sees_fewer_gpus_than_it_asks_for_is_refused(four: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ModelError, match=r"llms\.x\.resources\.gpu is 1, but this job sees no GPUs"):
        take_gpus(1, "auto", "llms.x")
    take_gpus(1, "cpu", "llms.x")
    take_gpus(0, "auto", "llms.x")


def test_device_auto_of_a_job_with_gpus_is_never_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(ModelError, match=r"resources\.gpu is 2, but PyTorch .* can use no GPU here"):
        resolve_device("auto", gpus=2)


def test_more_parallel_gpus_than_the_job_asks_for_are_refused() -> None:
    entry = llm(engine="vllm", vllm={"tensor_parallel": 4}, resources={"gpu": 2})
    with pytest.raises(ConfigError, match=r"vllm\.tensor_parallel is 4, but resources\.gpu is 2"):
        load_config(values() | {"llms": {"smollm2": entry}})
