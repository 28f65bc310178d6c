"""V-MPO: on-policy maximum a posteriori policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pgzoo.config import MinibatchConfig, Static
from pgzoo.ops.losses import (
    apart,
    explained_variance,
    log_mean_exp,
    standardize,
    value_loss,
    weighted_mean,
    weighted_sum,
)
from pgzoo.types import AlgorithmState, Batch, Hyper, Loss, Need, Params, Steps


class VMPOConfig(MinibatchConfig):
    """Settings of `vmpo`."""

    eta_init: Annotated[float, Static, Field(gt=0, description="first temperature of the advantages")] = 1.0
    alpha_init: Annotated[float, Static, Field(gt=0, description="first weight of the KL")] = 5.0
    eps_eta: Annotated[float, Field(gt=0, description="how far, in KL, the weights may be from equal ones")] = 0.02
    eps_alpha: Annotated[float, Field(gt=0, description="KL(old || new) that an update aims at")] = 0.01


class VMPO:
    """V-MPO: weigh the better half of the actions by their advantages, and move to the result within a KL.

        L_π(θ) = -Σ ψ log π(a|s; θ),  ψ = exp(A/η) / Σ exp(A/η),  sums over the half of the rows with the largest A
        L_η = η ε_η + η log E[exp(A/η)],  over the same half
        L_α = E[ α (ε_α - sg KL) + sg α KL ],  KL = KL(π_old || π),  over all rows;  sg passes no gradient

    The temperature η and the multiplier α are learned with the policy by descent on the dual; they are positive as the
    softplus of a parameter. There is one α for every kind of action, where the paper has two for Gaussians.

    Shapes: a batch is `[S, T, B]`, ψ too, η and α are `[S]`, the loss `[S]`.
    Source: Song et al. (2020), V-MPO: on-policy maximum a posteriori policy optimization for discrete and continuous
        control, section 4.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "old"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 200_000, "gamma": 0.98}

    def collect(self, settings: VMPOConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def init(self, ctx: Any, rng: np.random.Generator) -> AlgorithmState:
        """Each member has dual variables of its own."""
        settings = ctx.plan.config.settings
        first = torch.tensor([settings.eta_init, settings.alpha_init])
        eta, alpha = first + torch.log(-torch.expm1(-first))  # the inverse of softplus
        return AlgorithmState({"vmpo.eta": eta, "vmpo.alpha": alpha}, {})

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The weighted likelihood, both duals, the critic's error and the bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        eta, alpha = (apart(F.softplus, params[f"vmpo.{name}"]) for name in ("eta", "alpha"))
        half = _better_half(advantage, weights)

        tempered = advantage / eta[:, None, None]
        log_normalizer = log_mean_exp(tempered, half)
        # E[exp] is a mean, so this psi is a weight per row of the half, and their mean is 1
        psi = torch.where(half > 0, tempered - log_normalizer[:, None, None], 0.0).detach().exp()
        policy_loss = -weighted_mean(psi * output.dist.log_prob(batch.actions), half)
        eta_loss = eta * (hyper.eps_eta.flatten() + log_normalizer)

        kl = weighted_mean(batch.old.kl(output.dist), weights)
        alpha_loss = alpha * (hyper.eps_alpha.flatten() - kl.detach()) + alpha.detach() * kl

        critic_loss = value_loss(output.value, batch.returns, weights)
        entropy = weighted_mean(output.dist.entropy(), weights)
        loss = policy_loss + eta_loss + alpha_loss + hyper.value_coef.flatten() * critic_loss
        return Loss(
            loss - hyper.entropy_coef.flatten() * entropy,
            {
                "loss/policy": policy_loss,
                "loss/value": critic_loss,
                "policy/entropy": entropy,
                "policy/kl": kl,
                "vmpo/eta": eta,
                "vmpo/alpha": alpha,
                "value/explained_variance": explained_variance(batch.values, batch.returns, weights),
            },
        )


def _better_half(advantages: Tensor, weights: Tensor) -> Tensor:
    """1 for each member's rows with the largest advantages, half of those with weight, `[S, T, B]`; 0 elsewhere.

    Of an odd number the middle one is in; of equal ones the first.
    """
    flat = torch.where(weights > 0, advantages, -torch.inf).flatten(-2)
    rank = flat.argsort(stable=True, dim=-1, descending=True).argsort(-1)
    half = (weighted_sum(weights, weights) / 2).ceil()
    return torch.where(rank.reshape(weights.shape) < half[:, None, None], weights, 0.0)
