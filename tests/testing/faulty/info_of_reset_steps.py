"""The mean cost counts the info of steps that only reset an environment: `padding`."""

import pgzoo
from pgzoo.ops.losses import weighted_mean


class InfoOfResetSteps:
    """A policy gradient for returns minus costs (Williams 1992)."""

    collect = pgzoo.Steps(16)
    estimator = "reward-to-go"
    needs = {"info:cost"}
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def update(self, ctx, state, trajectory):
        cost = trajectory.info["cost"]
        excess = cost - cost.mean((-2, -1), keepdim=True)
        targets = ctx.estimate(state, trajectory, bonus=-excess * trajectory.valid)
        for batch in ctx.minibatches(state, trajectory, targets):
            state = ctx.step(self.loss, state, batch)
        return state

    def loss(self, policy, params, batch, hyper):
        log_probs = policy.apply(params, batch.inputs).dist.log_prob(batch.actions)
        return -weighted_mean(log_probs * batch.advantages, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("info-of-reset-steps", InfoOfResetSteps)
