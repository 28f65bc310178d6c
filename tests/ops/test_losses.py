"""Reductions per member: by hand, and blind to padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgzoo.ops.losses import standardise, weighted_mean, weighted_std, weighted_sum

X = torch.tensor([[[1.0, 2.0, 6.0, 99.0]], [[5.0, 99.0, 99.0, 99.0]], [[99.0] * 4]])
W = torch.tensor([[[1.0, 1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0, 0.0]], [[0.0] * 4]])
"""Members with three rows, one and none."""


def test_by_hand() -> None:
    assert weighted_sum(X, W).tolist() == [9, 5, 0]
    assert weighted_mean(X, W).tolist() == [3, 5, 0]
    # deviations -2, -1, 3: (4 + 1 + 9) / 3
    assert weighted_std(X, W).tolist() == pytest.approx([(14 / 3) ** 0.5, 0, 0])
    assert standardise(X, W)[0, 0, :3].tolist() == pytest.approx([d / (14 / 3) ** 0.5 for d in (-2, -1, 3)])


def test_one_row_has_no_deviation_and_is_standardised_to_zero() -> None:
    assert standardise(X, W)[1, 0, 0] == 0


def test_sequences_are_reduced_over_time_and_rows() -> None:
    x = torch.arange(12.0).reshape(1, 3, 4)
    assert weighted_mean(x, torch.ones_like(x)).tolist() == [5.5]


@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_rows_without_weight_change_no_bit(rows: int, padding: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, more = torch.randn(2, 1, rows, generator=rng), torch.randn(2, 1, padding, generator=rng)
    weights = torch.ones_like(x)
    longer, longer_weights = torch.cat([x, more], -1), torch.cat([weights, torch.zeros_like(more)], -1)
    for reduce in (weighted_sum, weighted_mean, weighted_std):
        assert torch.equal(reduce(x, weights), reduce(longer, longer_weights))
    assert torch.equal(standardise(x, weights), standardise(longer, longer_weights)[..., :rows])


def test_gradients_reach_weighted_rows_only() -> None:
    x = X.clone().requires_grad_()
    weighted_mean(x, W).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
