"""All seeds draw from one generator of the algorithm in turn: `seed-law`."""

import numpy as np
import torch

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean


class SharedRng:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def update(self, ctx, state, trajectory):
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated)
        noise = np.stack([self.rng.standard_normal(one.shape) for one in targets.advantages])
        targets = targets._replace(advantages=targets.advantages + 0.1 * torch.from_numpy(noise).float())
        return ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("shared-rng", SharedRng)
