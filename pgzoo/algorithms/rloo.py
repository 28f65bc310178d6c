"""RLOO: REINFORCE leave-one-out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.config import AlgorithmConfig, EntropyCoef, LearningRate, LearningRateSchedule
from pgzoo.ops.losses import weighted_mean, weighted_sum
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Episodes, Hyper, Loss, Params


class RLOOConfig(AlgorithmConfig):
    """Settings of `rloo`."""

    learning_rate: LearningRate = 1e-2
    learning_rate_schedule: LearningRateSchedule = "linear"
    entropy_coef: EntropyCoef = 0.0


class RLOO:
    """RLOO: REINFORCE with the mean return of the other episodes as the baseline.

        ∇J(θ) = E[ 1/K Σᵢ (Rᵢ - 1/(K-1) Σ_{j≠i} Rⱼ) Σₜ ∇ log π(aᵢₜ|sᵢₜ; θ) ]

    A whole episode counts as one action, with its total return Rᵢ. The baseline needs no critic, and leaves the
    gradient unbiased because it comes from independent episodes. K is the number of environments.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Kool et al. (2019), Buy 4 REINFORCE samples, get a baseline for free!; Ahmadian et al. (2024), Back to
        basics, section 2.
    """

    collect = Episodes(per_env=1)
    estimator = "leave-one-out"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 24, "total_steps": 150_000}

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the policy-gradient loss with an entropy bonus: sums over steps, means over episodes."""
        dist, weights = policy.apply(params, batch.inputs).dist, batch.weights
        episodes = weighted_sum((batch.timestep == 0).float(), weights).clamp(min=1.0)
        policy_loss = -weighted_sum(dist.log_prob(batch.actions) * batch.advantages, weights) / episodes
        bonus = weighted_sum(dist.entropy(), weights) / episodes
        return Loss(
            policy_loss - hyper.per_member.entropy_coef * bonus,
            {"loss/policy": policy_loss, "policy/entropy": weighted_mean(dist.entropy(), weights)},
        )
