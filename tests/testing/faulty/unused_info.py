"""The algorithm needs a value of the environment's info, and doesn't use it: `info-values`."""

import pgzoo
from pgzoo.ops.losses import weighted_mean


class UnusedInfo:
    """A policy gradient for returns minus costs (Williams 1992)."""

    collect = pgzoo.Steps(16)
    estimator = "reward-to-go"
    needs = {"info:cost"}
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def update(self, ctx, state, trajectory):
        targets = ctx.estimate(state, trajectory)
        for batch in ctx.minibatches(state, trajectory, targets):
            state = ctx.step(self.loss, state, batch)
        return state

    def loss(self, policy, params, batch, hyper):
        log_probs = policy.apply(params, batch.inputs).dist.log_prob(batch.actions)
        return -weighted_mean(log_probs * batch.advantages, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("unused-info", UnusedInfo)
