"""The recording of a collection: the steps as they were taken, and what follows from them afterwards."""

from __future__ import annotations

import math
import mmap
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pgzoo.types import INFO, Array, Collector, Trajectory

__all__ = [
    "EpisodeStructure",
    "FinishedEpisodes",
    "RowIndex",
    "Tape",
    "concatenate_episodes",
    "episode_structure",
    "finished_episodes",
    "next_start",
    "trajectory_of",
]

RowIndex: TypeAlias = slice | NDArray[np.intp]
"""An index of rows of the tape: all of them, or those of the members that still play."""

EPISODE_CAPACITY = 513
"""Initial capacity, in steps, for a collection of whole episodes: 512 steps and the last observation."""

OWN_MEMORY = 2**20
"""Size in bytes from which images are stored in memory of their own."""

NEEDED_FOR_RETURNS = ("rewards", "terminated", "truncated", "valid")
"""What is stored when only the returns and lengths of episodes are needed."""


class FinishedEpisodes(NamedTuple):
    """Returns and lengths of finished episodes: one array per member, in the order in which they ended."""

    returns: tuple[NDArray[np.float64], ...]
    lengths: tuple[NDArray[np.int64], ...]


class Tape:
    """Storage for the steps of a collection, `[T, rows, ...]`, which grows for long episodes."""

    def __init__(self, capacity: int | None = None, *, rewards_only: bool = False) -> None:
        """`capacity` counts steps, with one more for the last observation; None if their number isn't known.

        With `rewards_only`, observations and actions are not stored: returns and lengths don't need them.
        """
        self.capacity, self._rewards_only = capacity or EPISODE_CAPACITY, rewards_only
        self.arrays: dict[str, Array] = {}

    def store(self, t: int, where: RowIndex, leaves: dict[str, Array]) -> None:
        """Store the leaves of step t, `[rows, ...]` each, in the rows `where`."""
        stored = {name: leaves[name] for name in NEEDED_FOR_RETURNS} if self._rewards_only else leaves
        if not self.arrays:
            self.arrays = {name: _zeros((self.capacity, *x.shape), x.dtype) for name, x in stored.items()}
        elif t + 1 == self.capacity:
            self._grow()
        for name, leaf in stored.items():
            self.arrays[name][t, where] = leaf

    def block(self, t: int, count: int, leaves: dict[str, Array]) -> dict[str, Array]:
        """Return where the steps from t on are stored, to be written: `[count + 1, rows, ...]`, 0 so far.

        `leaves` has the shapes and dtypes of what is stored of a step, `[rows, ...]` each.
        """
        stored = {name: leaves[name] for name in NEEDED_FOR_RETURNS} if self._rewards_only else leaves
        if not self.arrays:
            self.arrays = {name: _zeros((self.capacity, *x.shape), x.dtype) for name, x in stored.items()}
        while t + count + 1 > self.capacity:
            self._grow()
        return {name: x[t : t + count + 1] for name, x in self.arrays.items()}

    def store_last(self, t: int, where: RowIndex, obs: Array, mask: Array | None) -> None:
        """Store the observations and action masks after the last step."""
        if self._rewards_only:
            return
        self.arrays["obs"][t, where] = obs
        if mask is not None:
            self.arrays["action_mask"][t, where] = mask

    def _grow(self) -> None:
        """Double the capacity."""
        self.arrays = {name: np.concatenate([x, np.zeros_like(x)]) for name, x in self.arrays.items()}
        self.capacity *= 2


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of zeros. Images get memory of their own, which the system gets back when they are deleted.

    The next tape wouldn't fit in the memory of the last one, of which smaller arrays would have taken a part.
    """
    size = math.prod(shape)
    if dtype != np.uint8 or size < OWN_MEMORY:
        return np.zeros(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size), np.uint8).reshape(shape)


class EpisodeStructure(NamedTuple):
    """Quantities derived from the flags and rewards of a tape, `[T, rows]` each.

    `starts` has T+1 steps. `first` is the index of the first step of each step's episode, negative if it is before the
    tape. `reward_sum [T+1, rows]` is the sum of the rewards before each step.
    """

    valid: NDArray[np.bool_]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    rewards: NDArray[np.floating]
    starts: NDArray[np.bool_]
    timestep: NDArray[np.int64]
    first: NDArray[np.int64]
    reward_sum: NDArray[np.float64]


def episode_structure(tape: Tape, steps: int, start: Collector, live: NDArray[np.bool_]) -> EpisodeStructure:
    """Derive where episodes start and how far they are, for the first `steps` steps of a tape.

    `start` is the state before the tape; `live [rows]` are the rows that would play on after it.
    """
    rows = start.ended.size
    valid = tape.arrays["valid"][:steps]
    terminated, truncated = (tape.arrays[name][:steps] & valid for name in ("terminated", "truncated"))
    rewards = np.where(valid, tape.arrays["rewards"][:steps], 0.0)
    starts = np.empty((steps + 1, rows), np.bool_)
    starts[0] = start.starts.reshape(rows)
    starts[1:-1] = valid[1:] & ~valid[:-1]  # between two episodes lies one step that only resets
    starts[-1] = live & ~(terminated[-1] | truncated[-1]) & ~valid[-1]
    index, reward_sum = np.arange(steps)[:, None], np.zeros((steps + 1, rows))
    np.cumsum(rewards, 0, out=reward_sum[1:])
    first = np.maximum.accumulate(np.where(starts[:-1], index, -start.timestep.reshape(rows)), axis=0)
    return EpisodeStructure(
        valid=valid,
        terminated=terminated,
        truncated=truncated,
        rewards=rewards,
        starts=starts,
        timestep=np.where(valid, index - first, 0),
        first=first,
        reward_sum=reward_sum,
    )


def finished_episodes(structure: EpisodeStructure, start: Collector, *, by_row: bool = False) -> FinishedEpisodes:
    """Return the episodes that ended; their returns include rewards from before the tape.

    They are in the order in which they ended, or by environment with `by_row`.
    """
    members, num_envs = start.ended.shape
    ended = structure.terminated | structure.truncated
    if not np.count_nonzero(ended):
        return FinishedEpisodes((np.zeros(0),) * members, (np.zeros(0, np.int64),) * members)
    end, row = np.nonzero(ended.T)[::-1] if by_row else np.nonzero(ended)
    first = structure.first[end, row]
    before = np.where(first < 0, start.returns.reshape(-1)[row], 0.0)
    returns = before + structure.reward_sum[end + 1, row] - structure.reward_sum[np.maximum(first, 0), row]
    lengths, member = structure.timestep[end, row] + 1, row // num_envs
    return FinishedEpisodes(
        tuple(returns[member == s] for s in range(members)), tuple(lengths[member == s] for s in range(members))
    )


def trajectory_of(tape: Tape, structure: EpisodeStructure, start: Collector) -> Trajectory:
    """Return the tape as tensors on the CPU, which share its memory."""
    steps = len(structure.valid)

    def tensor(array: Array) -> torch.Tensor:  # [T, rows, ...] -> [S, T, N, ...], without a copy
        return torch.from_numpy(array.reshape(len(array), *start.ended.shape, *array.shape[2:]).swapaxes(0, 1))

    info = {
        name.removeprefix(INFO): tensor(np.where(structure.valid, array[:steps], 0.0).astype(np.float32))
        for name, array in tape.arrays.items()
        if name.startswith(INFO)
    }
    return Trajectory(
        obs=tensor(tape.arrays["obs"][: steps + 1]),
        actions=tensor(tape.arrays["actions"][:steps]),
        rewards=tensor(structure.rewards.astype(np.float32)),
        terminated=tensor(structure.terminated),
        truncated=tensor(structure.truncated),
        valid=tensor(structure.valid),
        starts=tensor(structure.starts),
        timestep=tensor(structure.timestep),
        action_mask=tensor(tape.arrays["action_mask"][: steps + 1]) if "action_mask" in tape.arrays else None,
        memory=None if start.memory is None else torch.from_numpy(start.memory),
        info=info or None,
    )


def next_start(tape: Tape, structure: EpisodeStructure, start: Collector, memory: Array | None) -> Collector:
    """Return the start of the next window."""
    shape, rows, steps = start.ended.shape, start.ended.size, len(structure.valid)
    first = structure.first[-1]
    ended = structure.terminated[-1] | structure.truncated[-1]
    over = ended | ~structure.valid[-1]
    before = np.where(first < 0, start.returns.reshape(rows), 0)
    returns = structure.reward_sum[-1] - structure.reward_sum[np.maximum(first, 0), np.arange(rows)] + before
    return Collector(
        obs=tape.arrays["obs"][steps].reshape(start.obs.shape).copy(),
        ended=ended.reshape(shape),
        starts=structure.starts[-1].reshape(shape),
        timestep=np.where(over, 0, structure.timestep[-1] + 1).reshape(shape),
        returns=np.where(over, 0.0, returns).reshape(shape),
        action_mask=None if start.action_mask is None else tape.arrays["action_mask"][steps].reshape(*shape, -1).copy(),
        memory=memory,
    )


def concatenate_episodes(parts: list[FinishedEpisodes], members: int) -> FinishedEpisodes:
    """Concatenate the episodes of several collections, per member."""
    if len(parts) == 1:
        return parts[0]
    return FinishedEpisodes(
        tuple(np.concatenate([np.zeros(0), *(p.returns[s] for p in parts)]) for s in range(members)),
        tuple(np.concatenate([np.zeros(0, np.int64), *(p.lengths[s] for p in parts)]) for s in range(members)),
    )
