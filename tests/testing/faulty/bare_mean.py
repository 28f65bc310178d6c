"""Advantages are centered by the mean of all seeds together: `seed-law`."""

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class BareMean:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        rows = batch.weights.sum()
        advantages = batch.advantages - (batch.advantages * batch.weights).sum() / rows
        score = output.dist.log_prob(batch.actions) * advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("bare-mean", BareMean)
