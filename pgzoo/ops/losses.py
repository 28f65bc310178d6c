"""Reductions over a batch to one number per member, and the terms from which the algorithms build their losses.

Batches are padded, and the amount of padding depends on the longest episode of any member. torch sums a contiguous axis
in an order that depends on its length, so with a plain sum, a member's last bits would depend on the other members.
A running sum adds in one fixed order, and zeros at its end change nothing. It is slower, so if all batches have the
same size (`ops.order`), a plain sum is used instead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pgzoo.ops.order import any_order
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Distribution, Hyper, Loss, Metrics, Output, Params

__all__ = [
    "actor_critic_loss",
    "actor_loss",
    "advantages_of",
    "center",
    "clip_fraction",
    "clipped_surrogate",
    "clipped_value_loss",
    "critic_loss",
    "explained_variance",
    "kl_estimate",
    "log_importance_ratio",
    "log_mean_exp",
    "policy_gradient_loss",
    "ratio_metrics",
    "scale",
    "standardize",
    "value_loss",
    "weighted_max",
    "weighted_mean",
    "weighted_std",
    "weighted_sum",
]

# reductions over the rows of a batch


def weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of `weights * x` over T and B, `[S, T, B] -> [S]`; bit-identical for any amount of padding."""
    return _sum(x * weights)


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of `x` over the rows with weight, `[S, T, B] -> [S]`; 0 for a member without any."""
    return weighted_sum(x, weights) / _sum(weights).clamp(min=1.0)


def weighted_std(x: Tensor, weights: Tensor) -> Tensor:
    """Return the (biased) standard deviation of `x` over the rows with weight, `[S, T, B] -> [S]`."""
    return _moments(x, weights)[1]


def _moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean, the (biased) standard deviation and the number of the rows with weight, `[S]` each."""
    count = _sum(weights)
    rows = count.clamp(min=1.0)
    mean = weighted_sum(x, weights) / rows
    return mean, (weighted_sum((x - mean[..., None, None]) ** 2, weights) / rows).sqrt(), count


def weighted_max(x: Tensor, weights: Tensor) -> Tensor:
    """Return the maximum of `x` over the rows with weight, `[S, T, B] -> [S]`; -inf for a member without any."""
    return torch.where(weights > 0, x, -torch.inf).amax((-2, -1))


def log_mean_exp(x: Tensor, weights: Tensor) -> Tensor:
    """Return log E[exp x] over the rows with weight, `[S, T, B] -> [S]`, without overflow; 0 without such rows."""
    has_rows = (weights > 0).any(-1).any(-1)
    top = torch.where(has_rows, weighted_max(x, weights).detach(), 0.0)
    above = torch.where(weights > 0, x - top[..., None, None], 0.0)
    return top + torch.where(has_rows, weighted_mean(above.exp(), weights), 1.0).log()


def standardize(x: Tensor, weights: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale `x` to mean 0 and standard deviation 1 over each member's rows: `[S, T, B] -> [S, T, B]`.

    Values that differ by no more than rounding become exactly 0. A member with fewer than two rows keeps its `x`,
    because a single row has no standard deviation.
    """
    mean, std, count = _moments(x, weights)
    scaled = (x - mean[..., None, None]) / (std[..., None, None] + eps)
    return _handle_degenerate(scaled, x, mean, std, count)


def center(x: Tensor, weights: Tensor) -> Tensor:
    """Subtract each member's mean over its rows: `[S, T, B] -> [S, T, B]`.

    Values that differ by no more than rounding become exactly 0. A member with fewer than two rows keeps its `x`.
    """
    mean, std, count = _moments(x, weights)
    return _handle_degenerate(x - mean[..., None, None], x, mean, std, count)


def scale(x: Tensor, weights: Tensor, eps: float = 1e-8) -> Tensor:
    """Divide by each member's standard deviation over its rows: `[S, T, B] -> [S, T, B]`.

    A member with fewer than two rows, or whose values differ by no more than rounding, keeps its `x`.
    """
    mean, std, count = _moments(x, weights)
    divisor = torch.where(_is_rounding(mean, std) | (count < 2), 1.0, std + eps)
    return x / divisor[..., None, None]


ROUNDING = 8 * torch.finfo(torch.float32).eps
"""A standard deviation below this fraction of the mean is considered rounding error."""


def _is_rounding(mean: Tensor, std: Tensor) -> Tensor:
    """Return whether values vary by no more than rounding, `[S]`. False for non-finite values, to not hide them."""
    return std < ROUNDING * mean.abs()


def _handle_degenerate(new: Tensor, x: Tensor, mean: Tensor, std: Tensor, count: Tensor) -> Tensor:
    """Return `new`, but 0 if values vary by no more than rounding, and `x` if a member has fewer than two rows."""
    new = torch.where(_is_rounding(mean, std)[..., None, None], 0.0, new)
    return torch.where((count < 2)[..., None, None], x, new)


def _sum(x: Tensor) -> Tensor:
    return x.sum((-2, -1)) if any_order() else x.flatten(-2).cumsum(-1)[..., -1]


# terms of a policy's loss


def advantages_of(batch: Batch, hyper: Hyper) -> Tensor:
    """Return the advantages `[S, T, B]`, standardized over the batch if `normalize_advantages` is on."""
    return standardize(batch.advantages, batch.weights) if hyper.normalize_advantages else batch.advantages


def policy_gradient_loss(dist: Distribution, advantages: Tensor, batch: Batch) -> Tensor:
    """Return the loss whose gradient is minus the policy gradient, `[S, T, B] -> [S]`.

    L = -E[ A log π(a|s; θ) ]
    """
    return -weighted_mean(dist.log_prob(batch.actions) * advantages, batch.weights)


def log_importance_ratio(dist: Distribution, batch: Batch) -> Tensor:
    """Return log r, `[S, T, B]`, where r = π(a|s; θ) / π_old(a|s). Needs "log_probs"."""
    log_ratio: Tensor = dist.log_prob(batch.actions) - batch.log_probs
    return log_ratio


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_range: Tensor) -> Tensor:
    """Return PPO's clipped objective for each row: it doesn't increase further outside the clip range.

        min(r A, clip(r, 1-ε, 1+ε) A)

    Shapes: all `[S, T, B]`; `clip_range` broadcasts. Source: Schulman et al. (2017), Proximal policy optimization
    algorithms, eq. 7.
    """
    return torch.minimum(ratio * advantages, torch.clamp(ratio, 1 - clip_range, 1 + clip_range) * advantages)


def clip_fraction(ratio: Tensor, clip_range: Tensor, weights: Tensor) -> Tensor:
    """Return the fraction of the rows whose ratio is outside the clip range, `[S, T, B] -> [S]`."""
    return weighted_mean(((ratio - 1).abs() > clip_range).float(), weights)


def kl_estimate(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """Estimate KL(old || new) from samples of the old policy, `[S, T, B] -> [S]`; `log_ratio` = log new - log old.

        k₃ = E[(r - 1) - log r],  r = new / old

    The estimate is unbiased, never negative, and has a lower variance than the mean of -log r. Source: Schulman (2020),
    Approximating KL divergence.
    """
    return weighted_mean(torch.expm1(log_ratio) - log_ratio, weights)


def ratio_metrics(log_ratio: Tensor, clip_range: Tensor, weights: Tensor) -> Metrics:
    """Return the metrics `policy/kl` and `policy/clip_fraction`, `[S]` each."""
    log_ratio = log_ratio.detach()
    return {
        "policy/kl": kl_estimate(log_ratio, weights),
        "policy/clip_fraction": clip_fraction(log_ratio.exp(), clip_range, weights),
    }


# terms of a critic's loss


def value_loss(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """Return half the mean squared error of a critic, `[S, T, B] -> [S]`.

    L = ½ E[(V - G)²]
    """
    return 0.5 * weighted_mean((values - returns) ** 2, weights)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: Tensor, weights: Tensor
) -> Tensor:
    """Return PPO's clipped value loss, `[S, T, B] -> [S]`.

    Moving a value more than `clip_range` from the old one doesn't lower the loss.

        L = ½ E[max((V - G)², (V_old + clip(V - V_old, -ε, ε) - G)²)]
    """
    clipped = old_values + torch.clamp(values - old_values, -clip_range, clip_range)
    return 0.5 * weighted_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), weights)


def explained_variance(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """Return the fraction of the variance of the returns that the critic explains, `[S, T, B] -> [S]`; at most 1.

    1 - Var[G - V] / Var[G]
    """
    variance = weighted_std(returns, weights) ** 2
    return 1 - weighted_std(returns - values, weights) ** 2 / (variance + 1e-8)


# whole losses


def actor_loss(
    policy_loss: Tensor, dist: Distribution, batch: Batch, entropy_coef: Tensor | float | None = None
) -> Loss:
    """Return the loss of a policy without a critic term, with its metrics.

        L = L_π - c_H E[H(π)]

    Shapes: `policy_loss` and `entropy_coef` are `[S]`; without the latter there is no entropy bonus.
    """
    entropy = weighted_mean(dist.entropy(), batch.weights)
    total = policy_loss if entropy_coef is None else policy_loss - entropy_coef * entropy
    return Loss(total, {"loss/policy": policy_loss, "policy/entropy": entropy})


def critic_loss(policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
    """Return `value_loss` as a `Loss`, for gradient steps on the critic alone.

    The reported explained variance is that of the values before the first of these steps.
    """
    loss = value_loss(policy.apply(params, batch.inputs).value, batch.returns, batch.weights)
    explained = explained_variance(batch.values, batch.returns, batch.weights)
    return Loss(loss, {"loss/value": loss, "value/explained_variance": explained})


def actor_critic_loss(
    policy_loss: Tensor,
    output: Output,
    batch: Batch,
    hyper: Hyper,
    metrics: Mapping[str, Tensor] = {},
    critic: Tensor | None = None,
) -> Loss:
    """Return the joint loss of a policy and its critic, with the metrics of both.

        L = L_π + c_V L_V - c_H E[H(π)],  L_V = ½ E[(V - G)²]

    c_V and c_H are the settings `value_coef` and `entropy_coef`. `metrics` are additional metrics; `critic`, if given,
    replaces L_V.

    Shapes: `policy_loss`, `critic` and `metrics` are `[S]`. Source: Mnih et al. (2016), Asynchronous methods for deep
    reinforcement learning, section 4.
    """
    coef = hyper.per_member
    error = value_loss(output.value, batch.returns, batch.weights) if critic is None else critic
    entropy = weighted_mean(output.dist.entropy(), batch.weights)
    return Loss(
        policy_loss + coef.value_coef * error - coef.entropy_coef * entropy,
        {
            "loss/policy": policy_loss,
            "loss/value": error,
            "policy/entropy": entropy,
            **metrics,
            "value/explained_variance": explained_variance(batch.values, batch.returns, batch.weights),
        },
    )
