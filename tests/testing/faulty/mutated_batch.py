"""The loss standardizes the advantages of the batch in place: `inputs-unchanged`."""

import pgzoo
from pgzoo.ops.losses import standardize, value_loss, weighted_mean


class MutatedBatch:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        batch.advantages.copy_(standardize(batch.advantages, batch.weights))
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("mutated-batch", MutatedBatch)
