"""A2C: advantage actor-critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.config import ActorCriticConfig, LearningRate, NormalizeAdvantages, OptimizerName, RolloutSteps
from pgzoo.ops.losses import actor_critic_loss, advantages_of, policy_gradient_loss
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Hyper, Loss, Need, Params


class A2CConfig(ActorCriticConfig):
    """Settings of `a2c`."""

    learning_rate: LearningRate = 7e-4
    optimizer: OptimizerName = "rmsprop"
    rollout_steps: RolloutSteps = 5
    normalize_advantages: NormalizeAdvantages = False


class A2C:
    """A2C: one gradient step of policy and critic after each short rollout.

        ∇J(θ) = E[ A ∇ log π(a|s; θ) ],  A an n-step advantage

    This is the synchronous form of A3C: one batch from all environments instead of the delayed gradients of
    asynchronous workers.

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

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the policy-gradient loss, the critic's loss and the entropy bonus."""
        output = policy.apply(params, batch.inputs)
        policy_loss = policy_gradient_loss(output.dist, advantages_of(batch, hyper), batch)
        return actor_critic_loss(policy_loss, output, batch, hyper)
