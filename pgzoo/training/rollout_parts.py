"""Collections in parts: several processes each act in some of the environments, and the parts are put together.

The rows of all parts together, S * N, are the same as without parts, bit for bit: a part chooses actions for all rows,
because a matrix product may round differently with another number of rows, but steps only its own environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pgzoo.protocols import VectorEnv
from pgzoo.training.activity import Monitor
from pgzoo.training.behavior import Behavior
from pgzoo.training.rollout import collect
from pgzoo.training.tape import FinishedEpisodes
from pgzoo.types import INFO, Array, Collector, StepResult, Trajectory

__all__ = ["OwnRows", "Part", "collect_part", "merge_parts", "part_of", "rows_of_parts"]


class Part(NamedTuple):
    """What one process has collected in its rows.

    Attributes:
        leaves: the trajectory, `[T, rows, ...]` each; `obs`, `starts` and `action_mask` are `[T+1, rows, ...]`.
        end: where the next window starts, `[rows, ...]` each.
        episodes: of each episode that ended its last step, row among all S * N, return and length, `[episodes]` each.
        seconds: how long acting and stepping took; see `Monitor`.
        steps: environment steps, including those that only reset.
    """

    leaves: dict[str, Array]
    end: dict[str, Array]
    episodes: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]
    seconds: dict[str, float]
    steps: int


def rows_of_parts(members: int, num_envs: int, count: int) -> list[NDArray[np.int64]]:
    """Return the rows of at most `count` parts: each has the same share of every member's environments."""
    shares = np.array_split(np.arange(num_envs), min(count, num_envs))
    return [(np.arange(members)[:, None] * num_envs + share).ravel() for share in shares]


class OwnRows:
    """A `VectorEnv` of `total` rows, of which only the rows `own` exist; the others are never live."""

    def __init__(self, envs: VectorEnv, own: NDArray[np.int64], total: int) -> None:
        self.envs, self.own, self.total = envs, own, total
        self.observation_space, self.action_space = envs.observation_space, envs.action_space
        self.action_mask: NDArray[np.bool_] | None = None

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Start a new episode in every own row from its seed, `[total]`."""
        obs = self.envs.reset(seeds[self.own])
        self._show_mask()
        return self._spread(obs, np.zeros((), obs.dtype))

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every live row."""
        step = self.envs.step(actions[self.own], live[self.own])
        self._show_mask()
        info = None if step.info is None else {key: self._spread(value) for key, value in step.info.items()}
        obs, rewards, terminated, truncated = (self._spread(leaf) for leaf in step[:4])
        return StepResult(obs, rewards, terminated, truncated, info)

    def select(self, rows: NDArray[np.int64]) -> None:
        """Return None: all own rows are always stepped together."""

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def _show_mask(self) -> None:
        mask = self.envs.action_mask
        self.action_mask = None if mask is None else self._spread(mask, np.True_)

    def _spread(self, leaf: Array, fill: Any = 0) -> Array:
        return _spread(leaf, self.own, self.total, fill)


def part_of(start: Collector, own: NDArray[np.int64]) -> dict[str, Array]:
    """Return the own rows of the start of a collection, by field, `[rows, ...]` each."""
    size = start.ended.size
    leaves = {name: leaf for name, leaf in start._asdict().items() if leaf is not None}
    return {name: leaf.reshape(size, *leaf.shape[2:])[own] for name, leaf in leaves.items()}


def collect_part(
    envs: VectorEnv,
    behavior: Behavior,
    start: dict[str, Array],
    quota: NDArray[np.int64],
    window: int | None,
    own: NDArray[np.int64],
    shape: tuple[int, int],
) -> Part:
    """Act in the own rows as `rollout.collect` does in all.

    Args:
        envs: environments with S * N rows, of which the own ones are stepped.
        behavior: how to act in all rows.
        start: the own rows of where the collection starts; see `part_of`.
        quota: the number of episodes of each own row, `[rows]`, in a collection of whole episodes.
        window: the number of steps; None to collect whole episodes.
        own: the own rows, among all S * N.
        shape: S and N.

    Raises:
        EndlessEpisode: as `rollout.collect`.
    """
    total = shape[0] * shape[1]
    monitor = Monitor()

    def spread(leaf: Array, fill: Any = 0) -> Array:
        return _spread(leaf, own, total, fill).reshape(*shape, *leaf.shape[1:])

    first = Collector(**{name: spread(leaf, name == "action_mask") for name, leaf in start.items()})
    trajectory, finished, end = collect(envs, behavior, first, spread(quota), window, monitor)

    def rows(leaf: torch.Tensor) -> Array:  # [S, T, N, ...] -> [T, own rows, ...]
        return leaf.transpose(0, 1).reshape(leaf.shape[1], total, *leaf.shape[3:])[:, own].numpy()

    recorded = trajectory._replace(memory=None)._asdict()
    leaves = {name: rows(leaf) for name, leaf in recorded.items() if isinstance(leaf, torch.Tensor)}
    leaves |= {INFO + name: rows(leaf) for name, leaf in (trajectory.info or {}).items()}
    ended = (trajectory.terminated | trajectory.truncated).transpose(0, 1).reshape(-1, total).numpy()
    last, row = np.nonzero(ended)
    order = np.argsort(row // shape[1], kind="stable")  # as in `finished`: member by member
    episodes = last[order], row[order], np.concatenate(finished.returns), np.concatenate(finished.lengths)
    return Part(leaves, part_of(end, own), episodes, monitor.seconds, monitor.steps)


def merge_parts(
    parts: Sequence[Part], rows: Sequence[NDArray[np.int64]], start: Collector
) -> tuple[Trajectory, FinishedEpisodes, Collector]:
    """Return what `rollout.collect` returns, from the parts and the rows of each."""
    shape, total = start.ended.shape, start.ended.size

    def merged(leaves: Sequence[Array]) -> Array:
        """Return one array `[T, total, ...]`; parts that ended earlier are filled with zeros."""
        steps = max(len(leaf) for leaf in leaves)
        whole = np.zeros((steps, total, *leaves[0].shape[2:]), leaves[0].dtype)
        for leaf, own in zip(leaves, rows, strict=True):
            whole[: len(leaf), own] = leaf
        return whole

    def tensor(name: str) -> torch.Tensor:
        whole = merged([part.leaves[name] for part in parts])
        return torch.from_numpy(whole.reshape(len(whole), *shape, *whole.shape[2:])).transpose(0, 1)

    known = parts[0].leaves
    info = {name.removeprefix(INFO): tensor(name) for name in known if name.startswith(INFO)}
    memory = None if start.memory is None else torch.from_numpy(start.memory)
    fields = {name: tensor(name) for name in known if not name.startswith(INFO)}
    trajectory = Trajectory(**fields, memory=memory, info=info or None)

    ends = {name: merged([part.end[name][None] for part in parts])[0] for name in parts[0].end}
    collector = Collector(**{name: leaf.reshape(*shape, *leaf.shape[1:]) for name, leaf in ends.items()})
    last, row, returns, lengths = (np.concatenate(leaves) for leaves in zip(*(p.episodes for p in parts), strict=True))
    order = np.lexsort((row, last))
    member = row[order] // shape[1]
    finished = FinishedEpisodes(
        *(tuple(leaf[order][member == s] for s in range(shape[0])) for leaf in (returns, lengths))
    )
    return trajectory, finished, collector


def _spread(leaf: Array, own: NDArray[np.int64], total: int, fill: Any) -> Array:
    """Return an array of `total` rows with `leaf` in the rows `own`, and `fill` in the others."""
    whole = np.full((total, *leaf.shape[1:]), fill, leaf.dtype)
    whole[own] = leaf
    return whole
