"""Reductions per member and terms of losses: values computed by hand, and independence of padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pgzoo.ops.distributions import Categorical
from pgzoo.ops.losses import (
    actor_critic_loss,
    center,
    clip_fraction,
    clipped_surrogate,
    kl_estimate,
    log_mean_exp,
    scale,
    standardize,
    weighted_mean,
    weighted_std,
    weighted_sum,
)
from pgzoo.ops.order import sums_in_any_order
from pgzoo.types import Batch, Hyper, Inputs, Output

X = torch.tensor([[[1.0, 2.0, 6.0, 99.0]], [[5.0, 99.0, 99.0, 99.0]], [[99.0] * 4]])
W = torch.tensor([[[1.0, 1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0, 0.0]], [[0.0] * 4]])
"""Weights of the rows of `X`: the members have three rows, one row and no row."""


def test_reductions_match_values_computed_by_hand() -> None:
    assert weighted_sum(X, W).tolist() == [9, 5, 0]
    assert weighted_mean(X, W).tolist() == [3, 5, 0]
    # deviations -2, -1, 3: (4 + 1 + 9) / 3
    assert weighted_std(X, W).tolist() == pytest.approx([(14 / 3) ** 0.5, 0, 0])
    assert standardize(X, W)[0, 0, :3].tolist() == pytest.approx([d / (14 / 3) ** 0.5 for d in (-2, -1, 3)])


def test_fewer_than_two_rows_are_not_standardized() -> None:
    for function in (standardize, center, scale):
        assert torch.equal(function(X, W)[1:], X[1:])  # members with one row, and with none


MAGNITUDES = st.floats(1e-3, 1e9) | st.floats(-1e9, -1e-3)


@given(MAGNITUDES, st.integers(2, 2000))
@settings(deadline=None)
def test_equal_values_are_standardized_and_centered_to_exactly_zero(value: float, rows: int) -> None:
    x = torch.full((1, 1, rows), value)
    for order in (False, True):
        with sums_in_any_order(order):
            assert not standardize(x, torch.ones_like(x)).any()
            assert not center(x, torch.ones_like(x)).any()
            assert torch.equal(scale(x, torch.ones_like(x)), x)


def test_twenty_four_equal_returns_are_standardized_to_zero() -> None:
    """In single precision, the mean of 24 values of -99.3 isn't -99.3, so rounding alone gives a nonzero variance."""
    x = torch.full((1, 1, 24), -99.3)
    assert not standardize(x, torch.ones_like(x)).any()


@given(MAGNITUDES, st.integers(2, 200), st.integers(0, 2**31))
@settings(deadline=None)
def test_values_that_vary_are_standardized_at_any_magnitude(size: float, rows: int, seed: int) -> None:
    x = size * (1 + 0.1 * torch.randn(1, 1, rows, generator=torch.Generator().manual_seed(seed)))
    found, wide = standardize(x, torch.ones_like(x)).double(), x.double()
    assume(wide.std(correction=0) > 0.02 * size)  # rounding and epsilon matter if two rows are close
    torch.testing.assert_close(found, (wide - wide.mean()) / wide.std(correction=0), rtol=1e-3, atol=1e-3)


def test_nonfinite_inputs_give_nonfinite_outputs() -> None:
    weights = torch.ones(1, 1, 3)
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = torch.tensor([[[1.0, 2.0, bad]]])
        for function in (standardize, center, scale):
            assert not torch.isfinite(function(x, weights)).all()
    for function in (standardize, center):
        assert not torch.isfinite(function(torch.full((1, 1, 3), 3e38), weights)).all()  # their sum overflows


@given(st.floats(-5, 5), st.floats(-7, 0))
@settings(deadline=None)
def test_an_estimated_kl_is_never_negative(sign: float, exponent: float) -> None:
    x = torch.full((1, 1, 7), sign * 10.0**exponent)
    assert kl_estimate(x, torch.ones_like(x)).item() >= 0


def test_the_estimated_kl_of_a_small_step_does_not_suffer_cancellation() -> None:
    x = torch.full((1, 1, 4), 1e-3)
    assert kl_estimate(x, torch.ones_like(x)).item() == pytest.approx(0.5e-6 + 1e-9 / 6, rel=1e-3)


def test_sequences_are_reduced_over_time_and_rows() -> None:
    x = torch.arange(12.0).reshape(1, 3, 4)
    assert weighted_mean(x, torch.ones_like(x)).tolist() == [5.5]


@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_rows_with_zero_weight_leave_results_bit_identical(rows: int, padding: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, more = torch.randn(2, 1, rows, generator=rng), torch.randn(2, 1, padding, generator=rng)
    weights = torch.ones_like(x)
    longer, longer_weights = torch.cat([x, more], -1), torch.cat([weights, torch.zeros_like(more)], -1)
    for reduce in (weighted_sum, weighted_mean, weighted_std):
        assert torch.equal(reduce(x, weights), reduce(longer, longer_weights))
    for function in (standardize, center, scale):
        assert torch.equal(function(x, weights), function(longer, longer_weights)[..., :rows])


def test_gradients_reach_weighted_rows_only() -> None:
    x = X.clone().requires_grad_()
    weighted_mean(x, W).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_log_mean_exp_does_not_overflow_and_uses_only_weighted_rows() -> None:
    x = torch.tensor([[[1000.0, 1001.0, 5000.0]], [[0.0, 5000.0, 5000.0]]])
    w = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    assert log_mean_exp(x, w).tolist() == pytest.approx([1000 + math.log((1 + math.e) / 2), 0.0])
    assert log_mean_exp(x, torch.zeros_like(w)).tolist() == [0.0, 0.0]


def test_the_surrogate_is_clipped_only_where_clipping_lowers_it() -> None:
    ratio, advantages = torch.tensor([[[1.1, 1.5, 0.5, 0.5, 1.5]]]), torch.tensor([[[1.0, 1.0, 1.0, -1.0, -1.0]]])
    found = clipped_surrogate(ratio, advantages, torch.full((1, 1, 1), 0.2))
    assert found.flatten().tolist() == pytest.approx([1.1, 1.2, 0.5, -0.8, -1.5])
    assert clip_fraction(ratio, torch.full((1, 1, 1), 0.2), torch.ones_like(ratio)).item() == pytest.approx(4 / 5)


def test_the_actor_critic_loss_adds_the_value_loss_and_subtracts_the_entropy() -> None:
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
    # value errors 2 and -2; the entropy of a coin flip; G - V is 0 and 1, with a quarter of the variance of G
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
