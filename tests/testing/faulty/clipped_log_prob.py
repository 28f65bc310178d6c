"""The log-probability is that of the clipped action, not of the sampled one: `sampled-actions`."""

import torch
from gymnasium.spaces import Box

import pgzoo
from pgzoo.errors import UnfitError
from pgzoo.ops.losses import value_loss, weighted_mean
from pgzoo.types import AlgorithmState


class ClippedLogProb:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def init(self, ctx, rng):
        if not isinstance(ctx.spec.action_space, Box):
            raise UnfitError("clipped-log-prob trains on Box actions only")
        return AlgorithmState({}, {})

    def update(self, ctx, state, trajectory):
        low, high = (torch.from_numpy(bound) for bound in (ctx.spec.action_space.low, ctx.spec.action_space.high))
        trajectory = trajectory._replace(actions=trajectory.actions.clamp(low, high))
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated)
        return ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        return 0.5 * value_loss(output.value, batch.returns, batch.weights) - weighted_mean(score, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("clipped-log-prob", ClippedLogProb, actions="Box")
