"""A running mean is updated in place, also for a seed that has ended: `frozen`."""

import torch

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean
from pgzoo.types import AlgorithmState


class MovingFrozenSeed:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def init(self, ctx, rng):
        return AlgorithmState({}, {"moving.mean": torch.zeros(())})

    def update(self, ctx, state, trajectory):
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated)
        state.buffers["moving.mean"].mul_(0.9).add_(0.1 * weighted_mean(evaluated.values[:, :-1] + 1, targets.weights))
        advantages = targets.advantages - state.buffers["moving.mean"][:, None, None]
        targets = targets._replace(advantages=advantages)
        return ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("moving-frozen-seed", MovingFrozenSeed)
