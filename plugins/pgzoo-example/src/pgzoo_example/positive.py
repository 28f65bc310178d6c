"""REINFORCE that learns only from above-average returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pgzoo.config import AlgorithmConfig
from pgzoo.ops.losses import standardize, weighted_mean
from pgzoo.types import Batch, Episodes, Hyper, Loss, Params


class PositiveReinforceConfig(AlgorithmConfig):
    """Settings of `positive-reinforce`; each becomes an option, a YAML key and a logged parameter."""

    learning_rate: Annotated[float, Field(gt=0, description="learning rate of the optimizer")] = 2e-2
    margin: Annotated[
        float,
        Field(ge=0, description="minimum number of standard deviations above the mean for a return to count"),
    ] = 0.0


class PositiveReinforce:
    """Increase the probability of actions with above-average returns, and ignore the others.

        ∇J(θ) = E[ (Aₜ - m)₊ ∇ log π(aₜ|sₜ; θ) ],    Aₜ = (Gₜ - mean G) / std G

    Shapes: a batch is `[S, 1, B]`, the loss `[S]`.
    Source: Oh et al. (2018), Self-Imitation Learning, equation 2, with the batch mean for the value
        function and without replay.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 100_000}

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return minus the objective."""
        gain = (standardize(batch.advantages, batch.weights) - hyper.margin).clamp(min=0.0)
        dist = policy.apply(params, batch.inputs).dist
        value = -weighted_mean(dist.log_prob(batch.actions) * gain, batch.weights)
        metrics = {
            "loss/policy": value.detach(),
            "policy/entropy": weighted_mean(dist.entropy(), batch.weights).detach(),
            "example/share_used": weighted_mean((gain > 0).float(), batch.weights),
        }
        return Loss(value, metrics)
