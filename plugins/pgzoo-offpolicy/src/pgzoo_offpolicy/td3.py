"""DDPG and TD3: deterministic policy gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.ops.losses import explained_variance, value_loss, weighted_mean
from pgzoo.ops.optim import flatten
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import AlgorithmState, Batch, Hyper, Inputs, Loss, Params, TrainState, Trajectory
from pgzoo_offpolicy.exploration import ContinuousConfig, exploration_noise, init_exploration
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
from pgzoo_offpolicy.targets import move_targets, select_named, target_params, td_target

POLICY = "policy."
"""Prefix of the parameters of the policy."""

KNOWN_EXCEPTIONS = {
    "sampled-actions": "the critics learn from the clipped actions, which the environment gets; there is no density",
    "improves": "in the first updates, the policy follows critics that have learned almost nothing",
}
"""The conformance checks that a deterministic policy gradient doesn't pass, with the reasons."""

ExplorationNoise = Annotated[
    float, Field(ge=0, description="standard deviation of the noise added to actions in [-1, 1]")
]


class DDPGConfig(ContinuousConfig):
    """Settings of `ddpg`."""

    exploration_noise: ExplorationNoise = 0.1


class TD3Config(ContinuousConfig):
    """Settings of `td3`."""

    exploration_noise: ExplorationNoise = 0.1
    policy_delay: Annotated[PositiveInt, Field(description="gradient steps of the critics per step of the policy")] = 2
    target_noise: Annotated[
        float, Field(ge=0, description="standard deviation of the noise added to actions in the critics' targets")
    ] = 0.2
    target_noise_clip: Annotated[float, Field(ge=0, description="maximum absolute value of that noise")] = 0.5


class DDPG:
    """DDPG: a deterministic policy improved along the gradient of a learned Q, off-policy.

        L_Q = ½ E[ (Q(s, a) - y)² ],  y = r + γ Q'(s', μ'(s'));  y = r at a termination
        L_μ = -E[ Q(s, μ(s)) ]
        θ' ← θ' + τ (θ - θ')

    Transitions are stored in a replay buffer, from which each gradient step draws a batch. Q' and μ' are target
    networks. Actions are explored with Gaussian noise, which may be correlated over time, and are uniform before
    `learning_starts`. The losses share their gradient steps: that of the policy uses the critic before the step.

    Shapes: a batch, Q and y are `[S, 1, B]`, actions `[S, 1, B, A]`, the losses `[S]`.
    Source: Lillicrap et al. (2016), Continuous control with deep reinforcement learning, algorithm 1; arXiv
        1509.02971. Its noise is correlated (`noise_correlation`); by default, noise is independent here.
    """

    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 1, "total_steps": 50_000, "policy": "deterministic"}
    known_exceptions: ClassVar[Mapping[str, str]] = KNOWN_EXCEPTIONS

    def __init__(self) -> None:
        self._learner = _DeterministicLearner(("ddpg.q.",), "ddpg.target")

    def init(self, ctx: UpdateContext, rng: np.random.Generator, params: Params) -> AlgorithmState:
        """Return the critic, the target networks and the replay buffer. Raises UnfitError; see `loop.check_fit`."""
        return self._learner.init(ctx, rng, params)

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        """Collect, store and learn, per round."""
        return off_policy_rounds(ctx, self._learner.act, self._learner.learn)


class TD3:
    """TD3: DDPG with the minimum of two critics, delayed updates of the policy, and smoothed targets.

        L_Q = Σᵢ ½ E[ (Qᵢ(s, a) - y)² ],  y = r + γ minᵢ Q'ᵢ(s', a');  y = r at a termination
        a' = clip(μ'(s') + clip(ε, -c, c), -1, 1),  ε ~ N(0, σ²)
        L_μ = -E[ Q₁(s, μ(s)) ],  in every second gradient step
        θ' ← θ' + τ (θ - θ'),  in the same steps

    The minimum counters the overestimation of Q, and the noise keeps the policy from exploiting narrow peaks of Q.
    Everything else is as in `ddpg`.

    Shapes: a batch, Q and y are `[S, 1, B]`, actions `[S, 1, B, A]`, the losses `[S]`.
    Source: Fujimoto, van Hoof & Meger (2018), Addressing function approximation error in actor-critic methods,
        algorithm 1; arXiv 1802.09477.
    """

    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 1, "total_steps": 50_000, "policy": "deterministic"}
    known_exceptions: ClassVar[Mapping[str, str]] = KNOWN_EXCEPTIONS

    def __init__(self) -> None:
        self._learner = _DeterministicLearner(("td3.q1.", "td3.q2."), "td3.target")

    def init(self, ctx: UpdateContext, rng: np.random.Generator, params: Params) -> AlgorithmState:
        """Return the critics, the target networks and the replay buffer. Raises UnfitError; see `loop.check_fit`."""
        return self._learner.init(ctx, rng, params)

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        """Collect, store and learn, per round."""
        return off_policy_rounds(ctx, self._learner.act, self._learner.learn)


@dataclass(frozen=True)
class _DeterministicLearner:
    """The part that DDPG and TD3 share.

    `critics` are the prefixes of the critics' parameters; `target` is the name of the buffer with the target networks
    of the policy and the critics.
    """

    critics: tuple[str, ...]
    target: str

    @property
    def followed(self) -> tuple[str, ...]:
        """Prefixes of the parameters that have target networks."""
        return (POLICY, *self.critics)

    def init(self, ctx: UpdateContext, rng: np.random.Generator, params: Params) -> AlgorithmState:
        """Return one member's critics, target networks and replay buffer; `params` are the policy's parameters."""
        check_fit(ctx)
        name = ctx.config.algorithm
        if ctx.config.policy.name != "deterministic":
            raise UnfitError(f'Algorithm "{name}" needs a deterministic policy: --policy deterministic.')
        critics = init_critics(ctx, rng, self.critics)
        followed = select_named(params | critics, self.followed)
        target = flatten(leaf[None] for leaf in followed.values())[0]
        return AlgorithmState(critics, {self.target: target, **allocate(ctx), **init_exploration(ctx, rng)})

    def act(
        self, ctx: UpdateContext, state: TrainState, warming_up: NDArray[np.bool_]
    ) -> tuple[TrainState, Trajectory, Tensor]:
        """Collect with noise, or with uniform actions for members that are warming up."""
        std = ctx.hyper(state).per_member.exploration_noise[:, None]
        warm_up = torch.from_numpy(warming_up[:, None]).to(std)
        buffers = state.buffers | {"policy.noise_std": std, "policy.warm_up": warm_up}
        state, noise = state._replace(buffers=buffers), None
        if ctx.settings.noise_correlation:
            state, noise = exploration_noise(ctx, state)
        state, trajectory = ctx.collect(state, noise)
        ended = state.buffers | {"policy.warm_up": torch.zeros_like(warm_up)}
        return state._replace(buffers=ended), trajectory, trajectory.actions.clamp(-1.0, 1.0)

    def learn(self, ctx: UpdateContext, state: TrainState, sample: Sample) -> TrainState:
        """Take one gradient step of the critics and, every `policy_delay` steps, of the policy and the targets."""
        hyper = ctx.hyper(state)
        targets = self.targets(ctx.policy, state, sample, hyper)
        due = sample.position % getattr(ctx.settings, "policy_delay", 1) == 0
        for members, loss, only in (
            (sample.learning & ~due, self.critic_loss, self.critics_prefix),
            (sample.learning & due, self.joint_loss, ""),
        ):
            if members.any():
                mask = torch.from_numpy(members[:, None, None]).to(ctx.device)
                rates = critic_rates(ctx, state, self.critics)
                batch = batch_of(sample, targets, sample.weights * mask)
                state = ctx.step(loss, state, batch, only, learning_rates=rates)
        if (moving := sample.learning & due).any():
            state = move_targets(state, self.target, self.followed, hyper.per_member.tau, moving)
        return state

    @property
    def critics_prefix(self) -> str:
        """The common prefix of the critics' parameters."""
        return self.critics[0][: self.critics[0].index("q") + 1]

    @torch.no_grad()
    def targets(self, policy: LearningPolicy, state: TrainState, sample: Sample, hyper: Hyper) -> Tensor:
        """Return the targets y of the critics, `[S, 1, B]`."""
        transitions = sample.transitions
        params = state.params | state.buffers | target_params(state, self.target, self.followed)
        inputs = Inputs(transitions.next_obs)
        dist: Any = policy.apply(params, inputs).dist
        actions = dist.mean
        if hasattr(hyper, "target_noise"):
            clip = hyper.target_noise_clip.unsqueeze(-1)
            noise = hyper.target_noise.unsqueeze(-1) * sample.noise[0]
            actions = (actions + torch.minimum(torch.maximum(noise, -clip), clip)).clamp(-1.0, 1.0)
        vectors = policy.vectors(params, inputs)
        values = torch.stack(action_values(params, self.critics, vectors, actions)).amin(0)
        return td_target(transitions.rewards, transitions.terminated, values, hyper.gamma)

    def critic_loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the loss of the critics."""
        vectors = policy.vectors(params, batch.inputs)
        values = action_values(params, self.critics, vectors, batch.actions)
        losses = [value_loss(value, batch.returns, batch.weights) for value in values]
        first = values[0].detach()
        return Loss(
            torch.stack(losses).sum(0),
            {
                "loss/value": torch.stack(losses).sum(0),
                "value/explained_variance": explained_variance(first, batch.returns, batch.weights),
                f"{self.target.partition('.')[0]}/action_value": weighted_mean(first, batch.weights),
            },
        )

    def joint_loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the sum of the losses of the critics and of the policy."""
        critics = self.critic_loss(policy, params, batch, hyper)
        dist: Any = policy.apply(params, batch.inputs).dist
        fixed = {name: leaf.detach() for name, leaf in params.items() if name.startswith(self.critics)}
        vectors = policy.vectors(params, batch.inputs)
        (value,) = action_values(fixed, self.critics[:1], vectors, dist.mean)
        policy_loss = -weighted_mean(value, batch.weights)
        return Loss(critics.value + policy_loss, {"loss/policy": policy_loss, **critics.metrics})
