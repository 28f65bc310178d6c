"""ANO: anchored neighborhood optimization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pgzoo.config import MinibatchConfig, OptimizerEps
from pgzoo.ops.elementwise import sigmoid
from pgzoo.ops.losses import actor_critic_loss, advantages_of, log_importance_ratio, ratio_metrics, weighted_mean
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Hyper, Loss, Need, Params

LN_2 = math.log(2)


class ANOConfig(MinibatchConfig):
    """Settings of `ano`."""

    optimizer_eps: OptimizerEps = 1e-5
    ratio_range: Annotated[
        float, Field(gt=0, description="distance of the probability ratio from 1 at which its objective is largest")
    ] = 0.2


class ANO:
    """ANO: PPO with a smooth objective whose gradient points back outside the ratio's range and vanishes far outside.

        L(θ) = E[ A f(r) ] where A >= 0,  E[ A (2 - f(2 - r)) ] where A < 0,  r = π(a|s; θ) / π_old(a|s)
        f(r) = 1 + k (f₀((r - 1 - ε) / k) - f₀(-ln 2)),  k = ε / ln 2
        f₀(x) = 45/16 (½ ln σ(2x) - 2 σ(x)),  σ the logistic function

    At r = 1, f(r) = 1 and f'(r) = 1, as for the plain surrogate r A. The objective of a row is largest at
    r = 1 + ε sign(A), where PPO starts to clip. Beyond it, PPO's gradient is zero and that of SPO grows with the
    distance without bound. Here it pulls the ratio back with a force that has a maximum and then returns to 0, so that
    outliers have little influence. On the other side of 1, the slope stays below 45/16.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Zhang et al. (2026), ANO: a principled approach to robust policy optimization; arXiv 2605.02320; the formula
        as in the authors' code.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "log_probs"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 100_000, "gamma": 0.98}

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the loss of the smooth surrogate, the critic's loss and the entropy bonus."""
        output, advantages = policy.apply(params, batch.inputs), advantages_of(batch, hyper)
        log_ratio = log_importance_ratio(output.dist, batch)
        surrogate = advantages * anchored_ratio(log_ratio.exp(), advantages, hyper.ratio_range)
        metrics = ratio_metrics(log_ratio, hyper.ratio_range, batch.weights)
        return actor_critic_loss(-weighted_mean(surrogate, batch.weights), output, batch, hyper, metrics)


def anchored_ratio(ratio: Tensor, advantages: Tensor, ratio_range: Tensor) -> Tensor:
    """Return f(r) where the advantage is not negative, else 2 - f(2 - r), `[S, T, B]`; `ratio_range` broadcasts."""
    k = ratio_range / LN_2
    side = torch.where(advantages >= 0, 1.0, -1.0)
    x = side * (ratio - 1) / k - LN_2  # the argument of f₀ in f(r), or in f(2 - r)
    at_one = 0.5 * math.log(1 / 5) - 2 / 3  # f₀(-ln 2), without the factor 45/16
    return 1 + side * k * (45 / 16) * (0.5 * F.logsigmoid(2 * x) - 2 * sigmoid(x) - at_one)
