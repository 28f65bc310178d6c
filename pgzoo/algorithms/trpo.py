"""TRPO: trust region policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from pgzoo.config import (
    AlgorithmConfig,
    CGSteps,
    CriticLearningRate,
    CriticSteps,
    Damping,
    NormalizeAdvantages,
    RolloutSteps,
    Static,
)
from pgzoo.ops.losses import actor_loss, advantages_of, log_importance_ratio, weighted_mean
from pgzoo.ops.natural import backtrack, damped, mean_kl, natural_step
from pgzoo.ops.optim import flatten, unflatten
from pgzoo.ops.updates import fit_critic, whole_batch
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import Batch, Hyper, Loss, Need, Params, TrainState, Trajectory


class TRPOConfig(AlgorithmConfig):
    """Settings of `trpo`; the optimizer settings apply to the critic only."""

    learning_rate: CriticLearningRate = 1e-2
    rollout_steps: RolloutSteps = 256
    critic_steps: CriticSteps = 10
    normalize_advantages: NormalizeAdvantages = True
    max_kl: Annotated[float, Field(gt=0, description="radius of the trust region: maximum KL(old || new)")] = 0.01
    cg_steps: CGSteps = 10
    damping: Damping = 0.1
    line_search_steps: Annotated[
        PositiveInt, Field(description="maximum number of step lengths that the line search tries")
    ] = 10
    line_search_shrink: Annotated[
        float, Static, Field(gt=0, lt=1, description="factor between a step length and the next one tried")
    ] = 0.8


class TRPO:
    """TRPO: the largest improvement within a trust region around the policy that collected the data.

        max L(θ) = E[ r A ],  r = π(a|s; θ) / π_old(a|s)  subject to  E[ KL(π_old || π) ] <= δ

    The first candidate is the natural-gradient step to the border of the region, by a linear model of L and a quadratic
    model of the KL divergence, with damping added. A line search shortens the step until L has actually increased
    and the divergence is actually within δ. If no candidate passes, the policy doesn't change. The critic is fitted
    afterwards, with many gradient steps on the same data.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Schulman et al. (2015), Trust region policy optimization, sections 5-6 and appendix C.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "log_probs", "old"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 150_000}

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Take a policy step within the trust region, then `critic_steps` gradient steps of the critic."""
        settings, hyper = ctx.settings, ctx.hyper(state)
        batch = whole_batch(ctx, state, trajectory)
        max_kl: Tensor = hyper.per_member.max_kl

        result, gradient = ctx.gradient(self.loss, state, batch, only="policy.")
        fisher = damped(ctx.hvp(mean_kl, state, batch, only="policy."), hyper.per_member.damping)
        step = natural_step(fisher, -gradient, max_kl, settings.cg_steps)

        def judge(vector: Tensor) -> tuple[Tensor, Tensor]:
            """Return the gain of the surrogate objective and the KL divergence at these parameters, `[S]` each."""
            params = unflatten(vector, state.params) | state.buffers
            gain = result.value - self.loss(ctx.policy, params, batch, hyper).value
            return gain, mean_kl(ctx.policy, params, batch, hyper)

        def accept(vector: Tensor) -> Tensor:
            gain, kl = judge(vector)
            accepted: Tensor = (gain > 0) & (kl <= max_kl)
            return accepted

        with torch.no_grad():
            start = flatten(state.params.values())
            vector, accepted, tried = backtrack(
                start, step, accept, settings.line_search_shrink, settings.line_search_steps
            )
            gain, kl = judge(vector)
        metrics = {
            **result.metrics,
            "policy/kl": kl,
            "policy/surrogate_gain": gain,
            "policy/step_accepted": accepted.float(),
            "policy/line_search_steps": tried.float(),
        }
        state = ctx.move(state, vector, batch=batch, value=result.value, gradient=gradient, metrics=metrics)
        return fit_critic(ctx, state, batch)

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return minus the surrogate objective E[r A]."""
        dist = policy.apply(params, batch.inputs).dist
        ratio = log_importance_ratio(dist, batch).exp()
        return actor_loss(-weighted_mean(ratio * advantages_of(batch, hyper), batch.weights), dist, batch)
