"""VPG: the plain policy gradient with a critic, as in Spinning Up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.config import (
    AlgorithmConfig,
    CriticSteps,
    EntropyCoef,
    LearningRate,
    LearningRateSchedule,
    NormalizeAdvantages,
    RolloutSteps,
)
from pgzoo.ops.losses import actor_loss, advantages_of, policy_gradient_loss
from pgzoo.ops.updates import fit_critic, whole_batch
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import Batch, Hyper, Loss, Need, Params, TrainState, Trajectory


class VPGConfig(AlgorithmConfig):
    """Settings of `vpg`."""

    learning_rate: LearningRate = 2e-2
    learning_rate_schedule: LearningRateSchedule = "linear"
    rollout_steps: RolloutSteps = 256
    critic_steps: CriticSteps = 10
    normalize_advantages: NormalizeAdvantages = True
    entropy_coef: EntropyCoef = 0.0


class VPG:
    """VPG: one gradient step of the policy on the whole rollout, then many of the critic.

        ∇J(θ) = E[ A ∇ log π(a|s; θ) ],  then w ← argmin E[ (V(s; w) - G)² ], approximately

    The data is on-policy for a single step of the policy only, but the critic's regression may use it many times. The
    policy's step comes first, so that its advantages use a critic that has not been fitted to the same returns.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Achiam (2018), Spinning Up in deep RL, Vanilla policy gradient; Sutton et al. (2000), Policy gradient
        methods with function approximation; the advantages: Schulman et al. (2016), algorithm 1.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 8,
        "total_steps": 150_000,
        "estimator": {"name": "gae", "lam": 0.98},
        "policy": {"name": "mlp", "hidden": (64,), "activation": "relu"},
    }

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Take one gradient step of the policy, then `critic_steps` of the critic."""
        batch = whole_batch(ctx, state, trajectory)
        return fit_critic(ctx, ctx.step(self.loss, state, batch, only="policy."), batch)

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the policy-gradient loss with an entropy bonus."""
        dist = policy.apply(params, batch.inputs).dist
        policy_loss = policy_gradient_loss(dist, advantages_of(batch, hyper), batch)
        return actor_loss(policy_loss, dist, batch, hyper.per_member.entropy_coef)
