"""Collect experience: one loop for windows of steps and for whole episodes, for every member at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pgzoo.errors import RunFailed
from pgzoo.protocols import Actor, Policy, VectorEnv
from pgzoo.types import Array, Collector, Trajectory

__all__ = ["Finished", "Greedy", "Noise", "begin", "collect"]

NOISE_BLOCK = 64
"""Steps for which noise is drawn at once: drawing for each step alone would cost more than acting."""

EPISODE_LIMIT = 1_000_000
"""An episode longer than this has no end; collecting it would fill the memory."""


class Finished(NamedTuple):
    """Episodes that ended in a collection: one array per member, in the order in which they ended."""

    returns: tuple[NDArray[np.float64], ...]
    lengths: tuple[NDArray[np.int64], ...]


class Noise:
    """Noise for the steps of one collection, `[S, N, K]` each, every member from its own generator.

    Steps are drawn in blocks and each generator is used for this collection alone, so what one member gets doesn't
    depend on how long another plays.
    """

    def __init__(self, policy: Policy, generators: list[np.random.Generator], num_envs: int) -> None:
        self._generators = generators
        self._shape = (NOISE_BLOCK, num_envs, policy.noise_size)
        self._normal = policy.noise == "normal"
        self._block: Array = np.empty(0)

    def __getitem__(self, t: int) -> Array:
        """Noise of step t; steps must be asked for in order."""
        if t % NOISE_BLOCK == 0:
            draws = [
                g.standard_normal(self._shape, np.float32) if self._normal else g.random(self._shape, np.float32)
                for g in self._generators
            ]
            self._block = np.stack(draws, axis=1)  # [block, S, N, K]
        return self._block[t % NOISE_BLOCK]  # type: ignore[no-any-return]


class Greedy:
    """No noise: the actor takes the mode of its distribution."""

    def __getitem__(self, t: int) -> None:
        """Nothing, at every step."""


@dataclass
class _Buffer:
    """Growing time-major storage; a collection's end is known only when it is there."""

    rows: int
    capacity: int

    def __post_init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def put(self, t: int, **values: Array) -> None:
        while t >= self.capacity:
            self.capacity *= 2
            for name, old in self.arrays.items():
                self.arrays[name] = np.concatenate([old, np.zeros_like(old)])
        for name, value in values.items():
            if name not in self.arrays:
                self.arrays[name] = np.zeros((self.capacity, *value.shape), value.dtype)
            self.arrays[name][t] = value

    def take(self, name: str, steps: int, members: int) -> torch.Tensor:
        """A view `[S, steps, N, ...]`."""
        array = self.arrays[name][:steps]
        shaped = array.reshape(steps, members, self.rows // members, *array.shape[2:])
        return torch.from_numpy(shaped).transpose(0, 1)


def begin(envs: VectorEnv, seeds: NDArray[np.int64]) -> Collector:
    """Reset every environment from `seeds [S, N]`."""
    obs = envs.reset(seeds.reshape(-1))
    shape = seeds.shape
    return Collector(
        obs=obs.reshape(*shape, *obs.shape[1:]),
        ended=np.zeros(shape, np.bool_),
        starts=np.ones(shape, np.bool_),
        timestep=np.zeros(shape, np.int64),
        returns=np.zeros(shape),
    )


def collect(
    envs: VectorEnv,
    policy: Policy,
    actor: Actor,
    noise: Noise | Greedy,
    at: Collector,
    quota: NDArray[np.int64],
    window: int | None,
) -> tuple[Trajectory, Finished, Collector]:
    """Step on from `at` until every environment has finished `quota [S, N]` episodes, or for `window` steps.

    An environment that has its quota (0 for members that are not active) stands still. Returns what was seen, the
    episodes that ended, and where to go on from.

    Raises:
        RunFailed: there is no window, and an episode has no end.
    """
    limit = EPISODE_LIMIT if window is None else window
    members, num_envs = at.ended.shape
    rows = members * num_envs
    buffer = _Buffer(rows, min(limit, 512) + 1)
    obs, returns = at.obs.reshape(rows, *at.obs.shape[2:]), at.returns.reshape(rows).copy()
    ended, starts = at.ended.reshape(rows), at.starts.reshape(rows)
    timestep, left = at.timestep.reshape(rows).copy(), quota.reshape(rows)
    live = left > 0
    finished: list[tuple[int, float, int]] = []
    t = 0
    while t < limit and live.any():
        valid = live & ~ended
        shaped_obs = obs.reshape(members, num_envs, *obs.shape[1:])
        drawn = actor(shaped_obs, noise[t])
        actions = drawn.reshape(rows, *drawn.shape[2:])
        buffer.put(t, obs=obs, actions=actions, valid=valid, starts=starts, timestep=timestep)
        step = envs.step(policy.to_env(actions), live)
        ended_now = (step.terminated | step.truncated) & valid
        buffer.put(
            t,
            rewards=np.where(valid, step.rewards, 0.0).astype(np.float32),
            terminated=step.terminated & valid,
            truncated=step.truncated & valid,
        )
        returns += np.where(valid, step.rewards, 0.0)
        starts = live & ended  # this step was the filler: the next one begins an episode
        timestep = np.where(valid, timestep + 1, timestep)
        obs = step.obs
        if ended_now.any():
            for row in np.flatnonzero(ended_now):
                finished.append((int(row), float(returns[row]), int(timestep[row])))
            returns[ended_now], timestep[ended_now] = 0.0, 0
            left = left - ended_now
            live = left > 0
        ended = ended_now
        t += 1
    if window is None and live.any():
        raise RunFailed(
            f"An episode has not ended after {EPISODE_LIMIT:,} steps. This algorithm collects whole episodes: "
            "limit them with --max-episode-steps."
        )
    buffer.put(t, obs=obs, starts=starts)
    trajectory = Trajectory(
        obs=buffer.take("obs", t + 1, members),
        actions=buffer.take("actions", t, members),
        rewards=buffer.take("rewards", t, members),
        terminated=buffer.take("terminated", t, members),
        truncated=buffer.take("truncated", t, members),
        valid=buffer.take("valid", t, members),
        starts=buffer.take("starts", t + 1, members),
        timestep=buffer.take("timestep", t, members),
    )
    shape = (members, num_envs)
    collector = Collector(
        obs=obs.reshape(*shape, *obs.shape[1:]),
        ended=ended.reshape(shape),
        starts=starts.reshape(shape),
        timestep=timestep.reshape(shape),
        returns=returns.reshape(shape),
    )
    return trajectory, _by_member(finished, members, num_envs), collector


def _by_member(finished: list[tuple[int, float, int]], members: int, num_envs: int) -> Finished:
    by_member: list[list[tuple[float, int]]] = [[] for _ in range(members)]
    for row, value, length in finished:
        by_member[row // num_envs].append((value, length))
    return Finished(
        tuple(np.array([value for value, _ in episodes], np.float64) for episodes in by_member),
        tuple(np.array([length for _, length in episodes], np.int64) for episodes in by_member),
    )
