"""NPG: the natural policy gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pgzoo.config import AlgorithmConfig, CGSteps, CriticSteps, Damping, NormalizeAdvantages, RolloutSteps
from pgzoo.ops.losses import critic_loss, standardize, weighted_mean
from pgzoo.ops.natural import damped, mean_kl, natural_step
from pgzoo.ops.optim import flatten, unflatten
from pgzoo.types import Batch, Hyper, Loss, Need, Params, Steps, TrainState, Trajectory


class NPGConfig(AlgorithmConfig):
    """Settings of `npg`; the optimizer is the critic's."""

    learning_rate: Annotated[float, Field(gt=0, description="step size of the critic's optimizer")] = 1e-2
    rollout_steps: RolloutSteps = 256
    critic_steps: CriticSteps = 10
    normalize_advantages: NormalizeAdvantages = True
    step_kl: Annotated[
        float, Field(gt=0, description="divergence of an update, by the quadratic model: the policy's step size")
    ] = 0.01
    cg_steps: CGSteps = 10
    damping: Damping = 0.1


class NPG:
    """NPG: steepest ascent where distance is that between policies, not between their parameters.

        θ ← θ + √(2δ / gᵀF⁻¹g) F⁻¹g,  g = E[ A ∇ log π(a|s; θ) ],  F = E[ ∇ log π ∇ log πᵀ ]

    F is the Hessian of KL(π_old || π) at π_old. F⁻¹g is found by conjugate gradient from products with F + λI alone;
    δ makes every update equally large to the policy. The critic is fitted afterwards, many steps on the same data.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Kakade (2001), A natural policy gradient; Rajeswaran et al. (2017), Towards generalization and simplicity in
        continuous control, section 3.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "old"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 150_000}

    def collect(self, settings: NPGConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        """A natural step of the policy, then `critic_steps` of the critic."""
        settings, hyper = ctx.plan.config.settings, ctx.hyper(state)
        evaluated = ctx.evaluate_policy(state, trajectory)
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory, evaluated), evaluated)

        result, gradient = ctx.gradient(self.loss, state, batch, only="policy.")
        fisher = damped(ctx.hvp(mean_kl, state, batch, only="policy."), hyper.damping.flatten())
        step = natural_step(fisher, -gradient, hyper.step_kl.flatten(), settings.cg_steps)
        vector = flatten(state.params.values()) + step
        kl = mean_kl(ctx.policy, unflatten(vector, state.params) | state.buffers, batch, hyper)
        metrics = {**result.metrics, "policy/kl": kl}
        state = ctx.move(state, vector, batch=batch, value=result.value, gradient=gradient, metrics=metrics)

        for _ in range(settings.critic_steps):
            state = ctx.step(critic_loss, state, batch, only="critic.")
        return state

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The score weighted by the advantage."""
        dist, weights = policy.apply(params, batch.inputs).dist, batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        policy_loss = -weighted_mean(dist.log_prob(batch.actions) * advantage, weights)
        entropy = weighted_mean(dist.entropy(), weights)
        return Loss(policy_loss, {"loss/policy": policy_loss, "policy/entropy": entropy})
