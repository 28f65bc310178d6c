"""SPO: simple policy optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pgzoo.config import (
    ActorCriticConfig,
    Epochs,
    LearningRate,
    LearningRateSchedule,
    Minibatches,
    NormalizeAdvantages,
    OptimizerEps,
)
from pgzoo.ops.losses import (
    clip_fraction,
    explained_variance,
    kl_estimate,
    standardise,
    value_loss,
    weighted_mean,
)
from pgzoo.types import Batch, Hyper, Loss, Need, Params, Steps


class SPOConfig(ActorCriticConfig):
    """Settings of `spo`."""

    learning_rate: LearningRate = 1e-3
    learning_rate_schedule: LearningRateSchedule = "linear"
    optimizer_eps: OptimizerEps = 1e-5
    epochs: Epochs = 10
    minibatches: Minibatches = 4
    normalize_advantages: NormalizeAdvantages = True
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
        """The penalised surrogate, the critic's error and the bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantage = standardise(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages

        log_ratio = output.dist.log_prob(batch.actions) - batch.log_probs
        ratio = log_ratio.exp()
        surrogate = ratio * advantage - advantage.abs() / (2 * hyper.ratio_range) * (ratio - 1) ** 2
        policy_loss = -weighted_mean(surrogate, weights)
        critic_loss = value_loss(output.value, batch.returns, weights)
        entropy = weighted_mean(output.dist.entropy(), weights)
        return Loss(
            policy_loss + hyper.value_coef.flatten() * critic_loss - hyper.entropy_coef.flatten() * entropy,
            {
                "loss/policy": policy_loss,
                "loss/value": critic_loss,
                "policy/entropy": entropy,
                "policy/kl": kl_estimate(log_ratio, weights),
                "policy/clip_fraction": clip_fraction(ratio, hyper.ratio_range, weights),
                "value/explained_variance": explained_variance(batch.values, batch.returns, weights),
            },
        )
