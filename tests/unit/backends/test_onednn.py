"""Products by oneDNN: PyTorch's values."""

import gc
import weakref

import pytest
import torch

from mjd.backends import onednn


def matrices(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(n)
    shapes = ((n, 5), (7, 5), (n, 7))
    x, weight, added = (torch.randn(shape, generator=random) for shape in shapes)
    return x, weight, added


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("n", [0, 1, 33])
def test_products(monkeypatch: pytest.MonkeyPatch, here: bool, n: int) -> None:
    """With the operators, where this machine has them, and without."""
    if not here:
        monkeypatch.setattr(onednn, "available", lambda: False)
    x, weight, added = matrices(n)
    torch.testing.assert_close(onednn.product(x, weight), x @ weight.t())
    torch.testing.assert_close(onednn.product(x, weight, added), x @ weight.t() + added)
    values = weight.t().contiguous()
    torch.testing.assert_close(onednn.product(added, values), added @ weight)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_keep_their_values_and_weights(bias: bool) -> None:
    layer = torch.nn.Linear(5, 7, bias=bias)
    model = torch.nn.Sequential(layer, torch.nn.ReLU())
    x = matrices(4)[0]
    with torch.inference_mode():
        before = model(x[None])
        names = list(model.state_dict())
        onednn.use_in_linear_layers(model)
        torch.testing.assert_close(model(x[None]), before)
        torch.testing.assert_close(model(x[:0]), before[0, :0])
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
def test_gradients_are_pytorchs(bias: bool, shape: tuple[int, ...]) -> None:
    layer = torch.nn.Linear(5, 7, bias=bias)
    x = matrices(6)[0].reshape(shape).requires_grad_()
    found = {}
    for way in ("pytorch", "onednn"):
        if way == "onednn":
            onednn.use_in_linear_layers(layer)
        layer.zero_grad()
        x.grad = None
        layer(x).square().sum().backward()
        found[way] = [x.grad, *(parameter.grad for parameter in layer.parameters())]
    for ours, theirs in zip(found["onednn"], found["pytorch"], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_frozen_weights_get_no_gradient() -> None:
    layer = torch.nn.Linear(5, 7).requires_grad_(False)
    onednn.use_in_linear_layers(layer)
    x = matrices(2)[0].requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


def test_other_types_are_pytorchs() -> None:
    layer = torch.nn.Linear(5, 7).to(torch.bfloat16)
    onednn.use_in_linear_layers(layer)
    assert layer(matrices(2)[0].bfloat16()).dtype == torch.bfloat16


def test_weights_are_freed_with_the_model() -> None:
    layer = torch.nn.Linear(5, 7)
    onednn.use_in_linear_layers(layer)
    weight = weakref.ref(layer.weight)
    gc.disable()
    try:
        del layer
        assert weight() is None
    finally:
        gc.enable()
