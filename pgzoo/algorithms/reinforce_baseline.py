"""REINFORCE with a learned baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pgzoo.config import (
    AlgorithmConfig,
    EntropyCoef,
    LearningRate,
    LearningRateSchedule,
    NormalizeAdvantages,
    ValueCoef,
)
from pgzoo.ops.losses import explained_variance, standardize, value_loss, weighted_mean
from pgzoo.types import Batch, Episodes, Hyper, Loss, Need, Params


class ReinforceBaselineConfig(AlgorithmConfig):
    """Settings of `reinforce-baseline`."""

    learning_rate: LearningRate = 2e-2
    learning_rate_schedule: LearningRateSchedule = "linear"
    normalize_advantages: NormalizeAdvantages = True
    gamma_t: Annotated[
        bool, Field(description="weight step t by gamma^t, as the gradient of the discounted return demands")
    ] = False
    value_coef: ValueCoef = 0.5
    entropy_coef: EntropyCoef = 0.0


class ReinforceBaseline:
    """REINFORCE with the value of the state as its baseline, learned beside the policy.

        ∇J(θ) = E[ Σₜ γᵗ (Gₜ - V(sₜ; w)) ∇ log π(aₜ|sₜ; θ) ]
        ∇L(w) = -E[ Σₜ (Gₜ - V(sₜ; w)) ∇V(sₜ; w) ]

    What any action would have got is no merit of the action that was taken: without it the estimate means the same and
    varies less. V is a baseline and no critic: Gₜ is what was seen, and V(s) stands only for what would have followed
    where an episode was truncated.

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

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The score weighted by what the baseline didn't foresee, the baseline's error and the bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        if hyper.gamma_t:
            advantage = advantage * hyper.gamma**batch.timestep

        policy_loss = -weighted_mean(output.dist.log_prob(batch.actions) * advantage, weights)
        baseline_loss = value_loss(output.value, batch.returns, weights)
        entropy = weighted_mean(output.dist.entropy(), weights)
        return Loss(
            policy_loss + hyper.value_coef.flatten() * baseline_loss - hyper.entropy_coef.flatten() * entropy,
            {
                "loss/policy": policy_loss,
                "loss/value": baseline_loss,
                "policy/entropy": entropy,
                "value/explained_variance": explained_variance(batch.values, batch.returns, weights),
            },
        )
