"""TRPO: trust region policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from pgzoo.config import AlgorithmConfig, CGSteps, CriticSteps, Damping, NormalizeAdvantages, RolloutSteps, Static
from pgzoo.ops.losses import critic_loss, standardize, weighted_mean
from pgzoo.ops.natural import backtrack, damped, mean_kl, natural_step
from pgzoo.ops.optim import flatten, unflatten
from pgzoo.types import Batch, Hyper, Loss, Need, Params, Steps, TrainState, Trajectory


class TRPOConfig(AlgorithmConfig):
    """Settings of `trpo`; the optimizer is the critic's."""

    learning_rate: Annotated[float, Field(gt=0, description="step size of the critic's optimizer")] = 1e-2
    rollout_steps: RolloutSteps = 256
    critic_steps: CriticSteps = 10
    normalize_advantages: NormalizeAdvantages = True
    max_kl: Annotated[float, Field(gt=0, description="radius of the trust region: KL(old || new), at most")] = 0.01
    cg_steps: CGSteps = 10
    damping: Damping = 0.1
    line_search_steps: Annotated[PositiveInt, Field(description="lengths of a step to try before it is given up")] = 10
    line_search_shrink: Annotated[
        float, Static, Field(gt=0, lt=1, description="each of them so many times the one before")
    ] = 0.8


class TRPO:
    """TRPO: the largest gain that stays within a trust region around the policy that collected.

        max L(θ) = E[ r A ],  r = π(a|s; θ) / π_old(a|s)  subject to  E[ KL(π_old || π) ] <= δ

    The natural step to the border of the region, by a linear model of L and a quadratic one of the divergence, is
    walked back until L has in fact grown and the divergence in fact is within δ. If that is nowhere so, the policy
    stays. The critic is fitted afterwards, many steps on the same data.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Schulman et al. (2015), Trust region policy optimization, sections 5-6 and appendix C.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "log_probs", "old"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 150_000}

    def collect(self, settings: TRPOConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        """A step of the policy within the trust region, then `critic_steps` of the critic."""
        settings, hyper = ctx.plan.config.settings, ctx.hyper(state)
        evaluated = ctx.evaluate_policy(state, trajectory)
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory, evaluated), evaluated)

        result, gradient = ctx.gradient(self.loss, state, batch, only="policy.")
        max_kl: Tensor = hyper.max_kl.flatten()
        fisher = damped(ctx.hvp(mean_kl, state, batch, only="policy."), hyper.damping.flatten())
        step = natural_step(fisher, -gradient, max_kl, settings.cg_steps)

        def at(vector: Tensor) -> tuple[Tensor, Tensor]:
            """By how much the surrogate has grown there, and how far that is: `[S]` each."""
            params = unflatten(vector, state.params) | state.buffers
            gain = result.value - self.loss(ctx.policy, params, batch, hyper).value
            return gain, mean_kl(ctx.policy, params, batch, hyper)

        def accept(vector: Tensor) -> Tensor:
            gain, kl = at(vector)
            holds: Tensor = (gain > 0) & (kl <= max_kl)
            return holds

        with torch.no_grad():
            start = flatten(state.params.values())
            vector, accepted, tried = backtrack(
                start, step, accept, settings.line_search_shrink, settings.line_search_steps
            )
            gain, kl = at(vector)
        metrics = {
            **result.metrics,
            "policy/kl": kl,
            "policy/surrogate_gain": gain,
            "policy/step_accepted": accepted.float(),
            "policy/line_search_steps": tried.float(),
        }
        state = ctx.move(state, vector, batch=batch, value=result.value, gradient=gradient, metrics=metrics)

        for _ in range(settings.critic_steps):
            state = ctx.step(critic_loss, state, batch, only="critic.")
        return state

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Minus the surrogate: the advantage weighted by how much likelier the action has become."""
        dist, weights = policy.apply(params, batch.inputs).dist, batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        ratio = (dist.log_prob(batch.actions) - batch.log_probs).exp()
        policy_loss = -weighted_mean(ratio * advantage, weights)
        entropy = weighted_mean(dist.entropy(), weights)
        return Loss(policy_loss, {"loss/policy": policy_loss, "policy/entropy": entropy})
