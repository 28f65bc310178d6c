"""PPO: proximal policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pgzoo.config import ClipRange, MinibatchConfig, OptimizerEps, Static
from pgzoo.ops.losses import (
    actor_critic_loss,
    advantages_of,
    clipped_surrogate,
    clipped_value_loss,
    log_importance_ratio,
    ratio_metrics,
    weighted_mean,
)
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import AlgorithmState, Batch, Hyper, Loss, Need, Params, TrainState, Trajectory


class PPOConfig(MinibatchConfig):
    """Settings of `ppo`."""

    renamed: ClassVar[Mapping[str, str]] = {"kl_aim": "adaptive_kl_target"}

    optimizer_eps: OptimizerEps = 1e-5
    clip_range: ClipRange = 0.2
    clip_range_schedule: Annotated[
        Literal["constant", "linear"], Field(description="keep the clip range, or anneal it linearly to 0")
    ] = "constant"
    clip_value: Annotated[
        float | None, Field(gt=0, description="clip range of the value function; none: no value clipping")
    ] = None
    dual_clip: Annotated[
        float | None,
        Field(gt=1, description="bound the loss of a bad action at this multiple of its advantage; none: no bound"),
    ] = None
    target_kl: Annotated[
        float | None, Field(gt=0, description="stop an update early once KL(old || new) exceeds 1.5 times this value")
    ] = None
    kl_coef: Annotated[
        float,
        Static,
        Field(ge=0, description="weight of a penalty on KL(old || new); the initial weight if it is adaptive"),
    ] = 0.0
    adaptive_kl_target: Annotated[
        float | None,
        Static,
        Field(
            gt=0,
            description="target KL for an adaptive kl_coef (initially 1 unless set); none: kl_coef is constant",
        ),
    ] = None
    recompute_advantages: Annotated[bool, Field(description="estimate advantages again before each epoch")] = False


class PPO:
    """PPO: several epochs per rollout, with a clipped objective that removes the incentive to leave the old policy.

        L(θ) = E[ min(r A, clip(r, 1-ε, 1+ε) A) ],  r = π(a|s; θ) / π_old(a|s)

    Options: a penalty β KL(π_old || π) instead of or in addition to clipping, with an adaptive β; early stopping of an
    update by its KL; value clipping; dual clipping, max(min(...), c A) where A < 0, which bounds the loss of a bad
    action whose probability has grown; advantages estimated again before each epoch.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Schulman et al. (2017), Proximal policy optimization algorithms, sections 3-5; dual clipping: Ye et al.
        (2020), Mastering complex control in MOBA games, eq. 5; recomputed advantages: Andrychowicz et al. (2021), What
        matters in on-policy reinforcement learning, section 3.5.
    """

    estimator = "gae"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 100_000, "gamma": 0.98}

    def needs(self, settings: PPOConfig) -> set[Need]:
        """Return the needs; only the KL penalty needs the old distribution itself."""
        return {"value", "log_probs", "old"} if _penalized(settings) else {"value", "log_probs"}

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Return the initial weight of the KL penalty."""
        if not _penalized(ctx.settings):
            return AlgorithmState({}, {})
        # an adaptive weight can't start at 0, because it is changed by doubling and halving
        return AlgorithmState({}, {"ppo.kl_coef": torch.tensor(ctx.settings.kl_coef or 1.0)})

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Take gradient steps for several epochs on one rollout."""
        settings = ctx.settings
        old = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, old)
        first = range(1 if settings.recompute_advantages else settings.epochs)
        state = ctx.steps(self.loss, state, ctx.minibatches(state, trajectory, targets, old, epochs=first))
        for epoch in range(len(first), settings.epochs):
            now = ctx.evaluate_policy(state, trajectory)
            targets, old = ctx.estimate(state, trajectory, now), old._replace(values=now.values)
            batches = ctx.minibatches(state, trajectory, targets, old, epochs=range(epoch, epoch + 1))
            state = ctx.steps(self.loss, state, batches)
        if settings.adaptive_kl_target is None:
            return state
        kl = weighted_mean(old.dist.kl(ctx.evaluate_policy(state, trajectory).dist), targets.weights)
        kl_coef = adapt_kl_coef(state.buffers["ppo.kl_coef"], kl, settings.adaptive_kl_target)
        return state._replace(buffers=state.buffers | {"ppo.kl_coef": kl_coef})

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the clipped surrogate loss, the critic's loss and the entropy bonus."""
        output, advantages = policy.apply(params, batch.inputs), advantages_of(batch, hyper)
        clip_range = hyper.clip_range * (hyper.remaining if hyper.clip_range_schedule == "linear" else 1.0)

        log_ratio = log_importance_ratio(output.dist, batch)
        surrogate = clipped_surrogate(log_ratio.exp(), advantages, clip_range)
        if hyper.dual_clip is not None:
            surrogate = torch.where(advantages < 0, torch.maximum(surrogate, hyper.dual_clip * advantages), surrogate)
        critic = None
        if hyper.clip_value is not None:
            critic = clipped_value_loss(output.value, batch.values, batch.returns, hyper.clip_value, batch.weights)

        metrics = ratio_metrics(log_ratio, clip_range, batch.weights)
        loss = actor_critic_loss(-weighted_mean(surrogate, batch.weights), output, batch, hyper, metrics, critic)
        if batch.old is not None:
            penalty = params["ppo.kl_coef"] * weighted_mean(batch.old.kl(output.dist), batch.weights)
            loss = loss._replace(value=loss.value + penalty)
        if hyper.target_kl is not None:
            loss = loss._replace(halt=metrics["policy/kl"] > 1.5 * hyper.per_member.target_kl)
        return loss


def adapt_kl_coef(coef: Tensor, kl: Tensor, target: float) -> Tensor:
    """Double the penalty's weight `[S]` if the `kl [S]` of an update was too large, halve it if it was too small.

    Source: Schulman et al. (2017), section 4.
    """
    adapted = torch.where(kl > 1.5 * target, coef * 2, torch.where(kl < target / 1.5, coef / 2, coef))
    return adapted.clamp(1e-6, 1e6)


def _penalized(settings: PPOConfig) -> bool:
    return settings.kl_coef > 0 or settings.adaptive_kl_target is not None
