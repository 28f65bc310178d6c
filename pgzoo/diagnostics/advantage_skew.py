"""The skewness of the advantages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pgzoo.diagnostics.batches import batch_of, why_no_batch
from pgzoo.ops.losses import standardize, weighted_mean
from pgzoo.protocols import UpdateContext
from pgzoo.types import TrainState, Trajectory


class AdvantageSkew:
    """The skewness of the advantages of an update, E[(A - E[A])³] / Var[A]^1.5, before any standardization.

    It is 0 for a symmetric distribution. A large absolute value says that few steps dominate the update.
    """

    def fits(self, plan: Any) -> str:
        """Return why it can't measure the run; an empty string if it can."""
        return why_no_batch(plan)

    def measure(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> Tensor:
        """Return the skewness `[S]`; 0 if all advantages are equal."""
        batch = batch_of(ctx, state, trajectory)
        return skewness(batch.advantages, batch.weights)


def skewness(x: Tensor, weights: Tensor) -> Tensor:
    """Return the skewness of `x [S, T, B]`, `[S]`; 0 if all are equal up to rounding."""
    largest = (x * weights).abs().amax((-2, -1))
    unit = x / torch.where(largest > 0, largest, 1.0)[:, None, None]  # powers of small numbers would underflow
    skew = weighted_mean(standardize(unit, weights) ** 3, weights)
    return torch.where(weights.sum((-2, -1)) > 1, skew, 0.0)
