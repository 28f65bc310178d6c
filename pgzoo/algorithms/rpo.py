"""RPO: robust policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from pgzoo.config import ClipRange, MinibatchConfig, Minibatches, OptimizerEps, RolloutSteps
from pgzoo.ops.losses import (
    actor_critic_loss,
    clip_fraction,
    clipped_surrogate,
    kl_estimate,
    standardize,
    weighted_mean,
)
from pgzoo.types import Batch, Hyper, Loss, Need, Params, Steps, TrainState, Trajectory


class RPOConfig(MinibatchConfig):
    """Settings of `rpo`."""

    optimizer_eps: OptimizerEps = 1e-5
    rollout_steps: RolloutSteps = 512
    minibatches: Minibatches = 8
    clip_range: ClipRange = 0.2
    alpha: Annotated[float, Field(ge=0, description="the mean is moved by at most so much, before any rescaling")] = 0.5


class RPO:
    """RPO: PPO that never trusts its own mean: in the update the policy's is moved by noise.

        L(θ) = E[ min(r A, clip(r, 1-ε, 1+ε) A) ],  r = p(a; μ(s; θ) + z, σ) / π_old(a|s),  z ~ U(-α, α)

    What acts is the policy without noise. To make an action likely under every shift, the policy must stay wider than
    α, so that it doesn't stop exploring. The noise of a row is drawn anew in each epoch. α = 0 is PPO.

    Shapes: a batch is `[S, T, B]`, z is `[S, T, B, A]`, the loss `[S]`.
    Source: Rahman & Xue (2022), Robust policy optimization in deep reinforcement learning, algorithm 1.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "log_probs", "shift"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 4,
        "total_steps": 200_000,
        "gamma": 0.9,
        "normalize_reward": True,
    }

    def collect(self, settings: RPOConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Several epochs of gradient steps on one collection, each with noise of its own."""
        old = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, old)
        members, *shape = trajectory.actions.shape
        for epoch in range(ctx.plan.config.settings.epochs):
            generators = [ctx.rng("rpo.shift", member, state, epoch) for member in range(members)]
            noise = np.stack([2 * rng.random(shape, np.float32) - 1 for rng in generators])  # [S, T, N, A]
            extra = {"noise": torch.from_numpy(noise)}
            for batch in ctx.minibatches(state, trajectory, targets, old, epochs=range(epoch, epoch + 1), extra=extra):
                state = ctx.step(self.loss, state, batch)
        return state

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The clipped surrogate of the shifted policy, the critic's error and the bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages

        assert batch.extra is not None
        output = output._replace(dist=output.dist.shift(hyper.alpha[..., None] * batch.extra["noise"]))
        log_ratio = output.dist.log_prob(batch.actions) - batch.log_probs
        ratio = log_ratio.exp()
        policy_loss = -weighted_mean(clipped_surrogate(ratio, advantage, hyper.clip_range), weights)
        moved = {
            "policy/kl": kl_estimate(log_ratio, weights),
            "policy/clip_fraction": clip_fraction(ratio, hyper.clip_range, weights),
        }
        return actor_critic_loss(policy_loss, output, batch, hyper, moved)
