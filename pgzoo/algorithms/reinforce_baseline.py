"""REINFORCE with a learned baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.config import (
    AlgorithmConfig,
    EntropyCoef,
    GammaT,
    LearningRate,
    LearningRateSchedule,
    NormalizeAdvantages,
    ValueCoef,
)
from pgzoo.ops.losses import actor_critic_loss, advantages_of, policy_gradient_loss
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Episodes, Hyper, Loss, Need, Params


class ReinforceBaselineConfig(AlgorithmConfig):
    """Settings of `reinforce-baseline`."""

    learning_rate: LearningRate = 2e-2
    learning_rate_schedule: LearningRateSchedule = "linear"
    normalize_advantages: NormalizeAdvantages = True
    gamma_t: GammaT = False
    value_coef: ValueCoef = 0.5
    entropy_coef: EntropyCoef = 0.0


class ReinforceBaseline:
    """REINFORCE with the value of the state as the baseline, learned along with the policy.

        ∇J(θ) = E[ Σₜ γᵗ (Gₜ - V(sₜ; w)) ∇ log π(aₜ|sₜ; θ) ]
        ∇L(w) = -E[ Σₜ (Gₜ - V(sₜ; w)) ∇V(sₜ; w) ]

    The baseline leaves the gradient unbiased and lowers its variance. V is a baseline, not a critic: Gₜ is the observed
    return, and V(s) is only used for the rest of the return where an episode was truncated.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Williams (1992), Simple statistical gradient-following algorithms, section 5; Sutton & Barto (2018), 13.4.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 8,
        "total_steps": 150_000,
        "policy": {"name": "mlp", "hidden": (64,), "activation": "relu"},
    }

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the policy-gradient loss, the baseline's loss and the entropy bonus."""
        output, advantages = policy.apply(params, batch.inputs), advantages_of(batch, hyper)
        if hyper.gamma_t:
            advantages = advantages * hyper.gamma**batch.timestep
        return actor_critic_loss(policy_gradient_loss(output.dist, advantages, batch), output, batch, hyper)
