# pgzoo_plugin.py: the example of first-algorithm.md and of README.md
from typing import Annotated

from pydantic import Field

import pgzoo
from pgzoo.ops.losses import standardize, weighted_mean


class Config(pgzoo.AlgorithmConfig):
    """Settings of `entropy-reinforce`: options, YAML keys and MLflow parameters."""

    learning_rate: Annotated[float, Field(gt=0, description="Adam learning rate")] = 3e-3
    entropy_coef: Annotated[float, Field(ge=0, description="coefficient of the entropy bonus")] = 0.01


class EntropyReinforce:
    """REINFORCE with an entropy bonus (Williams & Peng 1991)."""

    collect = pgzoo.Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults = {"total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        """Return the loss of every seed, `[S]`, of a batch `[S, T, B]`."""
        dist = policy.apply(params, batch.inputs).dist
        advantage = standardize(batch.advantages, batch.weights)
        score = dist.log_prob(batch.actions) * advantage
        return weighted_mean(-score - hyper.entropy_coef * dist.entropy(), batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("entropy-reinforce", EntropyReinforce, config=Config)
