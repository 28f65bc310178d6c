"""NPG: natural policy gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pgzoo.config import (
    AlgorithmConfig,
    CGSteps,
    CriticLearningRate,
    CriticSteps,
    Damping,
    NormalizeAdvantages,
    RolloutSteps,
)
from pgzoo.ops.losses import actor_loss, advantages_of, policy_gradient_loss
from pgzoo.ops.natural import damped, mean_kl, natural_step
from pgzoo.ops.optim import flatten, unflatten
from pgzoo.ops.updates import fit_critic, whole_batch
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import Batch, Hyper, Loss, Need, Params, TrainState, Trajectory


class NPGConfig(AlgorithmConfig):
    """Settings of `npg`; the optimizer settings apply to the critic only."""

    learning_rate: CriticLearningRate = 1e-2
    rollout_steps: RolloutSteps = 256
    critic_steps: CriticSteps = 10
    normalize_advantages: NormalizeAdvantages = True
    step_kl: Annotated[
        float, Field(gt=0, description="step size: KL(old || new) of each policy step, by a quadratic model")
    ] = 0.01
    cg_steps: CGSteps = 10
    damping: Damping = 0.1


class NPG:
    """NPG: steepest ascent with distances measured between policies, not between parameters.

        θ ← θ + √(2δ / gᵀH⁻¹g) H⁻¹g,  g = E[ A ∇ log π(a|s; θ) ],  H = F + λI,  F = E[ ∇ log π ∇ log πᵀ ]

    F is the Hessian of KL(π_old || π) at π_old. Conjugate gradient computes H⁻¹g from products with H. Without the
    damping λ, every update has the KL divergence δ, up to the error of the quadratic model; with it, at most that. The
    critic is fitted afterwards, with many gradient steps on the same data.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Kakade (2001), A natural policy gradient; Rajeswaran et al. (2017), Towards generalization and simplicity in
        continuous control, section 3.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "old"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 150_000}

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Take one natural-gradient step of the policy, then `critic_steps` gradient steps of the critic."""
        hyper, batch = ctx.hyper(state), whole_batch(ctx, state, trajectory)

        result, gradient = ctx.gradient(self.loss, state, batch, only="policy.")
        fisher = damped(ctx.hvp(mean_kl, state, batch, only="policy."), hyper.per_member.damping)
        step = natural_step(fisher, -gradient, hyper.per_member.step_kl, hyper.cg_steps)
        vector = flatten(state.params.values()) + step
        kl = mean_kl(ctx.policy, unflatten(vector, state.params) | state.buffers, batch, hyper)
        metrics = {**result.metrics, "policy/kl": kl}
        state = ctx.move(state, vector, batch=batch, value=result.value, gradient=gradient, metrics=metrics)

        return fit_critic(ctx, state, batch)

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the loss whose gradient is minus the policy gradient g."""
        dist = policy.apply(params, batch.inputs).dist
        return actor_loss(policy_gradient_loss(dist, advantages_of(batch, hyper), batch), dist, batch)
