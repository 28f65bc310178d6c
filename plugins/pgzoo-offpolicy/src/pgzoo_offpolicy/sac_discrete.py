"""SAC for Discrete actions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.ops.critics import init_critic_network
from pgzoo.ops.losses import explained_variance, value_loss, weighted_mean
from pgzoo.ops.optim import flatten
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import AlgorithmState, Batch, Hyper, Inputs, Loss, Params, TrainState, Trajectory
from pgzoo_offpolicy.loop import (
    OffPolicyConfig,
    Sample,
    allocate,
    batch_of,
    check_fit,
    critic_rates,
    critic_values,
    off_policy_rounds,
)
from pgzoo_offpolicy.targets import move_targets, target_params, td_target
from pgzoo_offpolicy.temperature import FixedTemperature, InitialTemperature, init_temperature

Q = "sac_discrete.q1.", "sac_discrete.q2."
"""Prefixes of the parameters of the critics."""
TARGET = "sac_discrete.target"
LOG_ALPHA = "sac_discrete.log_alpha"


class DiscreteSACConfig(OffPolicyConfig):
    """Settings of `sac-discrete`."""

    temperature: FixedTemperature = None
    temperature_init: InitialTemperature = 1.0
    target_entropy: Annotated[
        float, Field(ge=0, le=1, description="target of the policy's entropy, as a share of that of uniform actions")
    ] = 0.5


class DiscreteSAC:
    """SAC for Discrete actions: expectations over the actions are computed exactly, without sampling.

        L_Q = Σᵢ ½ E[ (Qᵢ(s, a) - y)² ],  y = r + γ V(s');  y = r at a termination
        V(s') = Σₐ π(a|s') (minᵢ Q'ᵢ(s', a) - α ln π(a|s'))
        L_π = E[ Σₐ π(a|s) (α ln π(a|s) - minᵢ Qᵢ(s, a)) ]
        L_α = ln α E[ H(π) - H̄ ],  H̄ = c ln |A|
        θ' ← θ' + τ (θ - θ')

    The critics have one output per action. Everything else is as in `sac`. The paper sets c = 0.98, so that the policy
    stays almost uniform wherever α is learned; the default here is lower. Zhou et al. (2022), Revisiting discrete soft
    actor-critic (arXiv 2209.10081), show that the algorithm may be unstable, because the entropy changes quickly and
    the minimum of the critics underestimates; their remedies (an entropy penalty, averaged and clipped values) are not
    implemented. For CartPole-v1, other settings were enough; see the README of this plugin.

    Shapes: a batch and y are `[S, 1, B]`, Q and π `[S, 1, B, K]`, α `[S]`, the losses `[S]`.
    Source: Christodoulou (2019), Soft actor-critic for discrete action settings, algorithm 1; arXiv 1910.07207.
    """

    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 1,
        "total_steps": 50_000,
        "policy": {"name": "mlp", "activation": "relu"},
    }

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Return critics, ln α, target networks and replay buffer. Raises UnfitError; see `loop.check_fit`."""
        check_fit(ctx, gym.spaces.Discrete)
        if getattr(ctx.config.policy.settings, "distribution", "auto") not in ("auto", "categorical"):
            raise UnfitError('Algorithm "sac-discrete" needs a policy with --policy.distribution categorical.')
        size, hidden = ctx.policy.vector_size, ctx.settings.critic_hidden
        count = gym.spaces.flatdim(ctx.spec.action_space)
        critics: Params = {}
        for prefix in Q:
            critics |= init_critic_network(rng, prefix, size, hidden, outputs=count, activation="relu")
        target = flatten(leaf[None] for leaf in critics.values())[0]
        learned, fixed = init_temperature(ctx.settings, LOG_ALPHA)
        return AlgorithmState(critics | learned, {TARGET: target, **allocate(ctx), **fixed})

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        """Collect, store and learn, per round."""
        return off_policy_rounds(ctx, self.act, self.learn)

    def act(
        self, ctx: UpdateContext, state: TrainState, warming_up: NDArray[np.bool_]
    ) -> tuple[TrainState, Trajectory, Tensor]:
        """Collect with the policy; actions are stored as their index."""
        state, trajectory = ctx.collect(state)
        return state, trajectory, trajectory.actions.unsqueeze(-1).float()

    def learn(self, ctx: UpdateContext, state: TrainState, sample: Sample) -> TrainState:
        """Take one gradient step of critics, policy and temperature; move the target networks."""
        hyper = ctx.hyper(state)
        batch = batch_of(sample, self.targets(ctx.policy, state, sample, hyper), sample.weights)
        state = ctx.step(self.joint_loss, state, batch, learning_rates=critic_rates(ctx, state, Q))
        return move_targets(state, TARGET, Q, hyper.per_member.tau, sample.learning)

    @torch.no_grad()
    def targets(self, policy: LearningPolicy, state: TrainState, sample: Sample, hyper: Hyper) -> Tensor:
        """Return the targets y of the critics, `[S, 1, B]`."""
        params, transitions = state.params | state.buffers, sample.transitions
        inputs = Inputs(transitions.next_obs)
        log_probs = _log_probs(policy, params, inputs)
        critics, vectors = target_params(state, TARGET, Q), policy.vectors(params, inputs)
        values = torch.minimum(*critic_values(critics, Q, vectors, log_probs.shape[-1]))
        alpha = params[LOG_ALPHA].exp()[:, None, None, None]
        soft_values = (log_probs.exp() * (values - alpha * log_probs)).sum(-1)
        return td_target(transitions.rewards, transitions.terminated, soft_values, hyper.gamma)

    def joint_loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the sum of the losses of the critics, of the policy and of the temperature."""
        weights, vectors, alpha = batch.weights, policy.vectors(params, batch.inputs), params[LOG_ALPHA].exp()
        log_probs = _log_probs(policy, params, batch.inputs)
        probs, count = log_probs.exp(), log_probs.shape[-1]

        values = critic_values(params, Q, vectors, count)
        taken = [value.gather(-1, batch.actions.long()).squeeze(-1) for value in values]
        q_loss = value_loss(taken[0], batch.returns, weights) + value_loss(taken[1], batch.returns, weights)

        smaller = torch.minimum(*values).detach()
        soft = alpha.detach()[:, None, None, None] * log_probs - smaller
        policy_loss = weighted_mean((probs * soft).sum(-1), weights)

        entropy = weighted_mean(-(probs * log_probs).sum(-1), weights).detach()
        losses = q_loss + policy_loss
        if hyper.temperature is None:
            has_rows = weights.amax((-2, -1))  # 1 or 0: without rows α gets no gradient
            target = hyper.per_member.target_entropy * math.log(count)
            losses = losses + has_rows * params[LOG_ALPHA] * (entropy - target)
        return Loss(
            losses,
            {
                "loss/policy": policy_loss,
                "loss/value": q_loss,
                "policy/entropy": entropy,
                "value/explained_variance": explained_variance(taken[0].detach(), batch.returns, weights),
                "sac/alpha": alpha,
                "sac/action_value": weighted_mean(taken[0].detach(), weights),
            },
        )


def _log_probs(policy: LearningPolicy, params: Params, inputs: Inputs) -> Tensor:
    """Return ln π(a|s) of all K actions, `[S, T, B, K]`."""
    dist: Any = policy.apply(params, inputs).dist
    return torch.log_softmax(dist.logits, -1)
