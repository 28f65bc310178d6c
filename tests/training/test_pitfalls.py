"""Known mistakes that no other test would detect; docs/pitfalls.md lists all known mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgzoo.config import Layer
from pgzoo.ops.distributions import DiagonalGaussian
from pgzoo.ops.losses import kl_estimate, value_loss
from pgzoo.registry import discover
from pgzoo.runs.resolve import resolve
from pgzoo.training.engine import Engine
from pgzoo.training.events import UpdateDone


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
    """The errors are 2 and 4, and the third row is padding: (4 + 16) / 2 / 2 = 5."""
    values, returns = torch.tensor([[[1.0, 0.0, 9.0]]]), torch.tensor([[[3.0, 4.0, 0.0]]])
    assert value_loss(values, returns, torch.tensor([[[1.0, 1.0, 0.0]]])).tolist() == [5.0]


def test_values_are_not_clipped_by_default() -> None:
    config = resolve([Layer({"algorithm": "ppo", "env": "CartPole-v1"}, ".".join)], discover(inline=False))
    assert config.nested().get("clip_value") is None


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20))
def test_the_estimate_of_the_kl_divergence_is_never_negative(log_ratios: list[float]) -> None:
    log_ratio = torch.tensor([[log_ratios]])
    assert kl_estimate(log_ratio, torch.ones_like(log_ratio)).item() >= -1e-6
    assert kl_estimate(torch.zeros(1, 1, 2), torch.ones(1, 1, 2)).item() == 0
    one = kl_estimate(torch.full((1, 1, 1), 1.0), torch.ones(1, 1, 1))
    assert one.item() == pytest.approx(0.7182818)  # e - 1 - 1


def test_the_sampled_action_is_stored_and_the_clipped_action_is_sent(plan: Callable[..., Any]) -> None:
    """The environment raises an error for an action outside its action space, [-2, 2]."""
    settings = {"env": "probe/AnySpaces-v0", "env_kwargs": {"action": "one"}, "policy": {"log_std": 1.5}}
    ctx = Engine(plan("reinforce", **settings))
    _, seen = ctx.collect(ctx.state)
    ctx.close()
    assert seen.actions[seen.valid].abs().max() > 2


GAUSSIAN = {"env": "probe/AnySpaces-v0", "env_kwargs": {"action": "one"}, "num_envs": 4}


@pytest.mark.parametrize("change", [0.5, -0.5])
def test_a_kl_penalty_pulls_the_standard_deviation_toward_the_old_one(plan: Callable[..., Any], change: float) -> None:
    """Without advantages, only the penalty moves log σ: d/d(log σ) KL(old || new) = 1 - exp(-2 log(σ/σ_old))."""
    ctx = Engine(plan("ppo", kl_coef=2.0, rollout_steps=8, **GAUSSIAN))
    state, seen = ctx.collect(ctx.state)
    old = ctx.evaluate_policy(state, seen)
    batch = ctx.batch(seen, ctx.estimate(state, seen, old), old)
    batch = batch._replace(advantages=torch.zeros_like(batch.advantages))
    state = state._replace(params=state.params | {"policy.log_std": state.params["policy.log_std"] + change})
    _, gradient = ctx.gradient(ctx.plan.algorithm.loss, state, batch)
    ctx.close()
    place = list(state.params).index("policy.log_std")
    before = sum(leaf[0].numel() for leaf in list(state.params.values())[:place])
    assert gradient[0, before].item() == pytest.approx(2.0 * (1 - math.exp(-2 * change)), rel=1e-4)


def test_sampled_actions_have_the_standard_deviation_of_the_policy(plan: Callable[..., Any]) -> None:
    """With about 4,000 actions, twice the standard deviation or its square would be far outside the 5% tolerance."""
    ctx = Engine(plan("ppo", rollout_steps=1000, policy={"log_std": -1.0}, **GAUSSIAN))
    state, seen = ctx.collect(ctx.state)
    mean: Any = ctx.evaluate_policy(state, seen).dist
    ctx.close()
    noise = (seen.actions - mean.mean)[seen.valid]
    assert noise.std().item() == pytest.approx(math.exp(-1.0), rel=0.05)


def test_the_variance_of_a_density_is_the_square_of_the_standard_deviation() -> None:
    """One standard deviation from the mean, the log-density is 1/2 lower; with σ and σ² mixed up, 3/2 or 1/18 lower."""
    dist = DiagonalGaussian(torch.full((1, 1, 2, 1), 5.0), torch.full((1, 1, 2, 1), math.log(3.0)))
    at_mean, one_away = dist.log_prob(torch.tensor([[[[5.0], [8.0]]]]))[0, 0].tolist()
    assert at_mean - one_away == pytest.approx(0.5)
    assert dist.draw(np.ones((1, 1, 2, 1), np.float32))[0, 0, 0, 0] == pytest.approx(8.0)


def test_observations_are_normalized_in_every_epoch_of_an_update(play: Callable[..., Any]) -> None:
    """With steps too small to change a parameter, the ratio stays 1 in all epochs; raw observations would change it."""
    settings = {"normalize_obs": True, "epochs": 3, "minibatches": 1, "optimizer": "sgd", "learning_rate": 1e-30}
    events = play("ppo", rollout_steps=32, num_envs=4, total_steps=400, **settings)
    updates = [event for event in events if isinstance(event, UpdateDone)]
    assert len(updates) > 2
    assert all(event.metrics["policy/kl"].tolist() == [0.0] for event in updates)
