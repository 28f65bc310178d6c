"""The algorithm. Change `loss`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import pgzoo
from pgzoo.ops.losses import standardize, weighted_mean
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Params
from pydantic import Field


class MyPluginConfig(pgzoo.AlgorithmConfig):
    """The settings: each becomes an option, a key of settings files and a logged parameter.

    The base class has learning_rate, learning_rate_schedule, optimizer, optimizer_eps and max_grad_norm. Two more names
    have a meaning: `epochs`, the passes over each rollout, and `minibatches`, their number per pass.
    """

    entropy_coef: Annotated[float, Field(ge=0, description="weight of the entropy bonus")] = 0.01


class MyPlugin:
    """REINFORCE with standardized returns and an entropy bonus.

        L(θ) = -E[ A log π(a|s; θ) + c H(π(·|s; θ)) ],    A = (G - mean G) / std G

    Source: Williams (1992), Simple statistical gradient-following algorithms.
    """

    collect = pgzoo.Episodes(per_env=1)  # or pgzoo.Steps(count): windows of steps, for an algorithm with a critic
    estimator = "reward-to-go"  # computes G, the return after each step
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 100_000, "learning_rate": 1e-2}

    def loss(self, policy: LearningPolicy, params: Params, batch: pgzoo.Batch, hyper: pgzoo.Hyper) -> pgzoo.Loss:
        """Return the loss `[S]`, one number per seed. The tensors of a batch are `[S, T, B, ...]`.

        Rows with weight 0 are padding; the functions of `pgzoo.ops.losses` leave them out.
        """
        dist = policy.apply(params, batch.inputs).dist
        advantages = standardize(batch.advantages, batch.weights)
        surrogate = weighted_mean(dist.log_prob(batch.actions) * advantages, batch.weights)
        entropy = weighted_mean(dist.entropy(), batch.weights)
        # hyper.per_member.entropy_coef is [S], like the results of weighted_mean; hyper.entropy_coef is [S, 1, 1],
        # to combine with rows.
        value = -surrogate - hyper.per_member.entropy_coef * entropy
        return pgzoo.Loss(value, {"loss/policy": -surrogate.detach(), "policy/entropy": entropy.detach()})
