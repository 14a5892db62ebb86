"""Where models run: device names to torch devices, and the number of CPU threads."""

from __future__ import annotations

import torch

from mjd.errors import ModelError


def resolve_device(name: str = "auto") -> torch.device:
    """The torch device of a config's `device`: auto, cpu, cuda or mps.

    `auto` is the first CUDA device, else Apple's GPU (mps), else the CPU. Results are reproducible bit for bit on one
    CPU type with one number of threads; GPU kernels may differ in the last digits between runs.

    Raises:
        ModelError: the device does not exist on this machine.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
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
