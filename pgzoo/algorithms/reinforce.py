"""REINFORCE: the Monte Carlo policy gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pgzoo.config import AlgorithmConfig, EntropyCoef, GammaT
from pgzoo.ops.losses import center, scale, weighted_mean
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Episodes, Hyper, Loss, Params


class ReinforceConfig(AlgorithmConfig):
    """Settings of `reinforce`."""

    baseline: Annotated[
        Literal["none", "mean"], Field(description="baseline: none, or the mean return of the batch")
    ] = "mean"
    normalize_returns: Annotated[
        bool, Field(description="divide by the standard deviation of the batch's returns, with any baseline")
    ] = True
    gamma_t: GammaT = False
    average: Annotated[
        Literal["steps", "episodes"],
        Field(description="the loss is a mean over steps, or a sum over steps and a mean over episodes"),
    ] = "steps"
    entropy_coef: EntropyCoef = 0.0


class Reinforce:
    """REINFORCE: the Monte Carlo policy gradient.

        ∇J(θ) = E[ Σₜ γᵗ (Gₜ - b) ∇ log π(aₜ|sₜ; θ) ]

    Gₜ is the return that the estimator computes, b a baseline. Whole episodes are collected, because leaving out
    unfinished ones would be biased toward short episodes. In practice the factor γᵗ is usually omitted; the setting
    `gamma_t` includes it.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
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

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return minus the policy-gradient objective with an entropy bonus."""
        dist = policy.apply(params, batch.inputs).dist
        advantage, weights = batch.advantages, batch.weights
        if hyper.baseline == "mean":
            advantage = center(advantage, weights)
        if hyper.normalize_returns:
            advantage = scale(advantage, weights)
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
