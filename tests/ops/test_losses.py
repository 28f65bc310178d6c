"""Reductions per member: by hand, and blind to padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgzoo.ops.distributions import Categorical
from pgzoo.ops.losses import (
    actor_critic_loss,
    clip_fraction,
    clipped_surrogate,
    log_mean_exp,
    standardize,
    weighted_mean,
    weighted_std,
    weighted_sum,
)
from pgzoo.types import Batch, Hyper, Inputs, Output

X = torch.tensor([[[1.0, 2.0, 6.0, 99.0]], [[5.0, 99.0, 99.0, 99.0]], [[99.0] * 4]])
W = torch.tensor([[[1.0, 1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0, 0.0]], [[0.0] * 4]])
"""Members with three rows, one and none."""


def test_by_hand() -> None:
    assert weighted_sum(X, W).tolist() == [9, 5, 0]
    assert weighted_mean(X, W).tolist() == [3, 5, 0]
    # deviations -2, -1, 3: (4 + 1 + 9) / 3
    assert weighted_std(X, W).tolist() == pytest.approx([(14 / 3) ** 0.5, 0, 0])
    assert standardize(X, W)[0, 0, :3].tolist() == pytest.approx([d / (14 / 3) ** 0.5 for d in (-2, -1, 3)])


def test_one_row_has_no_deviation_and_is_standardized_to_zero() -> None:
    assert standardize(X, W)[1, 0, 0] == 0


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
    assert torch.equal(standardize(x, weights), standardize(longer, longer_weights)[..., :rows])


def test_gradients_reach_weighted_rows_only() -> None:
    x = X.clone().requires_grad_()
    weighted_mean(x, W).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_the_log_of_a_mean_of_exponentials_doesnt_overflow_and_sees_weighted_rows_only() -> None:
    x = torch.tensor([[[1000.0, 1001.0, 5000.0]], [[0.0, 5000.0, 5000.0]]])
    w = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    assert log_mean_exp(x, w).tolist() == pytest.approx([1000 + math.log((1 + math.e) / 2), 0.0])


def test_a_surrogate_is_clipped_only_where_it_would_gain() -> None:
    ratio, advantages = torch.tensor([[[1.1, 1.5, 0.5, 0.5, 1.5]]]), torch.tensor([[[1.0, 1.0, 1.0, -1.0, -1.0]]])
    found = clipped_surrogate(ratio, advantages, torch.full((1, 1, 1), 0.2))
    assert found.flatten().tolist() == pytest.approx([1.1, 1.2, 0.5, -0.8, -1.5])
    assert clip_fraction(ratio, torch.full((1, 1, 1), 0.2), torch.ones_like(ratio)).item() == pytest.approx(4 / 5)


def test_an_actor_critics_loss_has_half_its_critics_error_and_lacks_the_bonus() -> None:
    def row(*values: float) -> torch.Tensor:
        return torch.tensor([[values]])

    batch = Batch(
        inputs=Inputs(row(0, 0, 0)),
        actions=row(0, 0, 0),
        timestep=row(0, 0, 0),
        advantages=row(0, 0, 0),
        returns=row(1, 3, 99),
        weights=row(1, 1, 0),
        values=row(1, 2, 0),
    )
    hyper = Hyper({"value_coef": row(0.5), "entropy_coef": row(0.1)})
    output = Output(Categorical(torch.zeros(1, 1, 3, 2)), value=row(3, 1, 0))
    found = actor_critic_loss(torch.tensor([2.0]), output, batch, hyper, {"policy/kl": torch.tensor([7.0])})
    # errors 2 and -2, a coin's entropy; G - V is 0 and 1, and G varies four times as much
    assert found.value.item() == pytest.approx(2 + 0.5 * 2 - 0.1 * math.log(2))
    assert {name: metric.item() for name, metric in found.metrics.items()} == pytest.approx(
        {
            "loss/policy": 2,
            "loss/value": 2,
            "policy/entropy": math.log(2),
            "policy/kl": 7,
            "value/explained_variance": 3 / 4,
        }
    )
