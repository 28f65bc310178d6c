"""The sign of the critic's loss is wrong, so its errors grow: `critic-improves`."""

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class CriticUphill:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return -0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("critic-uphill", CriticUphill)
