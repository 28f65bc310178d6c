"""PPO and A2C against Stable-Baselines3: `train()` on a rollout buffer with the same data."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

ACTIONS = ["discrete", "gaussian"]
ROWS, STEPS = 32, 14
CLOSE = 1e-6
"""Largest relative difference of gradients and updates; both are computed in double precision."""


class DoubleFlatten(FlattenExtractor):
    """SB3 converts observations to float32 before they reach the network."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).double()


def make(algorithm: type, oracle: Any, count: int, **settings: Any) -> Any:
    """Return SB3's algorithm with the parameters of `oracle` and a rollout buffer of `count` rows in float64."""
    given = {"learning_rate": 1.0, "max_grad_norm": 1e9, "n_steps": count, "device": "cpu"} | settings
    if algorithm is PPO:
        given = {"batch_size": count, "n_epochs": 1, "normalize_advantage": False} | given
    hidden = [8, 8]
    model = algorithm(
        "MlpPolicy",
        gym.make("peers/Shapes-v0", action=oracle.action),
        policy_kwargs={
            "net_arch": {"pi": hidden, "vf": hidden},
            "activation_fn": nn.Tanh,
            "optimizer_class": torch.optim.SGD,
            "optimizer_kwargs": {},
            "features_extractor_class": DoubleFlatten,
        },
        **given,
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.policy.double()
    with torch.no_grad():
        for name, parameter in theirs(model).items():
            value = oracle.state.params[name][0]
            parameter.copy_(value.T if "weight" in name else value)
    buffer = model.rollout_buffer
    for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
        setattr(buffer, name, getattr(buffer, name).astype(np.float64))
    return model


def theirs(model: Any) -> dict[str, Tensor]:
    """Return SB3's parameters by pgzoo's names; weights are `[out, in]`, pgzoo's `[in, out]`."""
    found: dict[str, Tensor] = {}
    extractor, policy = model.policy.mlp_extractor, model.policy
    for prefix, body, head in (
        ("policy", extractor.policy_net, policy.action_net),
        ("critic", extractor.value_net, policy.value_net),
    ):
        layers = [layer for layer in (*body, head) if isinstance(layer, nn.Linear)]
        for i, layer in enumerate(layers):
            found |= {f"{prefix}.weight.{i}": layer.weight, f"{prefix}.bias.{i}": layer.bias}
    return found | ({"policy.log_std": policy.log_std} if hasattr(policy, "log_std") else {})


def values(model: Any) -> dict[str, Tensor]:
    """Return copies of SB3's parameters in pgzoo's shapes."""
    return {n: (p.T if "weight" in n else p).detach().clone() for n, p in theirs(model).items()}


def gradient(model: Any, rows: Any) -> dict[str, Tensor]:
    """Return the gradient of the step that `train` takes on these rows: SGD with the learning rate 1 subtracts it."""
    buffer = model.rollout_buffer
    for name in ("actions", "advantages", "returns", "values", "log_probs"):
        array = getattr(rows, name).numpy()
        getattr(buffer, name)[:] = array.reshape(getattr(buffer, name).shape)
    buffer.observations[:] = rows.obs.numpy()[:, None]
    buffer.full = True
    before = values(model)
    model.train()
    return {name: before[name] - after for name, after in values(model).items()}


@pytest.mark.parametrize("action", ACTIONS)
def test_ppo_loss_and_gradient(oracle: Any, difference: Any, action: str) -> None:
    ours = oracle("ppo", action, clip_range=0.25, entropy_coef=0.125, value_coef=1.5, normalize_advantages=False)
    model = make(PPO, ours, ROWS, clip_range=0.25, ent_coef=0.125, vf_coef=0.75)
    rows = ours.rows()
    loss, expected = ours.gradient(rows)
    assert difference(expected, gradient(model, rows)) < CLOSE
    logged = model.logger.name_to_value
    metrics = {name: value.item() for name, value in loss.metrics.items()}
    assert loss.value.item() == pytest.approx(logged["train/loss"], rel=CLOSE)
    assert metrics["loss/policy"] == pytest.approx(logged["train/policy_gradient_loss"], rel=CLOSE)
    assert metrics["loss/value"] == pytest.approx(logged["train/value_loss"] / 2, rel=CLOSE)
    assert metrics["policy/entropy"] == pytest.approx(-logged["train/entropy_loss"], rel=CLOSE)
    assert metrics["policy/kl"] == pytest.approx(logged["train/approx_kl"], rel=CLOSE)
    assert metrics["policy/clip_fraction"] == pytest.approx(logged["train/clip_fraction"], rel=CLOSE)
    assert 0 < metrics["policy/clip_fraction"] < 1


def test_advantages_differ_by_the_divisor_of_the_variance(oracle: Any, difference: Any) -> None:
    """SB3 divides by the standard deviation with n - 1, pgzoo by the one with n: a factor sqrt((n - 1) / n)."""
    ours = oracle("ppo", "gaussian", clip_range=0.25, normalize_advantages=True)
    model = make(PPO, ours, ROWS, clip_range=0.25, vf_coef=0.25, normalize_advantage=True)
    rows = ours.rows()
    _, expected = ours.gradient(rows)
    found = gradient(model, rows)
    factor = math.sqrt((ROWS - 1) / ROWS)
    scaled = {name: value * (factor if name.startswith("policy.") else 1.0) for name, value in expected.items()}
    assert difference(scaled, found) < CLOSE < 1e-3 < difference(expected, found)


def test_clipped_values_differ_where_clipping_lowers_the_error(oracle: Any, difference: Any) -> None:
    """SB3 takes the error of the clipped value, pgzoo the larger one of the two errors (as OpenAI Baselines)."""
    settings = {"clip_range": 0.25, "normalize_advantages": False, "clip_value": 0.25, "value_coef": 1.0}
    ours = oracle("ppo", "discrete", **settings)
    rows = ours.rows()
    now, clipped = ours.values(rows.obs), rows.values + (ours.values(rows.obs) - rows.values).clamp(-0.25, 0.25)
    same = (now == clipped) | ((clipped - rows.returns).abs() > (now - rows.returns).abs())
    assert 0 < same.sum() < ROWS

    def gap(chosen: Tensor) -> float:
        """Compare on the chosen rows, each taken as often as needed to fill the batch."""
        places = torch.arange(ROWS)[chosen].repeat(ROWS)[:ROWS]
        part = type(rows)(*(value[places] for value in rows))
        model = make(PPO, ours, ROWS, clip_range=0.25, vf_coef=0.5, clip_range_vf=0.25)
        found: float = difference(ours.gradient(part)[1], gradient(model, part))
        return found

    assert gap(same) < CLOSE
    assert gap(~same) > 1e-2


@pytest.mark.parametrize("action", ACTIONS)
def test_a2c_loss_and_gradient(oracle: Any, difference: Any, action: str) -> None:
    ours = oracle("a2c", action, entropy_coef=0.125, value_coef=0.5)
    model = make(A2C, ours, ROWS, ent_coef=0.125, vf_coef=0.25)
    rows = ours.rows()
    loss, expected = ours.gradient(rows)
    assert difference(expected, gradient(model, rows)) < CLOSE
    logged, metrics = model.logger.name_to_value, loss.metrics
    assert metrics["loss/policy"].item() == pytest.approx(logged["train/policy_loss"], rel=CLOSE)
    assert metrics["loss/value"].item() == pytest.approx(logged["train/value_loss"] / 2, rel=CLOSE)


def collect(model: Any, ours: Any, steps: Any) -> None:
    """Fill the rollout buffer as SB3's `collect_rollouts` does.

    At a truncation it adds gamma V(final observation) to the reward; the next step starts an episode.
    """
    buffer, start = model.rollout_buffer, True
    log_probs, now, after = (
        ours.log_probs(steps.obs, steps.actions),
        ours.values(steps.obs),
        ours.values(steps.next_obs),
    )
    for t in range(len(steps.obs)):
        reward = steps.rewards[t].double() + steps.truncated[t] * model.gamma * after[t]
        action = np.asarray(steps.actions[t])
        buffer.add(steps.obs[t].numpy(), action, reward.numpy(), np.array(start), now[t], log_probs[t])
        start = bool(steps.terminated[t] | steps.truncated[t])
    buffer.compute_returns_and_advantage(last_values=after[-1], dones=np.array([start]))


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("max_grad_norm", [0.25, 100.0])
def test_a_whole_update_of_a2c_matches(oracle: Any, difference: Any, action: str, max_grad_norm: float) -> None:
    """Values, GAE over both kinds of ends, loss, clipping of the gradient and the step."""
    settings = {"learning_rate": 0.5, "gamma": 0.75, "max_grad_norm": max_grad_norm}
    ours = oracle("a2c", action, estimator={"name": "gae", "lam": 0.5}, value_coef=0.5, entropy_coef=0.125, **settings)
    steps = ours.steps()
    model = make(A2C, ours, STEPS, gae_lambda=0.5, vf_coef=0.25, ent_coef=0.125, **settings)
    collect(model, ours, steps)
    before = values(model)
    model.train()
    after = ours.update(steps)
    moved = {name: value - before[name] for name, value in after.items()}
    assert difference(moved, {name: value - before[name] for name, value in values(model).items()}) < CLOSE


@pytest.mark.parametrize("action", ACTIONS)
def test_a_whole_update_of_ppo_matches(oracle: Any, difference: Any, action: str) -> None:
    """Three epochs on the whole batch: the later ones have ratios other than 1."""
    settings = {"learning_rate": 0.25, "gamma": 0.75, "max_grad_norm": 0.5, "clip_range": 0.0625}
    ours = oracle(
        "ppo", action, estimator={"name": "gae", "lam": 0.5}, epochs=3, minibatches=1, value_coef=0.5,
        normalize_advantages=False, **settings,
    )  # fmt: skip
    steps = ours.steps()
    model = make(PPO, ours, STEPS, n_epochs=3, gae_lambda=0.5, vf_coef=0.25, **settings)
    collect(model, ours, steps)
    before = values(model)
    model.train()
    assert model.logger.name_to_value["train/clip_fraction"] > 0
    moved = {name: value - before[name] for name, value in ours.update(steps).items()}
    assert difference(moved, {name: value - before[name] for name, value in values(model).items()}) < CLOSE
