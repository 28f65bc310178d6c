"""An algorithm that needs a value of the environment's info, and can train recurrent policies."""

import pgzoo
from pgzoo.ops.losses import weighted_mean


class PenalizedCost:
    """A policy gradient for returns minus costs (Williams 1992)."""

    collect = pgzoo.Episodes(per_env=1)
    estimator = "reward-to-go"
    needs = {"info:cost"}
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def update(self, ctx, state, trajectory):
        targets = ctx.estimate(state, trajectory, bonus=-0.1 * trajectory.info["cost"])
        for batch in ctx.minibatches(state, trajectory, targets):
            state = ctx.step(self.loss, state, batch)
        return state

    def loss(self, policy, params, batch, hyper):
        log_probs = policy.apply(params, batch.inputs).dist.log_prob(batch.actions)
        metrics = {"cost/mean": weighted_mean(batch.info["cost"], batch.weights)}
        return pgzoo.Loss(-weighted_mean(log_probs * batch.advantages, batch.weights), metrics)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("penalized-cost", PenalizedCost, recurrent=True)
