"""Reductions over a batch, one number per member, and the losses that several algorithms share.

Batches are padded, and how much depends on the longest episode of any member. Sums along a contiguous axis change in
their last bit with its length, so a member would not be what it is alone. A running sum does not: zeros after the
end change nothing. It takes longer, so batches of one size for everybody may be summed in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pgzoo.ops.order import any_order
from pgzoo.types import Batch, Hyper, Loss, Output, Params

__all__ = [
    "actor_critic_loss",
    "apart",
    "clip_fraction",
    "clipped_surrogate",
    "critic_loss",
    "explained_variance",
    "kl_estimate",
    "log_mean_exp",
    "standardize",
    "value_loss",
    "weighted_max",
    "weighted_mean",
    "weighted_std",
    "weighted_sum",
]


def weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Sum of `weights * x` over the last two axes: `[S, T, B] -> [S]`, whatever the padding."""
    return _sum(x * weights)


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """Mean of `x` over weighted rows, `[S, T, B] -> [S]`; 0 for a member without any."""
    return weighted_sum(x, weights) / _sum(weights).clamp(min=1.0)


def _sum(x: Tensor) -> Tensor:
    return x.sum((-2, -1)) if any_order() else x.flatten(-2).cumsum(-1)[..., -1]


def weighted_std(x: Tensor, weights: Tensor) -> Tensor:
    """Standard deviation (biased: divided by n) of `x` over rows with weight, `[S, T, B] -> [S]`."""
    mean = weighted_mean(x, weights)[..., None, None]
    return weighted_mean((x - mean) ** 2, weights).sqrt()


def standardize(x: Tensor, weights: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale `x` to mean 0 and deviation 1 over each member's own rows: `[S, T, B] -> [S, T, B]`."""
    mean, std = weighted_mean(x, weights), weighted_std(x, weights)
    return (x - mean[..., None, None]) / (std[..., None, None] + eps)


def weighted_max(x: Tensor, weights: Tensor) -> Tensor:
    """The largest of `x` over rows with weight, `[S, T, B] -> [S]`; minus infinity for a member without any."""
    return torch.where(weights > 0, x, -torch.inf).amax((-2, -1))


def log_mean_exp(x: Tensor, weights: Tensor) -> Tensor:
    """Log E[exp x] over rows with weight, `[S, T, B] -> [S]`, without overflow."""
    top = weighted_max(x, weights).detach()
    above = torch.where(weights > 0, x - top[..., None, None], 0.0)
    return top + apart(torch.log, weighted_mean(above.exp(), weights))


def apart(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply `fn` to one number per member, `[S] -> [S]`, each in vectors of its own.

    exp, log and their like are rounded otherwise at the end of a vector than inside: on `[S]` itself the result of a
    member would depend on how many there are.
    """
    return fn(x.unsqueeze(-1).expand(*x.shape, 64).contiguous())[..., 0]


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_range: Tensor) -> Tensor:
    """What a policy gains in each row by its ratio to the old one, and gains no more outside of the clip range.

    min(r A, clip(r, 1-ε, 1+ε) A)

    Shapes: all `[S, T, B]`; `clip_range` broadcasts. Source: Schulman et al. (2017), Proximal policy optimization
    algorithms, eq. 7.
    """
    return torch.minimum(ratio * advantages, torch.clamp(ratio, 1 - clip_range, 1 + clip_range) * advantages)


def clip_fraction(ratio: Tensor, clip_range: Tensor, weights: Tensor) -> Tensor:
    """Share of the rows whose ratio is outside of the clip range, `[S, T, B] -> [S]`."""
    return weighted_mean(((ratio - 1).abs() > clip_range).float(), weights)


def value_loss(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """Half the mean squared error of a critic, `[S, T, B] -> [S]`.

    L = ½ E[(V - G)²]
    """
    return 0.5 * weighted_mean((values - returns) ** 2, weights)


def critic_loss(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
    """`value_loss` as a loss of its own, for steps of the critic alone. Its metrics are those of the whole fit."""
    loss = value_loss(policy.apply(params, batch.inputs).value, batch.returns, batch.weights)
    explained = explained_variance(batch.values, batch.returns, batch.weights)
    return Loss(loss, {"loss/value": loss, "value/explained_variance": explained})


def actor_critic_loss(
    policy_loss: Tensor, output: Output, batch: Batch, hyper: Hyper, metrics: Mapping[str, Tensor] = {}
) -> Loss:
    """A policy's loss beside its critic's and the bonus, with `metrics` among those that every actor-critic has.

    L = L_π + c_V ½ E[(V - G)²] - c_H E[H(π)]

    Shapes: `policy_loss` and `metrics` are `[S]`. Source: Mnih et al. (2016), Asynchronous methods for deep
    reinforcement learning, section 4.
    """
    error = value_loss(output.value, batch.returns, batch.weights)
    entropy = weighted_mean(output.dist.entropy(), batch.weights)
    return Loss(
        policy_loss + hyper.value_coef.flatten() * error - hyper.entropy_coef.flatten() * entropy,
        {
            "loss/policy": policy_loss,
            "loss/value": error,
            "policy/entropy": entropy,
            **metrics,
            "value/explained_variance": explained_variance(batch.values, batch.returns, batch.weights),
        },
    )


def kl_estimate(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """Estimate KL(old || new) from samples of the old policy, `[S, T, B] -> [S]`; `log_ratio` = log new - log old.

    k₃ = E[(r - 1) - log r],  r = new / old

    It is unbiased, never negative, and varies less than the mean of -log r. Source: Schulman (2020), Approximating KL
    divergence.
    """
    return weighted_mean(log_ratio.exp() - 1 - log_ratio, weights)


def explained_variance(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """How much of the variance of the returns the critic foresees, `[S, T, B] -> [S]`: 1 all of it, 0 none.

    1 - Var[G - V] / Var[G]
    """
    spread = weighted_std(returns, weights) ** 2
    return 1 - weighted_std(returns - values, weights) ** 2 / (spread + 1e-8)
