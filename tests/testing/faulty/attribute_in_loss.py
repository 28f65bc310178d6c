"""The loss reads an attribute that changes from update to update: `loss-arguments`."""

import torch

import pgzoo
from pgzoo.ops.losses import value_loss, weighted_mean
from pgzoo.types import AlgorithmState


class AttributeInLoss:
    """An actor-critic on short windows (Mnih et al. 2016)."""

    collect = pgzoo.Steps(16)
    estimator = "gae"
    needs = ("value",)
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def init(self, ctx, rng):
        return AlgorithmState({}, {"attribute.beta": torch.tensor(0.01)})

    def update(self, ctx, state, trajectory):
        self.beta = state.buffers["attribute.beta"]
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated)
        state = ctx.step(self.loss, state, ctx.batch(trajectory, targets, evaluated))
        return state._replace(buffers=state.buffers | {"attribute.beta": 2 * self.beta})

    def loss(self, policy, params, batch, hyper):
        output = policy.apply(params, batch.inputs)
        score = output.dist.log_prob(batch.actions) * batch.advantages
        entropy = weighted_mean(output.dist.entropy(), batch.weights)
        critic = 0.5 * value_loss(output.value, batch.returns, batch.weights)
        return critic - weighted_mean(score, batch.weights) - self.beta * entropy


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("attribute-in-loss", AttributeInLoss)
