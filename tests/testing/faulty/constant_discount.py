"""The algorithm computes returns itself, with a discount that isn't --gamma: `gamma`."""

import torch

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean
from pgzoo.ops.returns import n_step
from pgzoo.types import Targets


class ConstantDiscount:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def update(self, ctx, state, trajectory):
        evaluated = ctx.evaluate_policy(state, trajectory)
        returns = n_step(
            rewards=trajectory.rewards,
            next_values=evaluated.values[:, 1:],
            terminated=trajectory.terminated,
            truncated=trajectory.truncated,
            valid=trajectory.valid,
            gamma=0.99,
            n=5,
        )
        advantages = torch.where(trajectory.valid, returns - evaluated.values[:, :-1], 0.0)
        targets = Targets(advantages, returns, trajectory.valid.float())
        return ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("constant-discount", ConstantDiscount)
