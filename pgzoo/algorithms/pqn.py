"""PQN: parallelized Q-network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from pgzoo.config import (
    AlgorithmConfig,
    Epochs,
    LearningRate,
    LearningRateSchedule,
    MaxGradNorm,
    Minibatches,
    RolloutSteps,
    Static,
)
from pgzoo.ops.losses import explained_variance, value_loss, weighted_mean
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import Batch, Hyper, Loss, Need, Params, TrainState

EPSILON = "policy.epsilon"


class PQNConfig(AlgorithmConfig):
    """Settings of `pqn`."""

    learning_rate: LearningRate = 1e-3
    learning_rate_schedule: LearningRateSchedule = "linear"
    max_grad_norm: MaxGradNorm = 10.0
    rollout_steps: RolloutSteps = 32
    epochs: Epochs = 4
    minibatches: Minibatches = 4
    epsilon_start: Annotated[
        float, Field(ge=0, le=1, description="probability of a random action at the start of the run")
    ] = 1.0
    epsilon_end: Annotated[
        float, Field(ge=0, le=1, description="probability of a random action after the annealing")
    ] = 0.05
    epsilon_decay: Annotated[
        float, Static, Field(gt=0, le=1, description="fraction of the run over which the probability is annealed")
    ] = 0.3


class PQN:
    """PQN: Q-learning from parallel environments, with λ-returns and layer normalization, but no replay or target.

        L(θ) = ½ E[ (Q(s, a; θ) - G)² ],  Gₜ = rₜ + γ ((1 - λ) max_a Q(sₜ₊₁, a) + λ Gₜ₊₁)

    The policy's network computes Q(s, ·). Actions are random with probability ε, which is annealed linearly, and
    otherwise the ones with the largest value. The returns G are computed once per rollout, with the parameters at its
    start. Layer normalization bounds the growth of Q that makes off-policy temporal differences diverge; it replaces
    the target network. The actions of a return may be exploratory; it is not corrected for that.

    Differences from the authors' code: Adam instead of RAdam.

    Shapes: a batch and the returns are `[S, T, B]`, Q `[S, T, B, K]`, the loss `[S]`.
    Source: Gallici et al. (2025), Simplifying deep temporal difference learning, algorithm 1, ICLR; arXiv 2407.04811.
    """

    estimator = "td-lambda"
    needs: ClassVar[frozenset[Need]] = frozenset({"action_values"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 16,
        "total_steps": 200_000,
        "policy": {
            "name": "mlp",
            "hidden": [64, 64],
            "activation": "relu",
            "layer_norm": True,
        },
    }

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        """Set ε, collect a rollout and learn from it, per round."""
        while ctx.running():
            state, trajectory = ctx.collect(self.anneal(ctx, ctx.state))
            evaluated = ctx.evaluate_policy(state, trajectory)
            targets = ctx.estimate(state, trajectory, evaluated)
            batches = ctx.minibatches(state, trajectory, targets, evaluated)
            ctx.state = ctx.steps(self.loss, state, batches)
            yield

    def anneal(self, ctx: UpdateContext, state: TrainState) -> TrainState:
        """Return the state with the ε of each member, from its progress at the start of the last update."""
        start, end = (
            np.array([getattr(member.config.settings, name) for member in ctx.members])
            for name in ("epsilon_start", "epsilon_end")
        )
        remaining = np.clip(1 - state.progress / ctx.settings.epsilon_decay, 0.0, 1.0)
        epsilon = torch.from_numpy((end + (start - end) * remaining).astype(np.float32)[:, None])
        return state._replace(params=state.params | {EPSILON: epsilon.to(state.params[EPSILON].device)})

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return half the mean squared error of Q(s, a)."""
        dist: Any = policy.apply(params, batch.inputs).dist
        taken = dist.value_of(batch.actions)
        error = value_loss(taken, batch.returns, batch.weights)
        return Loss(
            error,
            {
                "loss/value": error,
                "value/explained_variance": explained_variance(taken.detach(), batch.returns, batch.weights),
                "pqn/action_value": weighted_mean(taken.detach(), batch.weights),
                "pqn/epsilon": params[EPSILON][:, 0].detach(),
            },
        )
