"""Helper functions for updates, shared by several algorithms."""

from __future__ import annotations

from itertools import repeat

from pgzoo.ops.losses import critic_loss
from pgzoo.protocols import UpdateContext
from pgzoo.types import Batch, TrainState, Trajectory

__all__ = ["fit_critic", "whole_batch"]


def whole_batch(ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> Batch:
    """Evaluate the policy on a trajectory, estimate advantages and returns, and return all of it as one batch."""
    evaluated = ctx.evaluate_policy(state, trajectory)
    batch: Batch = ctx.batch(trajectory, ctx.estimate(state, trajectory, evaluated), evaluated)
    return batch


def fit_critic(ctx: UpdateContext, state: TrainState, batch: Batch) -> TrainState:
    """Take `critic_steps` gradient steps (a setting) on the critic alone, each on the whole batch."""
    return ctx.steps(critic_loss, state, repeat(batch, ctx.settings.critic_steps), only="critic.")
