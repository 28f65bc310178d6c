"""The signal-to-noise ratio of the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pgzoo.diagnostics.batches import why_no_batch
from pgzoo.protocols import UpdateContext
from pgzoo.types import Metrics, TrainState, Trajectory

MINIBATCHES = 8
"""Number of minibatches between which the variance of the gradient is measured."""


class GradientSNR:
    """The squared norm of the mean gradient, relative to the gradient's variance between minibatches.

        g_k  gradient of the loss on minibatch k, k = 1 ... K
        ratio = |mean g|² / variance,  variance = Σ_k |g_k - mean g|² / (K - 1)

    The trajectory is split into K = 8 minibatches (for a policy with memory, at most one per environment), with the
    parameters that collected it. A ratio far below 1 says that single minibatches point in random directions: larger
    batches or more environments help. It needs an algorithm with a method `loss` that doesn't read `batch.extra`.
    """

    def fits(self, plan: Any) -> str:
        """Return an empty string for an algorithm that has a `loss`, else the reason why it can't be measured."""
        loss = getattr(plan.algorithm, "loss", None)
        if loss is None:
            return "the algorithm has no method loss"
        if "extra" in getattr(getattr(loss, "__code__", None), "co_names", ()):
            return "the algorithm's loss reads batch.extra, which only its own update adds to the batches"
        return why_no_batch(plan)

    def measure(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> Metrics:
        """Return the ratio and the variance, `[S]` each.

        Both are NaN for a trajectory that has only one minibatch, and the ratio for gradients that are all 0.
        """
        evaluated = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, evaluated)
        loss = ctx.algorithm.loss
        batches = ctx.minibatches(state, trajectory, targets, evaluated, epochs=range(1), count=MINIBATCHES)
        gradients = [ctx.gradient(loss, state, batch)[1] for batch in batches]
        return signal_to_noise(torch.stack(gradients))


def signal_to_noise(gradients: Tensor) -> Metrics:
    """Return the ratio and the variance of `gradients [K, S, P]`, `[S]` each; see `GradientSNR.measure`."""
    count = len(gradients)
    largest = gradients.abs().amax((0, 2))
    largest = torch.where(largest > 0, largest, 1.0)
    unit = gradients / largest[:, None]  # squares of small numbers would underflow
    mean = unit.sum(0) / count  # [S, P]
    noise = (unit - mean).square().sum(0).sum(1)
    variance = noise / (count - 1) if count > 1 else noise * torch.nan
    return {"ratio": mean.square().sum(1) / variance, "variance": variance * largest.square()}
