"""The skewness of the advantages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pgzoo.diagnostics.batches import batch_of, why_no_batch
from pgzoo.ops.losses import weighted_mean
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
    """Return the skewness of `x [S, T, B]` over the rows with weight, `[S]`; 0 if all are equal."""
    centered = torch.where(weights > 0, x - weighted_mean(x, weights)[:, None, None], 0.0)
    largest = centered.abs().amax((-2, -1), keepdim=True)
    centered = centered / torch.where(largest > 0, largest, 1.0)  # powers of very small numbers would be 0
    variance = weighted_mean(centered.square(), weights)
    third = weighted_mean(centered.square() * centered, weights)
    return torch.where(variance > 0, third / (variance * variance.sqrt()), 0.0)
