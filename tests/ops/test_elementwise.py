"""Elementwise functions: the same values as torch, and bit-identical results in tensors of any size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pgzoo.ops import elementwise

PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sigmoid": (elementwise.sigmoid, torch.sigmoid),
    "softplus": (elementwise.softplus, F.softplus),
    "log_one_minus": (lambda x: elementwise.log_one_minus(torch.sigmoid(x)), lambda x: torch.log1p(-torch.sigmoid(x))),
    "silu": (elementwise.silu, F.silu),
    "gelu": (elementwise.gelu, lambda x: F.gelu(x, approximate="tanh")),
    "elu": (elementwise.elu, F.elu),
}
X = torch.linspace(-6, 6, 2048)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_match_torch(name: str) -> None:
    ours, torchs = PAIRS[name]
    torch.testing.assert_close(ours(X), torchs(X), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(gradient(ours, X), gradient(torchs, X), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "silu", "gelu", "elu"])
@pytest.mark.parametrize("size", [1, 3, 8, 15, 17, 33, 100])
def test_results_are_bit_identical_for_tensors_of_any_size(name: str, size: int) -> None:
    ours = PAIRS[name][0]
    pieces = X.split(size)
    assert torch.equal(torch.cat([ours(piece.clone()) for piece in pieces]), ours(X))
    assert torch.equal(torch.cat([gradient(ours, piece) for piece in pieces]), gradient(ours, X))


@pytest.mark.parametrize("function", [torch.exp, torch.log, torch.expm1, torch.tanh])
@pytest.mark.parametrize("size", [1, 3, 8, 15, 17, 33, 100])
def test_some_torch_functions_are_already_bit_identical_for_any_size(
    function: Callable[[Tensor], Tensor], size: int
) -> None:
    x = X + 6.1  # positive
    assert torch.equal(torch.cat([function(piece.clone()) for piece in x.split(size)]), function(x))


@pytest.mark.parametrize("x", [-1e4, -100.0, 100.0, 1e4])
@pytest.mark.parametrize("name", ["sigmoid", "softplus", "silu", "elu"])
def test_large_numbers_give_finite_values_and_gradients(name: str, x: float) -> None:
    ours, torchs = PAIRS[name]
    one = torch.tensor([x])
    torch.testing.assert_close(ours(one), torchs(one))
    assert gradient(ours, one).isfinite().all()
