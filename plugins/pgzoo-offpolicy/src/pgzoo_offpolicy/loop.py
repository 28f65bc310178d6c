"""What DDPG, TD3 and SAC have in common: settings, and the loop that collects, stores, samples and learns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from pgzoo.config import AlgorithmConfig, CriticHidden, LearningRate, RolloutSteps
from pgzoo.errors import UnfitError, UsageError
from pgzoo.ops.critics import critic_network, init_critic_network
from pgzoo.ops.nets import ROW_ALIGN, layers_of
from pgzoo.protocols import UpdateContext
from pgzoo.types import Batch, Inputs, Params, TrainState, Trajectory
from pgzoo_offpolicy import replay
from pgzoo_offpolicy.replay import Transitions

__all__ = [
    "OffPolicyConfig",
    "Sample",
    "action_size",
    "action_values",
    "allocate",
    "batch_of",
    "check_fit",
    "critic_rates",
    "critic_values",
    "init_critics",
    "off_policy_rounds",
]


class OffPolicyConfig(AlgorithmConfig):
    """Settings that `ddpg`, `td3` and `sac` have in common."""

    learning_rate: LearningRate = 1e-3
    rollout_steps: RolloutSteps = 1
    gradient_steps: Annotated[PositiveInt, Field(description="gradient steps per update")] = 1
    batch_size: Annotated[PositiveInt, Field(description="number of transitions per gradient step")] = 256
    buffer_size: Annotated[
        PositiveInt, Field(description="capacity of the replay buffer (per seed), in transitions")
    ] = 100_000
    learning_starts: Annotated[
        int, Field(ge=0, description="environment steps (per seed) before the first gradient step")
    ] = 100
    critic_learning_rate: Annotated[
        float | None, Field(gt=0, description="learning rate of the critics; by default that of the policy")
    ] = None
    tau: Annotated[float, Field(gt=0, le=1, description="step size of the target networks per gradient step")] = 0.005
    critic_hidden: CriticHidden = (64, 64)


class Sample(NamedTuple):
    """The data of one gradient step.

    Shapes:
        transitions: `[S, 1, B, ...]`.
        weights: `[S, 1, B]`; 0 for invalid transitions, padding, and all rows of members that don't learn yet.
        noise: `[2, S, 1, B, A]`, two independent standard normal numbers for each action dimension.
        learning: `[S]` bool, the members that take this step.
        position: `[S]`, the number of this gradient step, counted from 0 at the start of the run.
    """

    transitions: Transitions
    weights: Tensor
    noise: Tensor
    learning: NDArray[np.bool_]
    position: NDArray[np.int64]


Act = Callable[[UpdateContext, TrainState, NDArray[np.bool_]], tuple[TrainState, Trajectory, Tensor]]
"""`(ctx, state, warming_up [S]) -> (state, trajectory, actions)`: collects; the actions are in [-1, 1]."""

Learn = Callable[[UpdateContext, TrainState, Sample], TrainState]
"""Takes one gradient step of each network, and moves the target networks."""


def check_fit(ctx: UpdateContext, actions: type[gym.spaces.Space[Any]] = gym.spaces.Box) -> None:
    """Raise UnfitError for other actions, action masks, a recurrent policy, or normalized rewards."""
    who = f'Algorithm "{ctx.config.algorithm}"'
    if not isinstance(ctx.spec.action_space, actions):
        raise UnfitError(
            f"{who} supports only {actions.__name__} actions, not {ctx.spec.action_space}. Choose another algorithm."
        )
    if ctx.spec.masked:
        raise UnfitError(f"{who} supports no action masks, because its replay buffer doesn't store them.")
    if ctx.policy.memory_size:
        raise UnfitError(f"{who} supports no recurrent policy: it learns from single transitions.")
    if ctx.config.normalize_reward:
        raise UnfitError(f"{who} learns from rewards as they are; remove --normalize-reward.")


def action_size(ctx: UpdateContext) -> int:
    """Return the number of action dimensions; 1 for Discrete actions, which are stored as their index."""
    space = ctx.spec.action_space
    return 1 if isinstance(space, gym.spaces.Discrete) else gym.spaces.flatdim(space)


def critic_rates(ctx: UpdateContext, state: TrainState, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the learning rates `[S]` of the critics with these prefixes, if they differ from the policy's.

    They follow the same schedule.
    """
    hyper = ctx.hyper(state)
    rate = hyper.critic_learning_rate
    if rate is None:
        return {}
    scheduled = rate * hyper.remaining if hyper.learning_rate_schedule == "linear" else rate
    return dict.fromkeys(prefixes, scheduled.reshape(-1))


def allocate(ctx: UpdateContext) -> Params:
    """Return one member's empty replay buffer. Raises UsageError if those of all members don't fit into memory."""
    space: Any = ctx.spec.observation_space
    obs = torch.from_numpy(np.zeros(space.shape or (), space.dtype))
    seeds, capacity = len(ctx.members), ctx.settings.buffer_size
    needed, memory = seeds * replay.size_in_bytes(capacity, obs, action_size(ctx)), _machine_memory()
    if memory and needed > memory:
        raise UsageError(
            f'Algorithm "{ctx.config.algorithm}": the replay buffers of {seeds} seed{"s" * (seeds > 1)}, with '
            f"{capacity:,} transitions each, would need {needed / 2**30:,.1f} GiB of memory, and this machine has "
            f"{memory / 2**30:,.1f} GiB. Choose a smaller --buffer-size or fewer seeds."
        )
    written = ctx.settings.rollout_steps * ctx.num_envs
    return replay.allocate(ctx.settings.buffer_size, written, obs, action_size(ctx))


def _machine_memory() -> int:
    """Return the bytes of this machine's memory; 0 if that is unknown."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def init_critics(ctx: UpdateContext, rng: np.random.Generator, prefixes: tuple[str, ...]) -> Params:
    """Return one member's initial critics Q(s, a), one for each prefix."""
    size = ctx.policy.vector_size + gym.spaces.flatdim(ctx.spec.action_space)
    params: Params = {}
    for prefix in prefixes:
        params |= init_critic_network(rng, prefix, size, ctx.settings.critic_hidden, activation="relu")
    return params


def action_values(params: Params, prefixes: tuple[str, ...], vectors: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
    """Return each critic's Q(s, a) `[S, T, B]` for observations as vectors, and actions `[S, T, B, A]` in [-1, 1]."""
    return critic_values(params, prefixes, torch.cat([vectors, actions], -1))


def critic_values(
    params: Params, prefixes: tuple[str, ...], x: Tensor, outputs: int | None = None
) -> tuple[Tensor, ...]:
    """Return the values of critics of the same sizes; see `critic_network`.

    They are evaluated as one critic of more members, with the same results in fewer operations.
    """
    names, count = layers_of(params, prefixes[0]), len(prefixes)
    joined = {name: torch.cat([params[prefix + name] for prefix in prefixes]) for name in names}
    return critic_network(joined, "", x.repeat(count, 1, 1, 1), "relu", outputs=outputs).chunk(count)


def batch_of(sample: Sample, targets: Tensor, weights: Tensor, **extra: Tensor) -> Batch:
    """Return a batch of the sampled transitions, with the critics' targets `[S, 1, B]` as returns."""
    zeros = torch.zeros_like(targets)
    transitions = sample.transitions
    return Batch(
        inputs=Inputs(transitions.obs),
        actions=transitions.actions,
        timestep=zeros,
        advantages=zeros,
        returns=targets,
        weights=weights,
        extra=extra,
    )


def off_policy_rounds(ctx: UpdateContext, act: Act, learn: Learn) -> Iterator[None]:
    """Collect, store the transitions, and take `gradient_steps` steps on samples of the buffer, per round."""
    while ctx.running():
        warming_up = ctx.state.env_steps < ctx.settings.learning_starts
        state, trajectory, actions = act(ctx, ctx.state, warming_up)
        state = replay.write(state, replay.transitions_of(trajectory, actions))
        for sample in _samples(ctx, state):
            state = learn(ctx, state, sample)
        ctx.state = state
        yield


def _samples(ctx: UpdateContext, state: TrainState) -> Iterator[Sample]:
    """Yield a sample for each gradient step of the update, drawn uniformly from the buffer, with replacement.

    Each member draws from its own generator, so its samples don't depend on the other members.
    """
    settings = ctx.settings
    learning = state.active & (state.env_steps >= settings.learning_starts)
    if not learning.any():
        return
    steps, size = settings.gradient_steps, settings.batch_size
    padded = -(-size // ROW_ALIGN) * ROW_ALIGN
    written = settings.rollout_steps * ctx.num_envs
    counts = replay.stored(state, written)
    slots = np.zeros((steps, len(counts), padded), np.int64)
    for member in np.flatnonzero(learning):
        rng = ctx.rng("replay", int(member), state)
        slots[:, member, :size] = rng.integers(0, counts[member], (steps, size))
    noise = ctx.noise("replay.noise", state, (steps, 2, 1, padded, action_size(ctx)))
    real = torch.from_numpy(learning[:, None] & (np.arange(padded) < size)).to(ctx.device)
    found = replay.read(state, written, slots.swapaxes(0, 1).reshape(len(counts), -1))
    by_step = [leaf.reshape(-1, steps, padded, *leaf.shape[2:]).transpose(0, 1).contiguous() for leaf in found]
    for k in range(steps):
        transitions = Transitions(*(leaf[k].unsqueeze(1) for leaf in by_step))
        weights = (real.unsqueeze(1) & transitions.valid).float()
        yield Sample(
            transitions,
            weights,
            noise[:, k].transpose(0, 1),
            learning,
            state.updates * steps + k,
        )
