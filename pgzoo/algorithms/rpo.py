"""RPO: robust policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pgzoo.config import ClipRange, MinibatchConfig, Minibatches, OptimizerEps, RolloutSteps
from pgzoo.ops.losses import (
    actor_critic_loss,
    advantages_of,
    clipped_surrogate,
    log_importance_ratio,
    ratio_metrics,
    weighted_mean,
)
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import Batch, Hyper, Loss, Need, Params, TrainState, Trajectory


class RPOConfig(MinibatchConfig):
    """Settings of `rpo`."""

    optimizer_eps: OptimizerEps = 1e-5
    rollout_steps: RolloutSteps = 512
    minibatches: Minibatches = 8
    clip_range: ClipRange = 0.2
    alpha: Annotated[
        float, Field(ge=0, description="half width of the uniform noise on the mean, before actions are rescaled")
    ] = 0.5


class RPO:
    """RPO: PPO with uniform noise on the mean of the policy's Gaussian while it learns.

        L(θ) = E[ min(r A, clip(r, 1-ε, 1+ε) A) ],  r = p(a; μ(s; θ) + z, σ) / π_old(a|s),  z ~ U(-α, α)

    The policy acts without this noise. For an action to be likely under every shift of the mean, the policy must stay
    wider than α, so it keeps exploring. Each row gets new noise in each epoch. With α = 0 this is PPO.

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

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Take gradient steps for several epochs on one rollout, each with new noise."""
        old = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, old)
        for epoch in range(ctx.settings.epochs):
            uniform = ctx.noise("rpo.shift", state, trajectory.actions.shape[1:], epoch, kind="uniform")
            extra = {"noise": 2 * uniform - 1}  # [S, T, N, A]
            epochs = range(epoch, epoch + 1)
            batches = ctx.minibatches(state, trajectory, targets, old, epochs=epochs, extra=extra)
            state = ctx.steps(self.loss, state, batches)
        return state

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the clipped surrogate loss with a shifted mean, the critic's loss and the entropy bonus."""
        assert batch.extra is not None
        output = policy.apply(params, batch.inputs)
        dist: Any = output.dist
        output = output._replace(dist=dist.shift(hyper.alpha[..., None] * batch.extra["noise"]))
        log_ratio = log_importance_ratio(output.dist, batch)
        surrogate = clipped_surrogate(log_ratio.exp(), advantages_of(batch, hyper), hyper.clip_range)
        metrics = ratio_metrics(log_ratio, hyper.clip_range, batch.weights)
        return actor_critic_loss(-weighted_mean(surrogate, batch.weights), output, batch, hyper, metrics)
