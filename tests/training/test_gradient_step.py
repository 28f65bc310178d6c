"""A gradient step writes its result into the memory of the gradient."""

from __future__ import annotations

import torch

from pgzoo.ops.optim import PIECE, clip_by_member_norm, make_optimizer
from pgzoo.training.gradient_step import step_over_gradient


def test_a_large_finite_gradient_is_overwritten_by_a_bit_identical_step() -> None:
    optimizer, rate, limit = make_optimizer("adam"), torch.tensor([0.1, 0.2]), torch.tensor([0.5, 1e9])
    vector, gradient = torch.randn(2, PIECE), torch.randn(2, PIECE)
    state = optimizer.init(vector)
    clipped, norm = clip_by_member_norm(gradient, limit)
    expected, remembered = optimizer.step(vector, clipped, state, rate)
    moved, after, left, norm_before = step_over_gradient(optimizer, vector, gradient, state, rate, limit)
    assert moved is gradient and torch.equal(moved, expected) and torch.equal(norm_before, norm)
    assert all(torch.equal(after[name], leaf) for name, leaf in remembered.items())
    assert left.shape == vector.shape and not left.any()


def test_a_non_finite_gradient_is_kept() -> None:
    optimizer, rate = make_optimizer("adam"), torch.tensor([0.1])
    vector, gradient = torch.zeros(1, PIECE + 1), torch.zeros(1, PIECE + 1)
    gradient[0, 7] = torch.nan
    moved, _, left, _ = step_over_gradient(optimizer, vector, gradient, optimizer.init(vector), rate, None)
    assert moved is not gradient and left is gradient and gradient[0, 7].isnan()
