"""The loss uses the coefficient of the first seed for all seeds: `sweep`."""

from typing import Annotated

from pydantic import Field

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class Config(pgzoo.AlgorithmConfig):
    """Settings."""

    value_coef: Annotated[float, Field(ge=0, description="weight of the critic's loss")] = 0.5


class FirstSeedsCoefficient:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        critic = value_loss(output.value, batch.returns, batch.weights)
        return hyper.value_coef[0, 0, 0] * critic - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("first-seeds-coefficient", FirstSeedsCoefficient, config=Config)
