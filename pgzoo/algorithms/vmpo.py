"""V-MPO: on-policy maximum a posteriori policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pgzoo.config import MinibatchConfig, Static
from pgzoo.ops.elementwise import softplus
from pgzoo.ops.losses import actor_critic_loss, advantages_of, log_mean_exp, weighted_mean, weighted_sum
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import AlgorithmState, Batch, Hyper, Loss, Need, Params


class VMPOConfig(MinibatchConfig):
    """Settings of `vmpo`."""

    eta_init: Annotated[float, Static, Field(gt=0, description="initial temperature of the advantages")] = 1.0
    alpha_init: Annotated[float, Static, Field(gt=0, description="initial weight of the KL penalty")] = 5.0
    eps_eta: Annotated[float, Field(gt=0, description="bound on the KL between the weights and uniform ones")] = 0.02
    eps_alpha: Annotated[float, Field(gt=0, description="bound on KL(old || new) of an update")] = 0.01


class VMPO:
    """V-MPO: weight the better half of the actions by their advantages, and fit the policy to them within a KL bound.

        L_π(θ) = -Σ ψ log π(a|s; θ),  ψ = exp(A/η) / Σ exp(A/η),  sums over the half of the rows with the largest A
        L_η = η ε_η + η log E[exp(A/η)],  over the same half
        L_α = E[ α (ε_α - sg KL) + sg α KL ],  KL = KL(π_old || π),  over all rows;  sg stops the gradient

    The temperature η and the multiplier α are learned along with the policy, by gradient descent on the dual problem.
    Each is the softplus of a parameter, so it is positive. There is one α for every kind of action; the paper has two
    for Gaussians.

    Shapes: a batch and ψ are `[S, T, B]`, η and α are `[S]`, the loss `[S]`.
    Source: Song et al. (2020), V-MPO: on-policy maximum a posteriori policy optimization for discrete and continuous
        control, section 4.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "old"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 200_000, "gamma": 0.98}

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Return the initial dual variables."""
        settings = ctx.settings
        initial = torch.tensor([settings.eta_init, settings.alpha_init])
        eta, alpha = initial + torch.log(-torch.expm1(-initial))  # the inverse of softplus
        return AlgorithmState({"vmpo.eta": eta, "vmpo.alpha": alpha}, {})

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the weighted likelihood loss, both dual losses, the critic's loss and the entropy bonus."""
        output, advantages = policy.apply(params, batch.inputs), advantages_of(batch, hyper)
        eta, alpha = softplus(params["vmpo.eta"]), softplus(params["vmpo.alpha"])
        half = better_half(advantages, batch.weights)

        tempered = advantages / eta[:, None, None]
        log_normalizer = log_mean_exp(tempered, half)
        # normalized by a mean, not a sum, so psi has mean 1 over the half, and L_pi is a weighted mean
        psi = torch.where(half > 0, tempered - log_normalizer[:, None, None], 0.0).detach().exp()
        policy_loss = -weighted_mean(psi * output.dist.log_prob(batch.actions), half)
        has_rows = batch.weights.amax((-2, -1))  # 1 or 0: without rows the dual variables get no gradient
        eta_loss = has_rows * eta * (hyper.per_member.eps_eta + log_normalizer)

        kl = weighted_mean(batch.old.kl(output.dist), batch.weights)
        alpha_loss = has_rows * alpha * (hyper.per_member.eps_alpha - kl.detach()) + alpha.detach() * kl

        metrics = {"policy/kl": kl, "vmpo/eta": eta, "vmpo/alpha": alpha}
        loss = actor_critic_loss(policy_loss + eta_loss + alpha_loss, output, batch, hyper, metrics)
        return loss._replace(metrics={**loss.metrics, "loss/policy": policy_loss})


def better_half(advantages: Tensor, weights: Tensor) -> Tensor:
    """Return 1 for the half of each member's rows with the largest advantages, else 0, `[S, T, B]`.

    Rows without weight don't count. With an odd number of rows the middle one is included; ties are broken by position.
    """
    flat = torch.where(weights > 0, advantages, -torch.inf).flatten(-2)
    rank = flat.argsort(stable=True, dim=-1, descending=True).argsort(-1)
    half = (weighted_sum(weights, weights) / 2).ceil()
    return torch.where(rank.reshape(weights.shape) < half[:, None, None], weights, 0.0)
