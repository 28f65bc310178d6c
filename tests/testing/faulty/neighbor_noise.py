"""The noise of all seeds is one block, drawn from the generator of the first: `seed-law`."""

import torch

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class NeighborNoise:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def update(self, ctx, state, trajectory):
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated)
        noise = ctx.rng("noise", 0, state).standard_normal(targets.advantages.shape)
        targets = targets._replace(advantages=targets.advantages + 0.1 * torch.from_numpy(noise).float())
        return ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("neighbor-noise", NeighborNoise)
