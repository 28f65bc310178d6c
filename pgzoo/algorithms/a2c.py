"""A2C: the advantage actor-critic, in step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.config import ActorCriticConfig, LearningRate, NormalizeAdvantages, OptimizerName, RolloutSteps
from pgzoo.ops.losses import actor_critic_loss, standardize, weighted_mean
from pgzoo.types import Batch, Hyper, Loss, Need, Params, Steps


class A2CConfig(ActorCriticConfig):
    """Settings of `a2c`."""

    learning_rate: LearningRate = 7e-4
    optimizer: OptimizerName = "rmsprop"
    rollout_steps: RolloutSteps = 5
    normalize_advantages: NormalizeAdvantages = False


class A2C:
    """A2C: one gradient step for policy and critic after each short window.

        ∇J(θ) = E[ A ∇ log π(a|s; θ) ],  A an n-step advantage

    It is A3C with its workers in step: one batch of all environments instead of gradients that arrive late.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Mnih et al. (2016), Asynchronous methods for deep reinforcement learning, section 4.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 8,
        "total_steps": 200_000,
        "estimator": {"name": "gae", "lam": 1.0},
    }

    def collect(self, settings: A2CConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The score weighted by the advantage, the critic's error and the bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        policy_loss = -weighted_mean(output.dist.log_prob(batch.actions) * advantage, weights)
        return actor_critic_loss(policy_loss, output, batch, hyper)
