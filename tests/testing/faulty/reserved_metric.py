"""A metric has the name of one of pgzoo's own curves: `metrics`."""

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class ReservedMetric:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        value = 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)
        return pgzoo.Loss(value, {"train/return_mean": weighted_mean(batch.returns, batch.weights)})


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("reserved-metric", ReservedMetric)
