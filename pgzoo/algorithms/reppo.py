"""REPPO: relative entropy pathwise policy optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pgzoo.config import (
    AlgorithmConfig,
    CriticHidden,
    Epochs,
    LearningRate,
    MaxGradNorm,
    Minibatches,
    RolloutSteps,
    Static,
)
from pgzoo.errors import UnfitError
from pgzoo.ops.critics import critic_network, init_critic_network
from pgzoo.ops.distributions import TanhGaussian
from pgzoo.ops.losses import explained_variance, value_loss, weighted_mean
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import (
    AlgorithmState,
    Batch,
    Hyper,
    Inputs,
    Loss,
    Need,
    Params,
    PolicyEvaluation,
    TrainState,
    Trajectory,
)

Q = "reppo.q."
"""Prefix of the parameters of the Q critic."""


class REPPOConfig(AlgorithmConfig):
    """Settings of `reppo`."""

    learning_rate: LearningRate = 1e-3
    max_grad_norm: MaxGradNorm = 0.5
    rollout_steps: RolloutSteps = 64
    epochs: Epochs = 8
    minibatches: Minibatches = 8
    kl_bound: Annotated[float, Field(gt=0, description="bound on KL(old || new) of each state in an update")] = 0.1
    kl_coef_init: Annotated[float, Static, Field(gt=0, description="initial weight of the KL penalty")] = 0.01
    temperature_init: Annotated[float, Static, Field(gt=0, description="initial weight of the entropy")] = 0.01
    target_entropy: Annotated[
        float, Field(description="target of the policy's entropy, per action dimension, of actions in [-1, 1]")
    ] = -0.5
    critic_hidden: CriticHidden = (64, 64)


class REPPO:
    """REPPO: the gradient of a learned Q with respect to the policy's own actions, on-policy and within a KL bound.

        L(θ) = E[ α ln π(a'|s; θ) - Q(s, a') if KL(π_old || π) < ε, else β KL(π_old || π) ],  KL of the state s
        a' = tanh(μ(s) + σ(s) z),  z ~ N(0, I)
        L_Q = ½ E[ (Q(s, a) - G)² ],  Gₜ = r̃ₜ + γ ((1 - λ) Q(sₜ₊₁, a'ₜ₊₁) + λ Gₜ₊₁)
        r̃ₜ = rₜ - γ α ln π(a'ₜ₊₁|sₜ₊₁),  a'ₜ₊₁ ~ π(·|sₜ₊₁)
        L_α = α sg(H(π) - H̄),  L_β = β sg(ε - KL),  means over all states;  sg stops the gradient

    The policy is improved along ∇_a Q (a pathwise gradient), not along ∇ ln π, and no ratio is involved. Q learns only
    from the last rollout, by λ-returns of the entropy-regularized reward, with layer normalization. The KL bound keeps
    the policy where Q is accurate. The temperature α and the weight β are the exponentials of learned parameters.

    Differences from the authors' code: KL, and the entropy in L_α, are computed exactly or by quadrature, not from
    samples; Q is regressed by the squared error instead of a histogram, without an auxiliary loss of its features; all
    losses share their gradient steps.

    Shapes: a batch, Q and G are `[S, T, B]`, actions `[S, T, B, A]`, α and β `[S]`, the losses `[S]`.
    Source: Voelcker et al. (2025), Relative entropy pathwise policy optimization, ICLR 2026; arXiv 2507.11019.
    """

    estimator = "td-lambda"
    needs: ClassVar[frozenset[Need]] = frozenset({"shift", "own_values", "old"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 16,
        "total_steps": 200_000,
        "normalize_reward": True,
        "policy": {"name": "mlp", "distribution": "tanh", "state_std": True, "layer_norm": True},
    }

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Return the initial parameters of Q, log α and log β. Raises UnfitError for a recurrent policy."""
        if ctx.policy.memory_size:
            raise UnfitError('Algorithm "reppo" supports no recurrent policy: its Q critic has no memory.')
        settings, size = ctx.settings, ctx.policy.vector_size + gym.spaces.flatdim(ctx.spec.action_space)
        params = init_critic_network(rng, Q, size, settings.critic_hidden, layer_norm=True, activation="silu")
        params["reppo.log_alpha"] = torch.tensor(settings.temperature_init).log()
        params["reppo.log_beta"] = torch.tensor(settings.kl_coef_init).log()
        return AlgorithmState(params, {})

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Take gradient steps for several epochs on one rollout, with new actions of the policy in each epoch."""
        old = ctx.evaluate_policy(state, trajectory)
        values, bonus = self.values(ctx, state, trajectory, old)
        targets = ctx.estimate(state, trajectory, old._replace(values=values), bonus=bonus)
        for epoch in range(ctx.settings.epochs):
            extra = {"noise": ctx.noise("reppo.actions", state, trajectory.actions.shape[1:], epoch)}
            epochs = range(epoch, epoch + 1)
            batches = ctx.minibatches(state, trajectory, targets, old, epochs=epochs, extra=extra)
            state = ctx.steps(self.loss, state, batches)
        return state

    def values(
        self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory, old: PolicyEvaluation
    ) -> tuple[Tensor, Tensor]:
        """Return the values `[S, T+1, N]` of the states, and the entropy bonus `[S, T, N]` of the steps.

        The value of sₜ is Q(sₜ, a'ₜ), the bonus of step t is -γ α ln π(a'ₜ₊₁|sₜ₊₁), or 0 at a termination.
        """
        params, obs = state.params | state.buffers, trajectory.obs
        shifted = trajectory._replace(obs=torch.cat([obs[:, 1:], obs[:, -1:]], 1))
        first: Any = old.dist
        following: Any = ctx.evaluate_policy(state, shifted).dist
        mean, log_std = (
            torch.cat([getattr(first, name)[:, :1], getattr(following, name)], 1) for name in ("mean", "log_std")
        )
        with torch.no_grad():
            actions = mean + log_std.exp() * ctx.noise("reppo.values", state, mean.shape[1:])
            values = _q(params, ctx.policy.vectors(params, Inputs(obs)), _bounded(first, actions))
            alpha = params["reppo.log_alpha"].exp()[:, None, None]
            bonus = -ctx.hyper(state).gamma * alpha * following.log_prob(actions[:, 1:])
        return values, torch.where(trajectory.terminated, 0.0, bonus)

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the sum of the losses of the policy, of Q, of the temperature and of the weight of the KL."""
        assert batch.extra is not None
        weights, vectors = batch.weights, policy.vectors(params, batch.inputs)
        dist: Any = policy.apply(params, batch.inputs).dist
        alpha, beta = params["reppo.log_alpha"].exp(), params["reppo.log_beta"].exp()

        q = _q(params, vectors, _bounded(dist, batch.actions))
        q_loss = value_loss(q, batch.returns, weights)

        actions = dist.mean + dist.log_std.exp() * batch.extra["noise"]
        fixed = {name: leaf.detach() for name, leaf in params.items() if name.startswith(Q)}
        improved = _q(fixed, vectors, _bounded(dist, actions))
        kl = batch.old.kl(dist)
        soft_value = improved - alpha.detach()[:, None, None] * dist.log_prob(actions)
        within = kl.detach() < hyper.kl_bound
        policy_loss = weighted_mean(torch.where(within, -soft_value, beta.detach()[:, None, None] * kl), weights)

        has_rows = weights.amax((-2, -1))  # 1 or 0: without rows α and β get no gradient
        mean_kl, entropy = weighted_mean(kl, weights).detach(), weighted_mean(dist.entropy(), weights).detach()
        target = hyper.per_member.target_entropy * dist.mean.shape[-1]
        dual_loss = has_rows * (alpha * (entropy - target) + beta * (hyper.per_member.kl_bound - mean_kl))
        return Loss(
            policy_loss + q_loss + dual_loss,
            {
                "loss/policy": policy_loss,
                "loss/value": q_loss,
                "policy/entropy": entropy,
                "policy/kl": mean_kl,
                "value/explained_variance": explained_variance(q.detach(), batch.returns, weights),
                "reppo/alpha": alpha,
                "reppo/beta": beta,
            },
        )


def _q(params: Params, vectors: Tensor, actions: Tensor) -> Tensor:
    """Return Q(s, a), `[S, T, B]`."""
    return critic_network(params, Q, torch.cat([vectors, actions], -1), activation="silu")


def _bounded(dist: Any, actions: Tensor) -> Tensor:
    """Return actions `[S, T, B, A]` as Q takes them; a tanh distribution stores u instead of tanh(u)."""
    return torch.tanh(actions) if isinstance(dist, TanhGaussian) else actions
