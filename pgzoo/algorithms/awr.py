"""AWR: advantage-weighted regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from pgzoo.config import MinibatchConfig
from pgzoo.ops.losses import actor_critic_loss, advantages_of, weighted_mean
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Hyper, Loss, Need, Params


class AWRConfig(MinibatchConfig):
    """Settings of `awr`."""

    beta: Annotated[
        float, Field(gt=0, description="temperature of the weights exp(A/beta); lower favors the best actions more")
    ] = 1.0
    max_weight: Annotated[float, Field(gt=0, description="upper bound of an action's weight")] = 20.0


class AWR:
    """AWR: regress the policy onto its own actions, weighted by the exponential of their advantages.

        L(θ) = -E[ min(exp(A/β), w_max) log π(a|s; θ) ],  A = G - V(s),  G the λ-return

    π_old exp(A/β) is the best policy within some KL divergence of π_old, and the weighted regression projects it onto
    the network. There is no ratio and no clipping, and no action's probability is ever pushed down. The paper regresses
    on a replay buffer; this is the on-policy form, several epochs on each rollout.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Peng et al. (2019), Advantage-weighted regression, algorithm 1 and section 3.3.
    """

    estimator = "td-lambda"
    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 200_000, "gamma": 0.98}

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the weighted regression loss, the critic's loss and the entropy bonus."""
        output = policy.apply(params, batch.inputs)
        action_weights = torch.minimum((advantages_of(batch, hyper) / hyper.beta).exp(), hyper.max_weight)
        policy_loss = -weighted_mean(action_weights * output.dist.log_prob(batch.actions), batch.weights)
        return actor_critic_loss(policy_loss, output, batch, hyper)
