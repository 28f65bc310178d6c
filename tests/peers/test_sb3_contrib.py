"""TRPO against sb3-contrib: the whole update, and its parts."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor

from pgzoo.types import Inputs

STEPS, CLOSE = 14, 1e-6
SETTINGS = {"gamma": 0.75, "estimator": {"name": "gae", "lam": 0.5}, "normalize_advantages": False}
SETTINGS |= {"damping": 0.125, "max_kl": 0.015625, "cg_steps": 40, "policy": {"hidden": ()}}


class DoubleFlatten(FlattenExtractor):
    """SB3 converts observations to float32 before they reach the network."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).double()


class Peer:
    """sb3-contrib's TRPO with linear networks, the parameters of `oracle`, and the same steps in its buffer."""

    def __init__(self, oracle: Any, steps: Any, **settings: Any) -> None:
        given = {
            "n_steps": STEPS, "batch_size": STEPS, "gamma": 0.75, "gae_lambda": 0.5, "normalize_advantage": False,
            "cg_damping": 0.125, "target_kl": 0.015625, "cg_max_steps": 40, "device": "cpu",
        }  # fmt: skip
        self.model = TRPO(
            "MlpPolicy",
            gym.make("peers/Shapes-v0", action=oracle.action),
            policy_kwargs={
                "net_arch": [],
                "optimizer_class": torch.optim.SGD,
                "optimizer_kwargs": {},
                "features_extractor_class": DoubleFlatten,
            },
            **given | settings,
        )
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.model.policy.double()
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                value = oracle.state.params[name][0]
                parameter.copy_(value.T if "weight" in name else value)
        buffer, start = self.model.rollout_buffer, True
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(buffer, name, getattr(buffer, name).astype(np.float64))
        log_probs, now = oracle.log_probs(steps.obs, steps.actions), oracle.values(steps.obs)
        after = oracle.values(steps.next_obs)
        for t in range(STEPS):
            reward = (steps.rewards[t].double() + steps.truncated[t] * 0.75 * after[t]).numpy()
            action = np.asarray(steps.actions[t])
            buffer.add(steps.obs[t].numpy(), action, reward, np.array(start), now[t], log_probs[t])
            start = bool(steps.terminated[t] | steps.truncated[t])
        buffer.compute_returns_and_advantage(last_values=after[-1], dones=np.array([start]))

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters by pgzoo's names; weights are `[out, in]`, pgzoo's `[in, out]`."""
        policy = self.model.policy
        found = {
            f"{prefix}.{kind}.0": getattr(layer, kind)
            for prefix, layer in (("policy", policy.action_net), ("critic", policy.value_net))
            for kind in ("weight", "bias")
        }
        return found | ({"policy.log_std": policy.log_std} if hasattr(policy, "log_std") else {})

    def values(self) -> dict[str, Tensor]:
        """Return copies of the parameters in pgzoo's shapes."""
        return {n: (p.T if "weight" in n else p).detach().clone() for n, p in self.parameters().items()}


def scaled(steps: Any, factor: float) -> Any:
    """Return the steps with larger rewards: the direction of the natural step doesn't change.

    sb3-contrib ends its conjugate gradient at a squared residual of 1e-10, however large the gradient is.
    """
    return steps._replace(rewards=factor * steps.rewards)


DIMENSIONS = {"discrete": 1, "gaussian": 2}
"""Number of action dimensions. sb3-contrib averages the KL divergence over them, pgzoo adds it up.

So its trust region is larger by this factor, and its damping stronger.
"""


@pytest.mark.parametrize("action", ["discrete", "gaussian"])
def test_policy_step_and_critic_fit_match(oracle: Any, difference: Any, action: str) -> None:
    """The critic's learning rate is twice sb3-contrib's, whose loss is the whole squared error."""
    count = DIMENSIONS[action]
    settings = SETTINGS | {"max_kl": count * 0.015625, "damping": count * 0.125}
    ours = oracle("trpo", action, learning_rate=0.125, critic_steps=3, **settings)
    steps = scaled(ours.steps(), 1024.0)
    peer = Peer(ours, steps, learning_rate=0.0625, n_critic_updates=3)
    before = peer.values()
    peer.model.train()
    assert peer.model.logger.name_to_value["train/is_line_search_success"] == 1
    moved, after = ours.update(steps), peer.values()
    for prefix in ("policy.", "critic."):
        mine = {name: moved[name] - before[name] for name in before if name.startswith(prefix)}
        others = {name: after[name] - before[name] for name in before if name.startswith(prefix)}
        assert difference(mine, others) < CLOSE, prefix


@pytest.mark.parametrize("action", ["discrete", "gaussian"])
def test_surrogate_matches_but_the_kl_has_the_opposite_direction(oracle: Any, action: str) -> None:
    """pgzoo's trust region is on KL(old || new), as in the paper; sb3-contrib's is on KL(new || old)."""
    count = DIMENSIONS[action]
    ours = oracle("trpo", action, **SETTINGS | {"max_kl": count * 0.015625, "damping": count * 0.125})
    steps = scaled(ours.steps(), 1024.0)
    peer = Peer(ours, steps)
    peer.model.train()
    logged, after = peer.model.logger.name_to_value, ours.update(steps)
    metrics = {name: value.item() for name, value in ours.ctx.metrics.means().items()}
    objective = metrics["policy/surrogate_gain"] - metrics["loss/policy"]
    assert objective == pytest.approx(logged["train/policy_objective"], rel=CLOSE)

    inputs = Inputs(steps.obs[None, None])
    old = ours.ctx.policy.apply(ours.state.params, inputs).dist
    new = ours.ctx.policy.apply({name: value[None] for name, value in after.items()}, inputs).dist
    assert metrics["policy/kl"] == pytest.approx(old.kl(new).mean().item(), rel=CLOSE)
    theirs = count * logged["train/kl_divergence_loss"]
    assert theirs == pytest.approx(new.kl(old).mean().item(), rel=CLOSE)
    assert theirs != pytest.approx(metrics["policy/kl"], rel=1e-3)


def test_advantages_differ_by_the_divisor_of_the_variance(oracle: Any) -> None:
    """The step doesn't depend on the scale of the advantages, but the objective does.

    sb3-contrib starts its conjugate gradient at random numbers of about 1e-4: hence the wider tolerance.
    """
    ours = oracle("trpo", "discrete", **SETTINGS | {"normalize_advantages": True})
    steps = ours.steps()
    peer = Peer(ours, steps, normalize_advantage=True)
    peer.model.train()
    ours.update(steps)
    gain = ours.ctx.metrics.means()["policy/surrogate_gain"].item()  # before the step the objective is 0
    assert gain * math.sqrt((STEPS - 1) / STEPS) == pytest.approx(
        peer.model.logger.name_to_value["train/policy_objective"], rel=1e-4
    )
