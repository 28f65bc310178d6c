"""A running mean is an attribute of the algorithm, which no checkpoint contains: `resumable`."""

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class LostState:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    mean = 0.0

    def update(self, ctx, state, trajectory):
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated)
        self.mean = 0.9 * self.mean + 0.1 * weighted_mean(targets.returns, targets.weights)
        targets = targets._replace(advantages=targets.advantages - self.mean[:, None, None])
        return ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("lost-state", LostState)
