"""Float32 matrix products on CPUs by oneDNN.

PyTorch multiplies float32 matrices with MKL where it has both libraries. MKL leaves half of the vector units of some
CPUs unused (AMD's with AVX-512: 220 instead of 490 GFLOP/s on two cores), oneDNN does not. Its operators are reached
by names that PyTorch keeps for its compiler; where they are missing or fail, everything here is plain PyTorch.
Values are those of PyTorch up to rounding.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch.nn.functional import linear

log = logging.getLogger(__name__)


@functools.cache
def available() -> bool:
    """Whether PyTorch's oneDNN operators exist here and give what PyTorch gives."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    random = torch.Generator().manual_seed(1)
    x, weight, added = (torch.randn(shape, generator=random) for shape in ((3, 4), (5, 4), (3, 5)))
    try:
        found = [_linear(x, weight, weight[:, 0].contiguous()), _sum(x, weight.t().contiguous().t(), added)]
        found += [_linear(added, weight.t()), _linear(added.t(), x.t())]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        log.info("Matrix products without oneDNN: %s", error)
        return False
    expected = [linear(x, weight, weight[:, 0]), linear(x, weight) + added, added @ weight, added.t() @ x]
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def _sum(x: torch.Tensor, weight: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, added, weight, None, "add")
    return out


def _fits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a product is oneDNN's: float32, on CPU, not empty."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() > 0
        and available()
    )


def _differentiated(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


class _Linear(torch.autograd.Function):
    """x @ weight.T + bias with oneDNN products in both directions; x is [..., k], weight [m, k]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[0])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _linear(gradient, weight.t()).view(x.shape) if needs_x else None,
            _linear(gradient.t(), x.reshape(-1, x.shape[-1]).t()) if needs_weight else None,
            gradient.sum(0) if needs_bias and ctx.has_bias else None,
        )


def product(x: torch.Tensor, weight: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
    """x @ weight.T + added, for x [n, k], weight [m, k], added [n, m] or None."""
    if not _fits(x, weight) or _differentiated(x, weight):
        return x @ weight.t() if added is None else torch.addmm(added, x, weight.t())
    return _linear(x, weight) if added is None else _sum(x, weight, added)


class OneDnnLinear(torch.nn.Linear):
    """A linear layer that multiplies by oneDNN where it can."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not _fits(input, self.weight):
            return linear(input, self.weight, self.bias)
        if _differentiated(input, self.weight):
            out: torch.Tensor = _Linear.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return out
        return _linear(input, self.weight, self.bias)


def use_in_linear_layers(model: torch.nn.Module) -> None:
    """Make the linear layers of a model on the CPU multiply by oneDNN; weights stay as and where they are."""
    for layer in model.modules():
        if type(layer) is torch.nn.Linear and layer.weight.device.type == "cpu" and available():
            # Another class, and not another `forward` that knows its layer: such a circle would outlive the model.
            layer.__class__ = OneDnnLinear
