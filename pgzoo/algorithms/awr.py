"""AWR: advantage-weighted regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from pgzoo.config import MinibatchConfig
from pgzoo.ops.losses import actor_critic_loss, standardize, weighted_mean
from pgzoo.types import Batch, Hyper, Loss, Need, Params, Steps


class AWRConfig(MinibatchConfig):
    """Settings of `awr`."""

    beta: Annotated[float, Field(gt=0, description="temperature: the lower, the more the best actions count")] = 1.0
    max_weight: Annotated[float, Field(gt=0, description="no action counts for more than so many")] = 20.0


class AWR:
    """AWR: imitate oneself, and the better an action was the more so.

        L(θ) = -E[ min(exp(A/β), w_max) log π(a|s; θ) ],  A = G - V(s),  G the λ-return

    The weighted regression projects π_old exp(A/β), the best policy within a distance in KL, onto the network: no
    ratio, no clipping, and no action is ever pushed away. The paper regresses on a replay buffer; this is the on-policy
    form, several epochs on one collection.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Peng et al. (2019), Advantage-weighted regression, algorithm 1 and section 3.3.
    """

    estimator = "td-lambda"
    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 200_000, "gamma": 0.98}

    def collect(self, settings: AWRConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The weighted log-likelihood of what was done, the critic's error and the bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        counts = torch.minimum((advantage / hyper.beta).exp(), hyper.max_weight)
        policy_loss = -weighted_mean(counts * output.dist.log_prob(batch.actions), weights)
        return actor_critic_loss(policy_loss, output, batch, hyper)
