"""Collect experience: one loop for windows of steps and for whole episodes, for every member at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pgzoo.errors import RunFailed
from pgzoo.ops.draws import draw_noise
from pgzoo.ops.members import select
from pgzoo.protocols import Policy, VectorEnv
from pgzoo.types import Array, Collector, Params, Trajectory

__all__ = ["Cancelled", "Finished", "Greedy", "Noise", "begin", "collect"]

NOISE_BLOCK = 64
"""Steps for which noise is drawn at once: drawing for each step alone would cost more than acting."""

EPISODE_LIMIT = 100_000
"""An episode longer than this has no end; collecting it would fill the memory."""


class Cancelled(Exception):
    """Somebody doesn't want to wait for the end of a collection. What it has gathered is lost, nothing else."""


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
        self._kind = policy.noise
        self._block: Array = np.empty(0)

    def __getitem__(self, t: int) -> Array:
        """Noise of step t; steps must be asked for in order."""
        if t % NOISE_BLOCK == 0:
            draws = [draw_noise(self._kind, generator, self._shape) for generator in self._generators]
            self._block = np.stack(draws, axis=1)  # [block, S, N, K]
        return self._block[t % NOISE_BLOCK]  # type: ignore[no-any-return]

    def select(self, members: NDArray[np.int64]) -> None:
        """Draw for these members alone from here on."""
        self._generators = [self._generators[member] for member in members]
        self._block = self._block[:, members]


class Greedy:
    """No noise: the actor takes the mode of its distribution."""

    def __getitem__(self, t: int) -> None:
        """Nothing, at every step."""

    def select(self, members: NDArray[np.int64]) -> None:
        """Nothing for these members, too."""


class _Tape:
    """Growing time-major storage, `[T, rows, ...]` each: a collection's end is known only when it is there."""

    def __init__(self, capacity: int, **like: Array) -> None:
        self.arrays = {name: np.zeros((capacity, *array.shape), array.dtype) for name, array in like.items()}
        self.capacity = capacity

    def grow(self) -> None:
        """Double the room."""
        self.arrays = {name: np.concatenate([array, np.zeros_like(array)]) for name, array in self.arrays.items()}
        self.capacity *= 2


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
    params: Params,
    noise: Noise | Greedy,
    at: Collector,
    quota: NDArray[np.int64],
    window: int | None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[Trajectory, Finished, Collector]:
    """Step on from `at` until every environment has finished `quota [S, N]` episodes, or for `window` steps.

    An environment that has its quota (0 for members that are not active) stands still. Where there is no window, the
    last member may play far longer than most: each time half of the members are done, the others go on alone.
    Returns what was seen, the episodes that ended, and where a next window goes on from.

    Raises:
        RunFailed: there is no window, and an episode has no end.
        Cancelled: `cancelled()`, asked before every step, says so.
    """
    members, num_envs = at.ended.shape
    rows, limit = members * num_envs, EPISODE_LIMIT if window is None else window
    obs, ended, left = at.obs.reshape(rows, *at.obs.shape[2:]), at.ended.reshape(rows), quota.reshape(rows)
    live, actor = left > 0, policy.actor(params)
    columns = np.arange(rows)  # where on the tape the rows belong that still play
    playing, everybody = bool(live.any()), True
    tape, t = None, 0
    while playing and t < limit:
        if cancelled():
            raise Cancelled
        drawn = actor(obs.reshape(members, num_envs, *obs.shape[1:]), noise[t])
        actions = drawn.reshape(members * num_envs, *drawn.shape[2:])
        step = envs.step(policy.to_env(actions), live)
        valid = live & ~ended
        if tape is None:  # room for one observation more than steps: the last one
            like = step._asdict() | {"obs": obs, "actions": actions, "valid": valid}
            tape = _Tape(512 if window is None else window + 1, **like)
        elif t + 1 == tape.capacity:
            tape.grow()
        store, where = tape.arrays, slice(None) if everybody else columns
        store["obs"][t, where], store["actions"][t, where], store["rewards"][t, where] = obs, actions, step.rewards
        store["terminated"][t, where], store["truncated"][t, where] = step.terminated, step.truncated
        store["valid"][t, where] = valid
        ended = (step.terminated | step.truncated) & valid
        obs = step.obs
        t += 1
        if np.count_nonzero(ended):
            left = left - ended
            live = left > 0
            playing = bool(live.any())
            if window is None and playing and members > 1:
                alive = np.flatnonzero(live.reshape(members, num_envs).any(1))
                kept = (alive[:, None] * num_envs + np.arange(num_envs)).ravel()
                if 2 * len(alive) <= members and (part := envs.select(kept)) is not None:
                    store["obs"][t, where] = obs  # what the others saw last
                    envs, columns, members, everybody = part, columns[kept], len(alive), False
                    obs, ended, left, live = obs[kept], ended[kept], left[kept], live[kept]
                    params = select(params, alive.tolist())
                    actor = policy.actor(params)
                    noise.select(alive)
    if tape is None:
        raise ValueError("nothing to collect: no member is active")
    if window is None and playing:
        raise RunFailed(
            f"An episode has not ended after {EPISODE_LIMIT:,} steps. This algorithm collects whole episodes: "
            "limit them with --max-episode-steps."
        )
    tape.arrays["obs"][t, columns] = obs
    still_live = np.zeros(rows, np.bool_)
    still_live[columns] = live
    return _read(tape, t, at, still_live)


def _read(tape: _Tape, steps: int, at: Collector, live: NDArray[np.bool_]) -> tuple[Trajectory, Finished, Collector]:
    """Make of the tape what follows from it: masks, times and the episodes that ended."""
    members, num_envs = shape = at.ended.shape
    rows = members * num_envs
    valid = tape.arrays["valid"][:steps]
    terminated, truncated = (tape.arrays[name][:steps] & valid for name in ("terminated", "truncated"))
    ended = terminated[-1] | truncated[-1]
    rewards = np.where(valid, tape.arrays["rewards"][:steps], 0.0)
    starts = np.empty((steps + 1, rows), np.bool_)
    starts[0] = at.starts.reshape(rows)
    starts[1:-1] = valid[1:] & ~valid[:-1]  # episodes are set apart by the step that only resets
    starts[-1] = live & ~ended & ~valid[-1]
    # the index of the first step of each step's episode, negative where that lies before the window
    clock = np.arange(steps)[:, None]
    before = -at.timestep.reshape(rows)
    first = np.maximum.accumulate(np.where(starts[:-1], clock, before), axis=0)
    timestep = np.where(valid, clock - first, 0)

    end, row = np.nonzero(terminated | truncated)
    so_far = np.concatenate([np.zeros((1, rows)), np.cumsum(rewards, 0)])
    begun = first[end, row]
    carried = np.where(begun < 0, at.returns.reshape(rows)[row], 0.0)
    returns = carried + so_far[end + 1, row] - so_far[np.maximum(begun, 0), row]
    lengths = timestep[end, row] + 1
    member = row // num_envs
    finished = Finished(
        tuple(returns[member == s] for s in range(members)), tuple(lengths[member == s] for s in range(members))
    )

    def tensor(array: Array) -> torch.Tensor:
        return torch.from_numpy(array.reshape(len(array), *shape, *array.shape[2:])).transpose(0, 1)

    trajectory = Trajectory(
        obs=tensor(tape.arrays["obs"][: steps + 1]),
        actions=tensor(tape.arrays["actions"][:steps]),
        rewards=tensor(rewards.astype(np.float32)),
        terminated=tensor(terminated),
        truncated=tensor(truncated),
        valid=tensor(valid),
        starts=tensor(starts),
        timestep=tensor(timestep),
    )
    open_since = np.maximum(first[-1], 0)
    open_return = (
        so_far[-1] - so_far[open_since, np.arange(rows)] + np.where(first[-1] < 0, at.returns.reshape(rows), 0)
    )
    over = ended | ~valid[-1]
    collector = Collector(
        obs=tape.arrays["obs"][steps].reshape(at.obs.shape).copy(),
        ended=ended.reshape(shape),
        starts=starts[-1].reshape(shape),
        timestep=np.where(over, 0, timestep[-1] + 1).reshape(shape),
        returns=np.where(over, 0.0, open_return).reshape(shape),
    )
    return trajectory, finished, collector
