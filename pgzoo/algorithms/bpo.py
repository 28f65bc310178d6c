"""BPO: bounded policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from pgzoo.config import ClipRange, CriticHidden, MinibatchConfig, OptimizerEps, ValueCoef
from pgzoo.ops.critics import critic_network, init_critic_network
from pgzoo.ops.elementwise import softplus
from pgzoo.ops.losses import actor_critic_loss, log_importance_ratio, ratio_metrics, scale, weighted_mean
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import AlgorithmState, Batch, Hyper, Loss, Need, Params

MEDIAN = "bpo.median."
"""Prefix of the parameters of the network for the median."""


class BPOConfig(MinibatchConfig):
    """Settings of `bpo`."""

    optimizer_eps: OptimizerEps = 1e-5
    clip_range: ClipRange = 0.3
    temperature: Annotated[
        float, Field(gt=0, description="distance from the median over which the target ratio turns from low to high")
    ] = 0.001
    normalize_advantages: Annotated[
        bool, Field(description="divide advantages by their standard deviation in each minibatch")
    ] = True
    median_coef: ValueCoef = 0.5
    median_hidden: CriticHidden = (64, 64)


class BPO:
    """BPO: regress the probability ratio onto that of the best policy within a bounded ratio of the old one.

        L(θ) = E[ |A| |r - r*| ],  r = π(a|s; θ) / π_old(a|s),  r* = 1 + ε tanh((G - μ(s)) / 2λ)
        L_μ = E[ ln(1 + eᵈ) - ½ d ],  d = G - μ(s)

    G is the λ-return. μ(s), the median of Q(s, a) under the old policy, is learned by a separate network with a smooth
    form of ½ |d|. If the ratio of every action may be between 1 - ε and 1 + ε, the best policy has the ratio 1 + ε
    where Q is above its median, and 1 - ε below; the small temperature λ comes from a regularizer. Up to the target, L
    has the same gradient as PPO's clipped objective, except that the sign is that of G - μ(s) and not of A. Beyond the
    target, PPO's gradient is zero, while here it pulls the ratio back.

    Differences from the authors' code: A is the estimate made after the rollout, divided by its standard deviation in
    each minibatch. Their code for Stable-Baselines3 weights by |G - V(s)| with the current critic, without scaling;
    their code for RSL-RL does so too by default, and can use the estimates of the rollout, but standardizes them, so
    they are also centered.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Ao et al. (2026), Bounded ratio reinforcement learning, section 4; arXiv 2604.18578.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "log_probs"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 100_000, "gamma": 0.98}

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Return the initial parameters of the network for the median."""
        hidden = ctx.settings.median_hidden
        return AlgorithmState(init_critic_network(rng, MEDIAN, ctx.policy.vector_size, hidden), {})

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the loss of the ratio, the losses of the critic and of the median, and the entropy bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantages = scale(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        above_median = batch.returns - critic_network(params, MEDIAN, policy.vectors(params, batch.inputs))
        median_loss = weighted_mean(softplus(above_median) - 0.5 * above_median, weights)

        log_ratio = log_importance_ratio(output.dist, batch)
        target = 1 + hyper.clip_range * torch.tanh(above_median.detach() / (2 * hyper.temperature))
        policy_loss = weighted_mean(advantages.abs() * (log_ratio.exp() - target).abs(), weights)

        metrics = ratio_metrics(log_ratio, hyper.clip_range, weights) | {"loss/median": median_loss}
        loss = actor_critic_loss(policy_loss, output, batch, hyper, metrics)
        return loss._replace(value=loss.value + hyper.per_member.median_coef * median_loss)
