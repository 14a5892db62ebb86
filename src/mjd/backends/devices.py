"""Where models run: device names to torch devices, the number of CPU threads, and what becomes of freed memory."""

from __future__ import annotations

import contextlib
import ctypes

import torch

from mjd.errors import ModelError


def resolve_device(name: str = "auto", gpus: int = 0) -> torch.device:
    """The torch device of a config's `device`: auto, cpu, cuda or mps.

    `auto` is the first CUDA device, else Apple's GPU (mps), else the CPU. Results are reproducible bit for bit on one
    CPU type with one number of threads; GPU kernels may differ in the last digits between runs.

    Args:
        gpus: GPUs that the job asks for (`resources.gpu`): with any, `auto` never is the CPU.

    Raises:
        ModelError: the device does not exist on this machine.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto" and gpus and not (present["cuda"] or present["mps"]):
        raise ModelError(
            f"resources.gpu is {gpus}, but PyTorch {torch.__version__} can use no GPU here.",
            "Install a PyTorch built for this machine's GPUs and driver, or set resources.gpu: 0, or device: cpu.",
        )
    if name == "auto":
        return torch.device(next(kind for kind, here in present.items() if here))
    if not present.get(name.partition(":")[0], False):
        available = ", ".join(kind for kind, here in present.items() if here)
        raise ModelError(
            f"Device {name!r} is not available here (available: {available}).",
            "Set device: auto, or run on a machine that has it.",
        )
    return torch.device(name)


def set_threads(n: int) -> None:
    """Use `n` CPU threads inside torch operations (a rule's `threads`).

    Raises:
        ValueError: `n` is smaller than 1.
    """
    if n < 1:
        raise ValueError(f"threads must be at least 1, not {n}")
    torch.set_num_threads(n)


# Parameters of glibc's mallopt (malloc.h), and a value that is larger than any tensor and fits its int.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 2**30


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors; does nothing where the C library is not glibc.

    By default memory of large tensors goes back to the system, which clears it page by page for the next ones: a tenth
    of the time of training and scoring on CPUs.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, _LARGE)
        libc.mallopt(_MMAP_THRESHOLD, _LARGE)
