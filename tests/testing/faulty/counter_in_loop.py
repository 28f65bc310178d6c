"""A schedule depends on a counter in the locals of the loop: `resumable`."""

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class CounterInLoop:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loop(self, ctx):
        rounds = 0
        while ctx.running():
            rounds += 1
            state, trajectory = ctx.collect(ctx.state)
            evaluated = ctx.evaluate_policy(state, trajectory)
            targets = ctx.estimate(state, trajectory, evaluated)
            targets = targets._replace(advantages=targets.advantages / rounds)
            ctx.state = ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))
            yield

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("counter-in-loop", CounterInLoop)
