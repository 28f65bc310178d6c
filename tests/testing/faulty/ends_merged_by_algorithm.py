"""The algorithm passes truncations to its estimator as terminations: `truncation`."""

import torch

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class EndsMergedByAlgorithm:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def update(self, ctx, state, trajectory):
        done = trajectory.terminated | trajectory.truncated
        trajectory = trajectory._replace(terminated=done, truncated=torch.zeros_like(done))
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated)
        return ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("ends-merged-by-algorithm", EndsMergedByAlgorithm)
