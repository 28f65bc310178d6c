"""PPO: proximal policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from pgzoo.config import ClipRange, MinibatchConfig, OptimizerEps, Static
from pgzoo.ops.losses import (
    clip_fraction,
    clipped_surrogate,
    explained_variance,
    kl_estimate,
    standardize,
    value_loss,
    weighted_mean,
)
from pgzoo.types import AlgorithmState, Batch, Hyper, Loss, Need, Params, Steps, TrainState, Trajectory


class PPOConfig(MinibatchConfig):
    """Settings of `ppo`."""

    optimizer_eps: OptimizerEps = 1e-5
    clip_range: ClipRange = 0.2
    clip_range_schedule: Annotated[
        Literal["constant", "linear"], Field(description="keep the clip range, or anneal it to 0 at the last step")
    ] = "constant"
    clip_value: Annotated[
        float | None, Field(gt=0, description="how far a value may move from the old one and still gain; none: any")
    ] = None
    dual_clip: Annotated[
        float | None, Field(gt=1, description="bound a bad action's loss at so many times its advantage; none: don't")
    ] = None
    target_kl: Annotated[
        float | None, Field(gt=0, description="end an update when KL(old || new) is 1.5 times this; none: don't")
    ] = None
    kl_coef: Annotated[float, Static, Field(ge=0, description="weight of a penalty on KL(old || new), the first")] = 0.0
    kl_aim: Annotated[
        float | None,
        Static,
        Field(gt=0, description="adapt that weight until an update's KL is about this; none: keep it"),
    ] = None
    recompute_advantages: Annotated[bool, Field(description="estimate anew before each epoch")] = False


class PPO:
    """PPO: take several steps on the same data, and gain nothing by moving the policy far from the one that collected.

        L(θ) = E[ min(r A, clip(r, 1-ε, 1+ε) A) ],  r = π(a|s; θ) / π_old(a|s)

    Options: a penalty β KL(π_old || π) instead of or beside the clipping, with β adapted; an end of the update at a KL;
    value clipping; dual clipping max(min(...), c A) where A < 0, which bounds the loss of a bad action whose
    probability has grown; advantages estimated anew in each epoch.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Schulman et al. (2017), Proximal policy optimization algorithms, sections 3-5; dual clipping: Ye et al.
        (2020), Mastering complex control in MOBA games, eq. 5; advantages anew: Andrychowicz et al. (2021), What
        matters in on-policy reinforcement learning, section 3.5.
    """

    estimator = "gae"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 100_000, "gamma": 0.98}

    def collect(self, settings: PPOConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def needs(self, settings: PPOConfig) -> set[Need]:
        """The old distribution itself is needed for the penalty alone."""
        return {"value", "log_probs", "old"} if _penalized(settings) else {"value", "log_probs"}

    def init(self, ctx: Any, rng: np.random.Generator) -> AlgorithmState:
        """The weight of the penalty is each member's own."""
        settings = ctx.plan.config.settings
        return AlgorithmState({}, {"ppo.kl_coef": torch.tensor(settings.kl_coef)} if _penalized(settings) else {})

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Several epochs of gradient steps on one collection."""
        settings = ctx.plan.config.settings
        old = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, old)
        for epoch in range(settings.epochs):
            if epoch and settings.recompute_advantages:
                now = ctx.evaluate_policy(state, trajectory)
                targets, old = ctx.estimate(state, trajectory, now), old._replace(values=now.values)
            for batch in ctx.minibatches(state, trajectory, targets, old, epochs=range(epoch, epoch + 1)):
                state = ctx.step(self.loss, state, batch)
        if settings.kl_aim is None:
            return state
        kl = weighted_mean(old.dist.kl(ctx.evaluate_policy(state, trajectory).dist), targets.weights)
        return state._replace(buffers=state.buffers | _adapted(state.buffers, kl, settings.kl_aim))

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The clipped surrogate, the critic's error and the bonus."""
        output, weights, coef = policy.apply(params, batch.inputs), batch.weights, hyper.value_coef.flatten()
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        clip = hyper.clip_range * (hyper.remaining if hyper.clip_range_schedule == "linear" else 1.0)

        log_ratio = output.dist.log_prob(batch.actions) - batch.log_probs
        ratio = log_ratio.exp()
        surrogate = clipped_surrogate(ratio, advantage, clip)
        if hyper.dual_clip is not None:
            surrogate = torch.where(advantage < 0, torch.maximum(surrogate, hyper.dual_clip * advantage), surrogate)
        policy_loss = -weighted_mean(surrogate, weights)
        entropy = weighted_mean(output.dist.entropy(), weights)

        values = output.value
        critic_loss = value_loss(values, batch.returns, weights)
        if hyper.clip_value is not None:  # the worse of the two errors, row by row
            near = batch.values + torch.clamp(values - batch.values, -hyper.clip_value, hyper.clip_value)
            errors = torch.maximum((values - batch.returns) ** 2, (near - batch.returns) ** 2)
            critic_loss = 0.5 * weighted_mean(errors, weights)

        loss = policy_loss + coef * critic_loss - hyper.entropy_coef.flatten() * entropy
        if batch.old is not None:
            loss = loss + params["ppo.kl_coef"] * weighted_mean(batch.old.kl(output.dist), weights)
        kl = kl_estimate(log_ratio, weights)
        return Loss(
            loss,
            {
                "loss/policy": policy_loss,
                "loss/value": critic_loss,
                "policy/entropy": entropy,
                "policy/kl": kl,
                "policy/clip_fraction": clip_fraction(ratio, clip, weights),
                "value/explained_variance": explained_variance(batch.values, batch.returns, weights),
            },
            halt=None if hyper.target_kl is None else kl > 1.5 * hyper.target_kl.flatten(),
        )


def _penalized(settings: PPOConfig) -> bool:
    return settings.kl_coef > 0 or settings.kl_aim is not None


def _adapted(buffers: Params, kl: torch.Tensor, aim: float) -> Params:
    """Twice the weight where the policy moved too far, half of it where it hardly moved (section 4 of the paper)."""
    coef = buffers["ppo.kl_coef"]
    coef = torch.where(kl > 1.5 * aim, coef * 2, torch.where(kl < aim / 1.5, coef / 2, coef))
    return {"ppo.kl_coef": coef.clamp(1e-6, 1e6)}
