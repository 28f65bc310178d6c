"""REINFORCE: the policy gradient in its first and plainest form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pgzoo.config import AlgorithmConfig
from pgzoo.ops.losses import weighted_mean, weighted_std
from pgzoo.types import Batch, Episodes, Hyper, Loss, Params


class ReinforceConfig(AlgorithmConfig):
    """Settings of `reinforce`."""

    baseline: Annotated[
        Literal["none", "mean"], Field(description="subtract nothing, or the mean return of the batch")
    ] = "mean"
    normalize_returns: Annotated[bool, Field(description="divide by the standard deviation of the batch's returns")] = (
        True
    )
    gamma_t: Annotated[
        bool, Field(description="weight step t by gamma^t, as the gradient of the discounted return demands")
    ] = False
    average: Annotated[
        Literal["steps", "episodes"],
        Field(description="the loss is a mean over steps, or a sum over steps and a mean over episodes"),
    ] = "steps"
    entropy_coef: Annotated[float, Field(ge=0, description="weight of an entropy bonus")] = 0.0


class Reinforce:
    """REINFORCE: follow the score of what was done, weighted by what came of it.

        ∇J(θ) = E[ Σₜ γᵗ (Gₜ - b) ∇ log π(aₜ|sₜ; θ) ]

    Gₜ is the return that the estimator gives, b a baseline. Whole episodes are collected, since dropping
    unfinished ones would favor short ones. The weight γᵗ belongs to the theory and is left out in practice;
    `gamma_t` puts it back.

    Shapes: a batch is `[S, 1, B]`, the loss `[S]`.
    Source: Williams (1992), Simple statistical gradient-following algorithms, sections 5-6; Sutton & Barto
        (2018), 13.3.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 24,
        "total_steps": 150_000,
        "gamma": 0.995,
        "learning_rate": 5e-2,
        "learning_rate_schedule": "linear",
        "policy": {"name": "mlp", "hidden": (64,), "activation": "relu"},
    }

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Minus the objective whose gradient is the estimate above."""
        dist = policy.apply(params, batch.inputs).dist
        advantage, weights = batch.advantages, batch.weights
        if hyper.baseline == "mean":
            advantage = advantage - weighted_mean(advantage, weights)[:, None, None]
        if hyper.normalize_returns:
            advantage = advantage / (weighted_std(advantage, weights)[:, None, None] + 1e-8)
        if hyper.gamma_t:
            advantage = advantage * hyper.gamma**batch.timestep

        surrogate = dist.log_prob(batch.actions) * advantage
        entropy = dist.entropy()
        objective = weighted_mean(surrogate + hyper.entropy_coef * entropy, weights)
        if hyper.average == "episodes":
            steps, episodes = weights.sum((-2, -1)), (weights * (batch.timestep == 0)).sum((-2, -1))
            objective = objective * steps / episodes.clamp(min=1.0)
        return Loss(
            -objective,
            {
                "loss/policy": -weighted_mean(surrogate.detach(), weights),
                "policy/entropy": weighted_mean(entropy.detach(), weights),
            },
        )
