"""Collect experience: one loop for windows of steps and for whole episodes, for every member at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pgzoo.errors import RunFailed
from pgzoo.ops.acting import actor_for, memory_size
from pgzoo.ops.draws import draw_noise
from pgzoo.ops.members import select
from pgzoo.protocols import Policy, VectorEnv
from pgzoo.training.events import EvaluationMode
from pgzoo.training.seeding import EVALUATION_ROOT, generator, reset_seeds
from pgzoo.types import ActorInputs, Array, Collector, Params, Trajectory

__all__ = ["Cancelled", "Finished", "Greedy", "Noise", "begin", "collect", "evaluate", "joined"]

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

    def __init__(
        self, policy: Policy, generators: list[np.random.Generator], num_envs: int, steps: int | None = None
    ) -> None:
        """For so many `steps`, where that is known."""
        self._generators = generators
        self._shape = (min(NOISE_BLOCK, steps or NOISE_BLOCK), num_envs, policy.noise_size)
        self._kind = policy.noise
        self._block: Array = np.empty(0)

    def __getitem__(self, t: int) -> Array:
        """Noise of step t; steps must be asked for in order."""
        k = t % self._shape[0]
        if k == 0:
            draws = [draw_noise(self._kind, generator, self._shape) for generator in self._generators]
            self._block = np.stack(draws, axis=1)  # [block, S, N, K]
        return self._block[k]  # type: ignore[no-any-return]

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


def begin(envs: VectorEnv, policy: Policy, seeds: NDArray[np.int64]) -> Collector:
    """Reset every environment from `seeds [S, N]`."""
    obs = envs.reset(seeds.reshape(-1))
    shape, size = seeds.shape, memory_size(policy)
    return Collector(
        obs=obs.reshape(*shape, *obs.shape[1:]),
        ended=np.zeros(shape, np.bool_),
        starts=np.ones(shape, np.bool_),
        timestep=np.zeros(shape, np.int64),
        returns=np.zeros(shape),
        action_mask=None if envs.action_mask is None else envs.action_mask.reshape(*shape, -1),
        memory=np.zeros((*shape, size), np.float32) if size else None,
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
    laps: dict[str, float] | None = None,
) -> tuple[Trajectory, Finished, Collector]:
    """Step on from `at` until every environment has finished `quota [S, N]` episodes, or for `window` steps.

    An environment that has its quota (0 for members that are not active) stands still. Where there is no window, the
    last member may play far longer than most: each time half of the members are done, the others go on alone.
    Returns what was seen, the episodes that ended, and where a next window goes on from. To the `laps` "acting" and
    "environment" the seconds are added that these took.

    Raises:
        RunFailed: there is no window, and an episode has no end.
        Cancelled: `cancelled()`, asked before every step, says so.
    """
    members, num_envs = at.ended.shape
    rows, limit = members * num_envs, EPISODE_LIMIT if window is None else window
    obs, ended, left = at.obs.reshape(rows, *at.obs.shape[2:]), at.ended.reshape(rows), quota.reshape(rows)
    mask, memory = None if at.action_mask is None else at.action_mask.reshape(rows, -1), at.memory
    starts = at.starts.reshape(rows)
    live, actor = left > 0, actor_for(policy, params)
    columns = np.arange(rows)  # where on the tape the rows belong that still play
    playing, everybody = bool(live.any()), True
    tape, t = None, 0
    clock, acting, stepping = time.perf_counter, 0.0, 0.0
    while playing and t < limit:
        if cancelled():
            raise Cancelled
        by_member = (members, num_envs)
        allowed = None if mask is None else mask.reshape(*by_member, -1)
        seen = ActorInputs(obs.reshape(*by_member, *obs.shape[1:]), allowed, memory, starts.reshape(by_member))
        begun = clock()
        drawn, memory = actor(seen, noise[t])
        actions = drawn.reshape(members * num_envs, *drawn.shape[2:])
        taken = policy.to_env(actions)
        chosen = clock()
        step = envs.step(taken, live)
        acting, stepping = acting + chosen - begun, stepping + clock() - chosen
        valid = live & ~ended
        if tape is None:  # room for one observation more than steps: the last one
            like = step._asdict() | {"obs": obs, "actions": actions, "valid": valid}
            if mask is not None:
                like["action_mask"] = mask
            tape = _Tape(512 if window is None else window + 1, **like)
        elif t + 1 == tape.capacity:
            tape.grow()
        store, where = tape.arrays, slice(None) if everybody else columns
        store["obs"][t, where], store["actions"][t, where], store["rewards"][t, where] = obs, actions, step.rewards
        store["terminated"][t, where], store["truncated"][t, where] = step.terminated, step.truncated
        store["valid"][t, where] = valid
        if mask is not None:
            store["action_mask"][t, where], mask = mask, envs.action_mask
        starts = ended  # who was only reset in this step begins an episode with the next
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
                    if mask is not None:
                        store["action_mask"][t, where], mask = mask, mask[kept]
                    envs, columns, members, everybody = part, columns[kept], len(alive), False
                    obs, ended, left, live = obs[kept], ended[kept], left[kept], live[kept]
                    starts, memory = starts[kept], None if memory is None else memory[alive]
                    params = select(params, alive.tolist())
                    actor = actor_for(policy, params)
                    noise.select(alive)
    if tape is None:
        raise ValueError("nothing to collect: no member is active")
    if window is None and playing:
        raise RunFailed(
            f"An episode has not ended after {EPISODE_LIMIT:,} steps. This algorithm collects whole episodes: "
            "limit them with --max-episode-steps."
        )
    if laps is not None:
        laps["acting"] += acting
        laps["environment"] += stepping
    tape.arrays["obs"][t, columns] = obs
    if mask is not None:
        tape.arrays["action_mask"][t, columns] = mask
    still_live = np.zeros(rows, np.bool_)
    still_live[columns] = live
    return _read(tape, t, at, still_live, memory if everybody else None)


def evaluate(
    envs: VectorEnv,
    count: int,
    policy: Policy,
    params: Params,
    *,
    seeds: Sequence[int],
    active: NDArray[np.bool_],
    episodes: int,
    mode: EvaluationMode,
    cancelled: Callable[[], bool] = lambda: False,
) -> Finished:
    """Play `episodes` episodes of each active member on `count` environments per member, in rounds of one each.

    Episode k starts in the same state for every member and algorithm; actions come from the stream of the member's
    seed. Every environment plays the same number of episodes or one less, so that short ones are not over-sampled:
    where it is cancelled, the rounds that are complete count.
    """
    starts = reset_seeds(EVALUATION_ROOT, "evaluate", episodes)
    rounds: list[Finished] = []
    for k in range(0, episodes, count):
        at = np.resize(starts[k : k + count], count)  # what fills up a shorter last round is not played
        quota = active[:, None] & (k + np.arange(count) < episodes)
        noise = Greedy() if mode == "greedy" else Noise(policy, [generator(s, "evaluate", k) for s in seeds], count)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                begun = begin(envs, policy, np.tile(at, (len(seeds), 1)))
                _, finished, _ = collect(envs, policy, params, noise, begun, quota.astype(np.int64), None, cancelled)
        except Cancelled:
            break
        rounds.append(finished)
    return joined(rounds, len(seeds))


def joined(parts: list[Finished], members: int) -> Finished:
    """Return the episodes of several collections, member by member."""
    return Finished(
        tuple(np.concatenate([np.zeros(0), *(p.returns[s] for p in parts)]) for s in range(members)),
        tuple(np.concatenate([np.zeros(0, np.int64), *(p.lengths[s] for p in parts)]) for s in range(members)),
    )


def _read(
    tape: _Tape, steps: int, at: Collector, live: NDArray[np.bool_], memory: Array | None
) -> tuple[Trajectory, Finished, Collector]:
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
        action_mask=tensor(tape.arrays["action_mask"][: steps + 1]) if "action_mask" in tape.arrays else None,
        memory=None if at.memory is None else torch.from_numpy(at.memory),
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
        action_mask=None if at.action_mask is None else tape.arrays["action_mask"][steps].reshape(*shape, -1).copy(),
        memory=memory,
    )
    return trajectory, finished, collector
