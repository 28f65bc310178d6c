# a2c_rnd.py: the example of auxiliary-network.md
from typing import Annotated

import torch
from pydantic import Field

import pgzoo
from pgzoo.config import ActorCriticConfig
from pgzoo.ops.losses import actor_critic_loss, policy_gradient_loss, weighted_mean
from pgzoo.ops.nets import init_mlp, layers_of, mlp
from pgzoo.types import AlgorithmState, Inputs


class Config(ActorCriticConfig):
    """Adds two settings to those of an actor-critic: rollout_steps, value_coef, entropy_coef, max_grad_norm."""

    rollout_steps: Annotated[int, Field(gt=0, description="steps per environment and update")] = 16
    bonus_coef: Annotated[float, Field(ge=0, description="weight of the exploration bonus in the rewards")] = 0.1
    predictor_learning_rate: Annotated[float, Field(gt=0, description="learning rate of the predictor")] = 1e-3


def features(network, params, vectors):
    """Apply one of the two networks: `[S, T, B, D] -> [S, T, B, 16]`."""
    rows = mlp(layers_of(params, f"rnd.{network}."), vectors.flatten(1, 2), "relu")  # takes and returns [S, rows, ...]
    return rows.unflatten(1, vectors.shape[1:3])


def novelty(params, vectors):
    """Return the predictor's error for each observation, `[S, T, B, D] -> [S, T, B]`."""
    return (features("predictor", params, vectors) - features("target", params, vectors)).square().mean(-1)


class A2CRND:
    """A2C with a bonus for novel observations: random network distillation.

    Source: Burda et al. (2018), Exploration by random network distillation.
    """

    needs = frozenset({"value"})
    estimator = "gae"
    config = Config
    defaults = {"num_envs": 8, "total_steps": 100_000, "learning_rate": 3e-3, "normalize_obs": True}

    def init(self, ctx, rng):
        """Return the predictor, which is learned, and the target, which isn't, of one seed: without a seed axis."""

        def network(name):
            sizes = (ctx.policy.vector_size, 64, 16)
            layers = init_mlp(rng, sizes, activation="relu", init="orthogonal", last_gain=1.0)
            return {f"rnd.{name}.{layer}": tensor for layer, tensor in layers.items()}

        return AlgorithmState(params=network("predictor"), buffers=network("target"))

    def update(self, ctx, state, trajectory):
        """Add the bonus to the rewards, then learn policy, critic and predictor."""
        hyper = ctx.hyper(state)
        with torch.no_grad():
            params = {**state.params, **state.buffers}
            errors = novelty(params, ctx.policy.vectors(params, Inputs(trajectory.obs)))[..., 1:, :]  # [S, T, N]
        bonus = torch.where(trajectory.valid & ~trajectory.terminated, hyper.bonus_coef * errors, 0.0)
        ctx.report({"rnd/bonus_mean": weighted_mean(bonus, trajectory.valid.float())})
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated, bonus=bonus)
        rates = {"rnd.": hyper.per_member.predictor_learning_rate}
        for batch in ctx.minibatches(state, trajectory, targets, evaluated):
            state = ctx.step(self.loss, state, batch, learning_rates=rates)
        return state

    def loss(self, policy, params, batch, hyper):
        """Return the loss of A2C plus that of the predictor, `[S]`. `params` has the buffers, too."""
        output = policy.apply(params, batch.inputs)
        a2c = actor_critic_loss(policy_gradient_loss(output.dist, batch.advantages, batch), output, batch, hyper)
        predictor = weighted_mean(novelty(params, policy.vectors(params, batch.inputs)), batch.weights)
        return pgzoo.Loss(a2c.value + predictor, {**a2c.metrics, "loss/predictor": predictor.detach()})
