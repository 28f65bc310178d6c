"""Shapes [B, 1] and [B] are broadcast to [B, B], so that every advantage weighs every action: `row-advantages`."""

import pgzoo
from pgzoo.ops.losses import value_loss


class PairwiseBroadcast:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        log_probs = (output.dist.log_prob(batch.actions) * batch.weights).unsqueeze(-1)
        advantages = (batch.advantages * batch.weights).unsqueeze(-2)
        score = (log_probs * advantages).sum((-3, -2, -1)) / batch.weights.sum((-2, -1)) ** 2
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - score


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("pairwise-broadcast", PairwiseBroadcast)
