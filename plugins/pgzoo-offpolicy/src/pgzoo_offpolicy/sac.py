"""SAC: soft actor-critic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.ops.losses import explained_variance, value_loss, weighted_mean
from pgzoo.ops.optim import flatten
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import AlgorithmState, Batch, Hyper, Inputs, Loss, Need, Params, TrainState, Trajectory
from pgzoo_offpolicy.exploration import ContinuousConfig, exploration_noise, init_exploration, uniform_actions
from pgzoo_offpolicy.loop import (
    Sample,
    action_values,
    allocate,
    batch_of,
    check_fit,
    critic_rates,
    init_critics,
    off_policy_rounds,
)
from pgzoo_offpolicy.targets import move_targets, target_params, td_target
from pgzoo_offpolicy.temperature import FixedTemperature, InitialTemperature, init_temperature

POLICY = "policy."
"""Prefix of the parameters of the policy."""

Q = "sac.q1.", "sac.q2."
"""Prefixes of the parameters of the critics."""
TARGET = "sac.target"
LOG_ALPHA = "sac.log_alpha"


class SACConfig(ContinuousConfig):
    """Settings of `sac`."""

    temperature: FixedTemperature = None
    temperature_init: InitialTemperature = 1.0
    target_entropy: Annotated[
        float, Field(description="target of the policy's entropy, per action dimension, of actions in [-1, 1]")
    ] = -1.0


class SAC:
    """SAC: off-policy actor-critic that maximizes the return plus the entropy of the policy.

        L_Q = Σᵢ ½ E[ (Qᵢ(s, a) - y)² ],  y = r at a termination, else
        y = r + γ (minᵢ Q'ᵢ(s', a') - α ln π(a'|s')),  a' ~ π(·|s')
        L_π = E[ α ln π(a|s) - minᵢ Qᵢ(s, a) ],  a = tanh(μ(s) + σ(s) z),  z ~ N(0, I)
        L_α = -ln α E[ ln π(a|s) + H̄ ]
        θ' ← θ' + τ (θ - θ')

    Transitions are stored in a replay buffer, from which each gradient step draws a batch. Q' are target networks. The
    policy improves along ∇_a Q (a pathwise gradient). The temperature α is the exponential of a learned parameter, such
    that the entropy of the policy approaches its target H̄, or it is fixed, without L_α.

    Before `learning_starts`, actions are uniform. With state-dependent exploration, they are sampled from the policy.
    The losses share their gradient steps: those of policy and temperature use the critics before the step.

    Shapes: a batch, Q and y are `[S, 1, B]`, actions `[S, 1, B, A]`, α `[S]`, the losses `[S]`.
    Source: Haarnoja et al. (2018), Soft actor-critic algorithms and applications, algorithm 1; arXiv 1812.05905.
    """

    estimator = "reward-to-go"
    needs: ClassVar[frozenset[Need]] = frozenset({"shift"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 1,
        "total_steps": 50_000,
        "policy": {"name": "mlp", "distribution": "tanh", "state_std": True, "activation": "relu"},
    }

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Return critics, ln α, target networks and replay buffer. Raises UnfitError; see `loop.check_fit`."""
        check_fit(ctx)
        if getattr(ctx.config.policy.settings, "distribution", "") != "tanh":
            raise UnfitError(
                'Algorithm "sac" needs bounded actions with a density: --policy.distribution tanh. If the action space '
                "has no finite bounds, choose another algorithm, such as ppo."
            )
        if ctx.settings.noise_correlation and not _samples_by_action(ctx):
            raise UnfitError(
                "State-dependent exploration (--policy.sde) has noise of its own that is correlated over time; "
                "remove --noise-correlation."
            )
        critics = init_critics(ctx, rng, Q)
        target = flatten(leaf[None] for leaf in critics.values())[0]
        learned, fixed = init_temperature(ctx.settings, LOG_ALPHA)
        buffers = {TARGET: target, **allocate(ctx), **init_exploration(ctx, rng)}
        return AlgorithmState(critics | learned, buffers | fixed)

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        """Collect, store and learn, per round."""
        return off_policy_rounds(ctx, self.act, self.learn)

    def act(
        self, ctx: UpdateContext, state: TrainState, warming_up: NDArray[np.bool_]
    ) -> tuple[TrainState, Trajectory, Tensor]:
        """Collect with the stochastic policy, or with uniform actions for members that are warming up.

        With parameters of 0, the policy has mean 0 and standard deviation 1, so that an action is tanh of the noise.
        """
        noise, params = None, state.params
        if _samples_by_action(ctx):
            state, noise = exploration_noise(ctx, state)
            if warming_up.any():
                mask = torch.from_numpy(warming_up).to(noise.device)
                noise = torch.where(_over(mask, noise), uniform_actions(noise), noise)
                acting = {name: leaf for name, leaf in params.items() if name.startswith(POLICY)}
                zeroed = {name: torch.where(_over(mask, leaf), 0.0, leaf) for name, leaf in acting.items()}
                state = state._replace(params=params | zeroed)
        state, trajectory = ctx.collect(state, noise)
        return state._replace(params=params), trajectory, torch.tanh(trajectory.actions)

    def learn(self, ctx: UpdateContext, state: TrainState, sample: Sample) -> TrainState:
        """Take one gradient step, and move the target networks."""
        hyper = ctx.hyper(state)
        targets = self.targets(ctx.policy, state, sample, hyper)
        batch = batch_of(sample, targets, sample.weights, noise=sample.noise[1])
        state = ctx.step(self.joint_loss, state, batch, learning_rates=critic_rates(ctx, state, Q))
        return move_targets(state, TARGET, Q, hyper.per_member.tau, sample.learning)

    @torch.no_grad()
    def targets(self, policy: LearningPolicy, state: TrainState, sample: Sample, hyper: Hyper) -> Tensor:
        """Return the targets y of the critics, `[S, 1, B]`."""
        params, transitions = state.params | state.buffers, sample.transitions
        inputs = Inputs(transitions.next_obs)
        dist: Any = policy.apply(params, inputs).dist
        actions = dist.mean + dist.log_std.exp() * sample.noise[0]
        vectors, critics = policy.vectors(params, inputs), target_params(state, TARGET, Q)
        values = torch.minimum(*action_values(critics, Q, vectors, torch.tanh(actions)))
        alpha = params[LOG_ALPHA].exp()[:, None, None]
        soft_values = values - alpha * dist.log_prob(actions)
        return td_target(transitions.rewards, transitions.terminated, soft_values, hyper.gamma)

    def joint_loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the sum of the losses of the critics, of the policy and of the temperature."""
        assert batch.extra is not None
        weights, vectors = batch.weights, policy.vectors(params, batch.inputs)
        alpha = params[LOG_ALPHA].exp()

        first, second = action_values(params, Q, vectors, batch.actions)
        q_loss = value_loss(first, batch.returns, weights) + value_loss(second, batch.returns, weights)

        dist: Any = policy.apply(params, batch.inputs).dist
        actions = dist.mean + dist.log_std.exp() * batch.extra["noise"]
        log_probs = dist.log_prob(actions)
        fixed = {name: leaf.detach() for name, leaf in params.items() if name.startswith(Q)}
        improved = torch.minimum(*action_values(fixed, Q, vectors, torch.tanh(actions)))
        policy_loss = weighted_mean(alpha.detach()[:, None, None] * log_probs - improved, weights)

        entropy = -weighted_mean(log_probs, weights).detach()
        target = hyper.per_member.target_entropy * dist.mean.shape[-1]
        losses = q_loss + policy_loss
        if hyper.temperature is None:
            losses = losses + params[LOG_ALPHA] * (entropy - target)
        return Loss(
            losses,
            {
                "loss/policy": policy_loss,
                "loss/value": q_loss,
                "policy/entropy": entropy,
                "value/explained_variance": explained_variance(first.detach(), batch.returns, weights),
                "sac/alpha": alpha,
                "sac/action_value": weighted_mean(first.detach(), weights),
            },
        )


def _samples_by_action(ctx: UpdateContext) -> bool:
    """Return whether actions are sampled with one number per dimension, so not with state-dependent exploration."""
    return not getattr(ctx.config.policy.settings, "sde", False)


def _over(mask: Tensor, leaf: Tensor) -> Tensor:
    """Return a mask of members `[S]` that broadcasts over the other axes of `leaf [S, ...]`."""
    return mask.reshape(-1, *[1] * (leaf.ndim - 1))
