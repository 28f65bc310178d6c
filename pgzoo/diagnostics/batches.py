"""The batch that several diagnostics measure."""

from __future__ import annotations

from typing import Any

from pgzoo.protocols import UpdateContext
from pgzoo.types import Batch, TrainState, Trajectory

__all__ = ["batch_of", "why_no_batch"]


def why_no_batch(plan: Any) -> str:
    """Return why `batch_of` can't estimate the algorithm's advantages; an empty string if it can."""
    return "the algorithm's advantages come from a critic of its own" if "own_values" in plan.needs else ""


def batch_of(ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> Batch:
    """Return a trajectory as one batch, with the advantages of the run's estimator."""
    evaluated = ctx.evaluate_policy(state, trajectory)
    return ctx.batch(trajectory, ctx.estimate(state, trajectory, evaluated), evaluated)
