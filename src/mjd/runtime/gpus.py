"""The GPUs of this machine, found without torch; jobs beside one another each get their own.

Snakemake counts `gpu` only where `--resources gpu=N` gives a number: without one it would start all jobs at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mjd.errors import ConfigError, ModelError
from mjd.runtime.locks import NO_LOCKS

log = logging.getLogger("mjd")

# Variables that hide GPUs from a process, the first that is set counts: NVIDIA's, AMD's.
_VISIBLE = {"nvidia": ("CUDA_VISIBLE_DEVICES",), "amd": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")}
_NVIDIA_SMI_SECONDS = 30


@dataclass(frozen=True)
class Gpus:
    """GPUs that a process may use: their names in its variable, and their names on this machine, for locks."""

    variable: str
    names: tuple[str, ...] = ()
    machine_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def find_gpus(environment: Mapping[str, str] | None = None) -> Gpus:
    """The GPUs that a process in `environment` (its own by default) can use, as the variables that hide some say."""
    given = os.environ if environment is None else environment
    for kind, found in (("nvidia", _nvidia()), ("amd", _amd())):
        if found:
            variable = next((name for name in _VISIBLE[kind] if name in given), _VISIBLE[kind][0])
            return _visible(variable, given.get(variable), found)
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return Gpus("", ("mps",), ("mps",))
    return Gpus(_VISIBLE["nvidia"][0])


def _visible(variable: str, value: str | None, found: Sequence[str]) -> Gpus:
    """Those of the machine's GPUs that a variable names, as CUDA reads it: up to the first that does not exist."""
    if value is None:
        indices = tuple(map(str, range(len(found))))
        # Of GPUs that are cut up (MIG) a process uses one part, by its name.
        return Gpus(variable, tuple(found) if found[0].startswith("MIG-") else indices, tuple(found))
    names: list[str] = []
    machine: list[str] = []
    for name in filter(None, (part.strip() for part in value.split(","))):
        if name.isdigit() and int(name) < len(found):
            one = found[int(name)]
        else:
            one = next((other for other in found if not name.isdigit() and other.startswith(name)), "")
        if not one or one in machine:
            break
        names.append(name)
        machine.append(one)
    return Gpus(variable, tuple(names), tuple(machine))


def _nvidia() -> list[str]:
    """UUIDs of NVIDIA's GPUs, or of their MIG parts; numbers where only their device files tell of them."""
    program = shutil.which("nvidia-smi")
    if program:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [program, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True
            )
            parts = re.findall(r"UUID: (MIG-[^\s)]+)", done.stdout)
            return parts or re.findall(r"UUID: (GPU-[^\s)]+)", done.stdout)
    return [path.name for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def _amd() -> list[str]:
    """Identifiers of AMD's GPUs from the kernel driver; its processors have 0."""
    found = []
    for path in sorted(Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")):
        with contextlib.suppress(OSError):
            number = path.read_text().strip()
            if number != "0":
                found.append(f"amd-{number}")
    return found


# -- Snakemake's own process ------------------------------------------------------------------------------------------


def limit_gpus(asked: Mapping[str, int], given: int | None, found: int | None) -> int | None:
    """How many GPUs the jobs of a run may use together; None where nothing limits them.

    Args:
        asked: GPUs that each entry of the configuration asks for a job, by its key.
        given: `--resources gpu=N`; None without.
        found: GPUs of this machine; None where jobs run elsewhere.

    Raises:
        ConfigError: a job asks for more than there are: Snakemake would start it with fewer, or never.
    """
    limit = found if given is None else given
    if limit is None:
        return None
    for key, wanted in asked.items():
        if wanted > limit:
            there = f"`--resources gpu={given}` allows {given}" if given is not None else f"this machine has {found}"
            raise ConfigError(
                f"{key}.resources.gpu is {wanted}, but {there}.",
                "Set it to the GPUs that there are (0 asks for none), run where they are (a cluster's executor, "
                "another machine), or correct the number with `--resources gpu=N`.",
            )
    return limit


# -- jobs -----------------------------------------------------------------------------------------------------------

# Locks of GPUs in use, for as long as this process lives.
_held: list[IO[str]] = []


def take_gpus(wanted: int, device: str, key: str) -> None:
    """Let this process see `wanted` GPUs that no other job of mjd on this machine uses, before any library starts them.

    Nothing is hidden where no more are visible: a batch system has chosen them already.

    Args:
        device: the configured device; `cpu` takes none.
        key: the configuration's entry, for errors.

    Raises:
        ModelError: fewer are visible: the job would run on the CPU, or on fewer than it was planned for.
    """
    if not wanted or device in ("cpu", "mps"):
        return
    there = find_gpus()
    if len(there) < wanted:
        raise ModelError(
            f"{key}.resources.gpu is {wanted}, but this job sees {len(there) or 'no'} GPU{'s' * (len(there) != 1)} "
            f"({there.variable} is {os.environ.get(there.variable, 'not set')}).",
            "Run it where they are, or set resources.gpu to what there is (0 asks for none).",
        )
    if not there.variable or there.names == ("mps",):
        return
    free = [i for i, name in enumerate(there.machine_names) if _take(name, wanted)][:wanted]
    if len(there) == wanted:
        return
    if len(free) < wanted:
        log.warning("%d of %d GPUs are in use by other jobs: some are shared.", len(there) - len(free), len(there))
        free += [i for i in range(len(there)) if i not in free][: wanted - len(free)]
    if there.variable not in os.environ and there.variable.startswith("CUDA"):
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # that of nvidia-smi, whose names are locked
    os.environ[there.variable] = ",".join(there.names[i] for i in sorted(free))
    log.info("%s=%s", there.variable, os.environ[there.variable])


def _take(name: str, wanted: int) -> bool:
    """Lock one GPU for this process, unless it holds `wanted` already or another process holds it."""
    if len(_held) >= wanted:
        return False
    directory = Path(tempfile.gettempdir()) / f"mjd-gpus-{os.getuid()}"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = open(directory / re.sub(r"[^\w-]", "_", name), "a", encoding="utf-8")  # noqa: SIM115 -- held on purpose
    except OSError as error:
        log.warning("GPUs cannot be locked (%s): jobs beside this one may use the same.", error)
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        return error.errno in NO_LOCKS
    _held.append(lock)
    return True
