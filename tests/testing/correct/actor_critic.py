"""An actor-critic that defines nothing but a loss."""

import pgzoo
from pgzoo.ops.losses import standardize, value_loss, weighted_mean


class ActorCritic:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * standardize(batch.advantages, batch.weights)
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("actor-critic", ActorCritic)
