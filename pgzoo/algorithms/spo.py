"""SPO: simple policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pgzoo.config import MinibatchConfig, OptimizerEps
from pgzoo.ops.losses import actor_critic_loss, advantages_of, log_importance_ratio, ratio_metrics, weighted_mean
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Hyper, Loss, Need, Params


class SPOConfig(MinibatchConfig):
    """Settings of `spo`."""

    optimizer_eps: OptimizerEps = 1e-5
    ratio_range: Annotated[
        float, Field(gt=0, description="distance of the probability ratio from 1 at which its objective is largest")
    ] = 0.2


class SPO:
    """SPO: PPO with a quadratic penalty on the probability ratio instead of clipping.

        L(θ) = E[ r A - |A|/(2ε) (r - 1)² ],  r = π(a|s; θ) / π_old(a|s)

    The objective of a row is largest at r = 1 + ε sign(A), where PPO's stops growing. Beyond that point PPO's
    gradient is zero, so the gradients of other rows can carry the ratio further; here the gradient pulls it back. The
    paper reports ratios that stay bounded over training, even for larger networks, for which PPO's don't.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Xie et al. (2025), Simple policy optimization, ICML; arXiv 2401.16025.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "log_probs"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 100_000, "gamma": 0.98}

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the penalized surrogate loss, the critic's loss and the entropy bonus."""
        output, advantages = policy.apply(params, batch.inputs), advantages_of(batch, hyper)
        log_ratio = log_importance_ratio(output.dist, batch)
        ratio = log_ratio.exp()
        surrogate = ratio * advantages - advantages.abs() / (2 * hyper.ratio_range) * (ratio - 1) ** 2
        metrics = ratio_metrics(log_ratio, hyper.ratio_range, batch.weights)
        return actor_critic_loss(-weighted_mean(surrogate, batch.weights), output, batch, hyper, metrics)
