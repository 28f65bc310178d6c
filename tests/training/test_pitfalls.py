"""Known mistakes that no other test would notice; the list of all is docs/pitfalls.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgzoo.config import Layer
from pgzoo.ops.losses import kl_estimate, value_loss
from pgzoo.registry import discover
from pgzoo.runs.resolve import resolve
from pgzoo.training.engine import Engine


def test_no_gradient_flows_into_targets(plan: Callable[..., Any]) -> None:
    ctx = Engine(plan("a2c", rollout_steps=5, num_envs=2))
    params = {name: leaf.requires_grad_() for name, leaf in ctx.state.params.items()}
    state, seen = ctx.collect(ctx.state)
    targets = ctx.estimate(
        state._replace(params=params), seen, ctx.evaluate_policy(state._replace(params=params), seen)
    )
    ctx.close()
    assert targets.advantages.abs().sum() > 0
    assert not any(leaf.requires_grad for leaf in targets)


def test_a_critics_loss_is_half_the_squared_error() -> None:
    """Errors 2 and 4, the third row is padding: (4 + 16) / 2 / 2 = 5."""
    values, returns = torch.tensor([[[1.0, 0.0, 9.0]]]), torch.tensor([[[3.0, 4.0, 0.0]]])
    assert value_loss(values, returns, torch.tensor([[[1.0, 1.0, 0.0]]])).tolist() == [5.0]


def test_values_are_not_clipped_unasked() -> None:
    config = resolve([Layer({"algorithm": "ppo", "env": "CartPole-v1"}, ".".join)], discover(inline=False))
    assert config.nested().get("clip_value") is None


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20))
def test_the_estimate_of_the_divergence_is_never_negative(log_ratios: list[float]) -> None:
    log_ratio = torch.tensor([[log_ratios]])
    assert kl_estimate(log_ratio, torch.ones_like(log_ratio)).item() >= -1e-6
    assert kl_estimate(torch.zeros(1, 1, 2), torch.ones(1, 1, 2)).item() == 0
    one = kl_estimate(torch.full((1, 1, 1), 1.0), torch.ones(1, 1, 1))
    assert one.item() == pytest.approx(0.7182818)  # e - 1 - 1


def test_what_was_sampled_is_kept_and_what_is_sent_is_clipped(plan: Callable[..., Any]) -> None:
    """The probe raises at an action out of its space, [-2, 2]."""
    settings = {"env": "probe/AnySpaces-v0", "env_kwargs": {"action": "one"}, "policy": {"log_std": 1.5}}
    ctx = Engine(plan("reinforce", **settings))
    _, seen = ctx.collect(ctx.state)
    ctx.close()
    assert seen.actions[seen.valid].abs().max() > 2
