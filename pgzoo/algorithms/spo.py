"""SPO: simple policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pgzoo.config import MinibatchConfig, OptimizerEps
from pgzoo.ops.losses import actor_critic_loss, clip_fraction, kl_estimate, standardize, weighted_mean
from pgzoo.types import Batch, Hyper, Loss, Need, Params, Steps


class SPOConfig(MinibatchConfig):
    """Settings of `spo`."""

    optimizer_eps: OptimizerEps = 1e-5
    ratio_range: Annotated[float, Field(gt=0, description="how far from 1 the ratio gains most")] = 0.2


class SPO:
    """SPO: PPO with a penalty that pulls the ratio back in place of clipping, which only lets go of it.

        L(θ) = E[ r A - |A|/(2ε) (r - 1)² ],  r = π(a|s; θ) / π_old(a|s)

    Each row gains most at r = 1 + ε sign(A), just where PPO's gain ends. Beyond, PPO's gradient is zero, so other rows
    carry the ratio on; here it points back. It stands in the ladder for the methods since 2023 because it changes one
    term of PPO, has no further setting, and the ratio's range, PPO's promise, is kept in fact: the paper reports
    ratios bounded over training, and larger networks that train where PPO's break down.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Xie et al. (2025), Simple policy optimization, ICML; arXiv 2401.16025.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "log_probs"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 100_000, "gamma": 0.98}

    def collect(self, settings: SPOConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The penalized surrogate, the critic's error and the bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages

        log_ratio = output.dist.log_prob(batch.actions) - batch.log_probs
        ratio = log_ratio.exp()
        surrogate = ratio * advantage - advantage.abs() / (2 * hyper.ratio_range) * (ratio - 1) ** 2
        policy_loss = -weighted_mean(surrogate, weights)
        moved = {
            "policy/kl": kl_estimate(log_ratio, weights),
            "policy/clip_fraction": clip_fraction(ratio, hyper.ratio_range, weights),
        }
        return actor_critic_loss(policy_loss, output, batch, hyper, moved)
