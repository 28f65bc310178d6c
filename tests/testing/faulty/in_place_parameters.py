"""Weights are decayed by editing the parameters in place: `in-place`."""

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class InPlaceParameters:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def update(self, ctx, state, trajectory):
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated)
        for value in state.params.values():
            value.mul_(0.99)
        return ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("in-place-parameters", InPlaceParameters)
