"""VPG: the plain policy gradient with a critic, in the form that Spinning Up teaches."""

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
from pgzoo.ops.losses import critic_loss, standardize, weighted_mean
from pgzoo.types import Batch, Hyper, Loss, Need, Params, Steps, TrainState, Trajectory


class VPGConfig(AlgorithmConfig):
    """Settings of `vpg`."""

    learning_rate: LearningRate = 2e-2
    learning_rate_schedule: LearningRateSchedule = "linear"
    rollout_steps: RolloutSteps = 256
    critic_steps: CriticSteps = 10
    normalize_advantages: NormalizeAdvantages = True
    entropy_coef: EntropyCoef = 0.0


class VPG:
    """VPG: one step of the policy on everything that was collected, then many of the critic.

        ∇J(θ) = E[ A ∇ log π(a|s; θ) ],  then w ← argmin E[ (V(s; w) - G)² ], nearly

    The data are the policy's own for one step alone; to fit the critic, a regression, they serve many times. The
    policy's step comes first, so that its advantages are of the critic that hadn't seen them.

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

    def collect(self, settings: VPGConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        """The policy once, the critic `critic_steps` times."""
        evaluated = ctx.evaluate_policy(state, trajectory)
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory, evaluated), evaluated)
        state = ctx.step(self.loss, state, batch, only="policy.")
        for _ in range(ctx.plan.config.settings.critic_steps):
            state = ctx.step(critic_loss, state, batch, only="critic.")
        return state

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The score weighted by the advantage, and the bonus."""
        dist, weights = policy.apply(params, batch.inputs).dist, batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        policy_loss = -weighted_mean(dist.log_prob(batch.actions) * advantage, weights)
        entropy = weighted_mean(dist.entropy(), weights)
        return Loss(
            policy_loss - hyper.entropy_coef.flatten() * entropy,
            {"loss/policy": policy_loss, "policy/entropy": entropy},
        )
