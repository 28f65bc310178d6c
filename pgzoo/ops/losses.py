"""Reductions over a batch, one number per member.

Batches are padded, and how much depends on the longest episode of any member. Sums along a contiguous axis change in
their last bit with its length, so a member would not be what it is alone. A running sum does not: zeros after the
end change nothing.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["standardise", "weighted_mean", "weighted_std", "weighted_sum"]


def weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Sum of `weights * x` over the last two axes: `[S, T, B] -> [S]`, whatever the padding."""
    return (x * weights).flatten(-2).cumsum(-1)[..., -1]


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """Mean of `x` over weighted rows, `[S, T, B] -> [S]`; 0 for a member without any."""
    total = weights.flatten(-2).cumsum(-1)[..., -1]
    return weighted_sum(x, weights) / total.clamp(min=1.0)


def weighted_std(x: Tensor, weights: Tensor) -> Tensor:
    """Standard deviation (biased: divided by n) of `x` over rows with weight, `[S, T, B] -> [S]`."""
    mean = weighted_mean(x, weights)[..., None, None]
    return weighted_mean((x - mean) ** 2, weights).sqrt()


def standardise(x: Tensor, weights: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale `x` to mean 0 and deviation 1 over each member's own rows: `[S, T, B] -> [S, T, B]`."""
    mean, std = weighted_mean(x, weights), weighted_std(x, weights)
    return (x - mean[..., None, None]) / (std[..., None, None] + eps)
