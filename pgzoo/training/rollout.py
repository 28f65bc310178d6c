"""The loop that acts in environments: collect windows of steps or whole episodes, for all members at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from pgzoo.types import ActorInputs, Array, Collector, Params, StepResult, Trajectory

__all__ = [
    "Activity",
    "Behavior",
    "Cancelled",
    "EndlessEpisode",
    "Evaluation",
    "FinishedEpisodes",
    "Greedy",
    "Monitor",
    "Noise",
    "collect",
    "concatenate_episodes",
    "evaluate",
    "reset_all",
]

NOISE_BLOCK = 64
"""Steps for which noise is drawn at once: drawing it for each step would cost more than acting."""

EPISODE_LIMIT = 100_000
"""Maximum length of an episode when whole episodes are collected for training; a longer one would fill the memory."""

EPISODE_CAPACITY = 512
"""Initial capacity, in steps, for a collection of whole episodes."""


class Cancelled(Exception):
    """A collection of whole episodes, or compiling, was aborted. Only the work of the current update is lost."""


class EndlessEpisode(RunFailed):
    """An episode that is collected as a whole has not ended after `EPISODE_LIMIT` steps."""


class FinishedEpisodes(NamedTuple):
    """Returns and lengths of finished episodes: one array per member, in the order in which they ended."""

    returns: tuple[NDArray[np.float64], ...]
    lengths: tuple[NDArray[np.int64], ...]


class Evaluation(NamedTuple):
    """Returns and lengths of evaluation episodes, one array per member, and how many of them were cut, `[S]`.

    An episode is cut when it reaches the limit of steps; it counts with its return and length up to there.
    """

    returns: tuple[NDArray[np.float64], ...]
    lengths: tuple[NDArray[np.int64], ...]
    cut: NDArray[np.int64]


class Noise:
    """The noise that actions are sampled with, `[S, N, K]` per step, each member's from its own generator.

    Each generator is used for one collection only, so a member's noise doesn't depend on how long the others play.
    """

    def __init__(
        self, policy: Policy, generators: list[np.random.Generator], num_envs: int, steps: int | None = None
    ) -> None:
        """`steps` is the number of steps that will be taken, if it is known."""
        self._generators = generators
        self._shape = (min(NOISE_BLOCK, steps or NOISE_BLOCK), num_envs, policy.noise_size)
        self._kind = policy.noise
        self._block: Array = np.empty(0)

    def __getitem__(self, t: int) -> Array:
        """Return the noise of step t; steps must be asked for in order."""
        k = t % self._shape[0]
        if k == 0:
            draws = [draw_noise(self._kind, generator, self._shape) for generator in self._generators]
            self._block = np.stack(draws, axis=1)  # [block, S, N, K]
        return self._block[k]  # type: ignore[no-any-return]

    def select(self, members: NDArray[np.int64]) -> None:
        """Draw noise only for these members from the next step on."""
        self._generators = [self._generators[member] for member in members]
        self._block = self._block[:, members]


class Greedy:
    """In place of `Noise`: actions are the mode of the policy's distribution."""

    def __getitem__(self, t: int) -> None:
        """Return None for every step."""

    def select(self, members: NDArray[np.int64]) -> None:
        """Do nothing."""


class Behavior(NamedTuple):
    """How to act: a policy, its parameters (and buffers) under its own names, and the noise to sample with."""

    policy: Policy
    params: Params
    noise: Noise | Greedy


@dataclass
class Monitor:
    """Watches collections from outside.

    `cancelled()` is asked before every step; True ends a collection of whole episodes. `seconds` sums up the time spent
    on choosing actions ("acting") and on stepping environments ("environment").

    `steps` and `episodes` count while a collection runs, over all members, so that another thread can show them. The
    steps include those that only reset an environment.
    """

    cancelled: Callable[[], bool] = lambda: False
    seconds: dict[str, float] = field(default_factory=lambda: {"environment": 0.0, "acting": 0.0})
    steps: int = 0
    episodes: int = 0


@dataclass
class Activity:
    """What a run is doing right now. The training thread writes it; a display may read it from another thread.

    `phase` is the current phase of the stopwatch, such as "collect", "compile" or "evaluate"; empty before training.
    `collecting` watches the collections for training, `evaluating` the current evaluation of `episodes_due` episodes.
    `reported` are the steps and episodes of `collecting` that events contain already.
    """

    phase: str = ""
    collecting: Monitor = field(default_factory=Monitor)
    evaluating: Monitor = field(default_factory=Monitor)
    episodes_due: int = 0
    reported: tuple[int, int] = (0, 0)

    def report(self) -> None:
        """Mark what was collected as contained in an event."""
        self.reported = self.collecting.steps, self.collecting.episodes


def reset_all(envs: VectorEnv, policy: Policy, seeds: NDArray[np.int64]) -> Collector:
    """Reset every environment with its seed, `seeds [S, N]`, and return the start of a collection."""
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
    behavior: Behavior,
    start: Collector,
    quota: NDArray[np.int64],
    window: int | None,
    monitor: Monitor | None = None,
) -> tuple[Trajectory, FinishedEpisodes, Collector]:
    """Act from `start` for `window` steps, or, if it is None, until every environment has completed its quota.

    `quota [S, N]` is the number of episodes that an environment plays; after them it is not stepped any more. Returns
    the trajectory, the episodes that ended, and the start of the next window.

    Raises:
        EndlessEpisode: there is no window, and an episode doesn't end within `EPISODE_LIMIT` steps.
        Cancelled: there is no window, and the monitor's `cancelled()` returned True. A window is always completed,
            because environments can't be rewound.
        ValueError: every quota is 0.
    """
    rows = _Rows(envs, behavior, start, quota)
    tape = _Tape(EPISODE_CAPACITY if window is None else window + 1)
    limit = EPISODE_LIMIT if window is None else window
    t = _act(rows, tape, limit, monitor or Monitor(), whole_episodes=window is None)
    if window is None and rows.playing:
        raise EndlessEpisode(f"An episode has not ended after {t:,} steps. Limit episodes with --max-episode-steps.")
    tape.store_last(t, rows)
    return _read(tape, t, start, rows)


def _act(rows: _Rows, tape: _Tape, limit: int, monitor: Monitor, *, whole_episodes: bool) -> int:
    """Act until every environment has met its quota, for `limit` steps at most; return the number of steps.

    Raises:
        Cancelled: whole episodes are collected, and the monitor's `cancelled()` is true.
        ValueError: every quota is 0.
    """
    if not rows.playing:
        raise ValueError("nothing to collect: no member is active")
    t, clock, acting, stepping = 0, time.perf_counter, 0.0, 0.0
    while rows.playing and t < limit:
        if whole_episodes and monitor.cancelled():
            raise Cancelled
        began = clock()
        actions = rows.act(t)
        env_actions = rows.policy.to_env(actions)
        chosen = clock()
        step = rows.envs.step(env_actions, rows.live)
        acting, stepping = acting + chosen - began, stepping + clock() - chosen
        tape.store(t, rows, actions, step)
        monitor.steps += rows.count
        rows.advance(step)
        t += 1
        if rows.episode_ended:
            monitor.episodes += int(np.count_nonzero(rows.ended))
            if whole_episodes and rows.playing:
                rows.drop_finished_members(tape, t)
    monitor.seconds["acting"] += acting
    monitor.seconds["environment"] += stepping
    return t


class _Rows:
    """The environments that are still stepped, S * N rows: their observations, masks and memory before the next step.

    When whole episodes are collected, one member may play much longer than the others; then finished members are
    dropped, and `where` holds the rows of the tape that belong to the remaining ones.
    """

    def __init__(self, envs: VectorEnv, behavior: Behavior, start: Collector, quota: NDArray[np.int64]) -> None:
        self.envs, self.params, self.noise = envs, behavior.params, behavior.noise
        self.policy, self.actor = behavior.policy, actor_for(behavior.policy, behavior.params)
        self.shape = start.ended.shape  # S, N
        rows = start.ended.size
        self.obs = start.obs.reshape(rows, *start.obs.shape[2:])
        self.mask = None if start.action_mask is None else start.action_mask.reshape(rows, -1)
        self.memory = start.memory  # [S, N, M]
        self.starts, self.ended = start.starts.reshape(rows), start.ended.reshape(rows)
        self.left = quota.reshape(rows)  # episodes to play
        self.live = self.left > 0
        self.valid = self.live & ~self.ended  # whether the next step counts: it doesn't where it only resets
        self.where: slice | NDArray[np.intp] = slice(None)
        self.count = int(np.count_nonzero(self.live))
        self.playing, self.episode_ended = self.count > 0, False

    def act(self, t: int) -> Array:
        """Choose actions for step t, `[rows, *A]`, and update the policy's memory."""
        mask = None if self.mask is None else self.mask.reshape(*self.shape, -1)
        obs = self.obs.reshape(*self.shape, *self.obs.shape[1:])
        seen = ActorInputs(obs, mask, self.memory, self.starts.reshape(self.shape))
        actions, self.memory = self.actor(seen, self.noise[t])
        return actions.reshape(len(self.obs), *actions.shape[2:])

    def advance(self, step: StepResult) -> None:
        """Update the rows with the result of a step."""
        self.starts = self.ended  # rows that were only reset in this step start an episode with the next
        self.ended = (step.terminated | step.truncated) & self.valid
        self.obs = step.obs
        if self.mask is not None:
            self.mask = self.envs.action_mask
        self.episode_ended = bool(np.count_nonzero(self.ended))
        if self.episode_ended:
            self.left = self.left - self.ended
            self.live = self.left > 0
            self.count = int(np.count_nonzero(self.live))
            self.playing = self.count > 0
        self.valid = self.live & ~self.ended

    def drop_finished_members(self, tape: _Tape, t: int) -> None:
        """Continue with only the unfinished members, if they are at most half and the backend supports `select`."""
        members, num_envs = self.shape
        alive = np.flatnonzero(self.live.reshape(self.shape).any(1))
        if members == 1 or 2 * len(alive) > members:
            return
        kept = (alive[:, None] * num_envs + np.arange(num_envs)).ravel()
        envs = self.envs.select(kept)
        if envs is None:
            return
        tape.store_last(t, self)  # the last observations of members that are dropped
        self.envs, self.shape = envs, (len(alive), num_envs)
        self.where = kept if isinstance(self.where, slice) else self.where[kept]
        self.obs, self.mask = self.obs[kept], None if self.mask is None else self.mask[kept]
        self.memory = None if self.memory is None else self.memory[alive]
        self.starts, self.ended, self.valid = self.starts[kept], self.ended[kept], self.valid[kept]
        self.left, self.live = self.left[kept], self.live[kept]
        self.params = select(self.params, alive.tolist())
        self.actor = actor_for(self.policy, self.params)
        self.noise.select(alive)


class _Tape:
    """Storage for the steps of a collection, `[T, rows, ...]`, which grows for long episodes."""

    def __init__(self, capacity: int, *, rewards_only: bool = False) -> None:
        """`capacity` counts steps, with one more for the last observation.

        With `rewards_only`, observations and actions are not stored: returns and lengths don't need them.
        """
        self.capacity, self._rewards_only = capacity, rewards_only
        self.arrays: dict[str, Array] = {}

    def store(self, t: int, rows: _Rows, actions: Array, step: StepResult) -> None:
        """Store step t: the observation, the action and the result."""
        leaves = {"rewards": step.rewards, "terminated": step.terminated, "truncated": step.truncated}
        leaves["valid"] = rows.valid
        if not self._rewards_only:
            leaves |= {"obs": rows.obs, "actions": actions}
            if rows.mask is not None:
                leaves["action_mask"] = rows.mask
        if not self.arrays:
            self.arrays = {name: np.zeros((self.capacity, *x.shape), x.dtype) for name, x in leaves.items()}
        elif t + 1 == self.capacity:
            self.arrays = {name: np.concatenate([x, np.zeros_like(x)]) for name, x in self.arrays.items()}
            self.capacity *= 2
        for name, leaf in leaves.items():
            self.arrays[name][t, rows.where] = leaf

    def store_last(self, t: int, rows: _Rows) -> None:
        """Store the observations after the last step."""
        if self._rewards_only:
            return
        self.arrays["obs"][t, rows.where] = rows.obs
        if rows.mask is not None:
            self.arrays["action_mask"][t, rows.where] = rows.mask


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
    max_steps: int,
    monitor: Monitor | None = None,
) -> Evaluation:
    """Play `episodes` episodes per active member in `count` environments each, in rounds of one episode.

    Episode k starts in the same state for every member and algorithm; actions come from a random stream of the member's
    seed. All environments play the same number of episodes (in the last round, some play none), so that short episodes
    are not over-represented. An episode that has not ended after `max_steps` steps is cut there. If the monitor cancels
    the evaluation, the episodes of all completed rounds are returned.
    """
    monitor = monitor or Monitor()
    starts = reset_seeds(EVALUATION_ROOT, "evaluate", episodes)
    rounds: list[FinishedEpisodes] = []
    cut = np.zeros(len(seeds), np.int64)
    for k in range(0, episodes, count):
        at = np.resize(starts[k : k + count], count)  # in a shorter last round, surplus environments don't play
        quota = active[:, None] & (k + np.arange(count) < episodes)
        noise = Greedy() if mode == "greedy" else Noise(policy, [generator(s, "evaluate", k) for s in seeds], count)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                start = reset_all(envs, policy, np.tile(at, (len(seeds), 1)))
                rows = _Rows(envs, Behavior(policy, params, noise), start, quota.astype(np.int64))
                tape = _Tape(EPISODE_CAPACITY, rewards_only=True)
                steps = _act(rows, tape, max_steps, monitor, whole_episodes=True)
        except Cancelled:
            break
        unfinished = np.zeros(quota.size, np.bool_)
        unfinished[rows.where] = rows.live
        if rows.playing:
            tape.arrays["truncated"][steps - 1] |= unfinished
            monitor.episodes += rows.count
            cut += unfinished.reshape(quota.shape).sum(1)
        rounds.append(_finished(_episode_structure(tape, steps, start, unfinished), start))
    return Evaluation(*concatenate_episodes(rounds, len(seeds)), cut)


def concatenate_episodes(parts: list[FinishedEpisodes], members: int) -> FinishedEpisodes:
    """Concatenate the episodes of several collections, per member."""
    return FinishedEpisodes(
        tuple(np.concatenate([np.zeros(0), *(p.returns[s] for p in parts)]) for s in range(members)),
        tuple(np.concatenate([np.zeros(0, np.int64), *(p.lengths[s] for p in parts)]) for s in range(members)),
    )


class _EpisodeStructure(NamedTuple):
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


def _read(tape: _Tape, steps: int, start: Collector, rows: _Rows) -> tuple[Trajectory, FinishedEpisodes, Collector]:
    """Convert the first `steps` steps of a tape: to the trajectory, the finished episodes, and the next start."""
    live = np.zeros(start.ended.size, np.bool_)
    live[rows.where] = rows.live
    line = _episode_structure(tape, steps, start, live)
    memory = rows.memory if rows.shape == start.ended.shape else None
    return _trajectory(tape, line, start), _finished(line, start), _next_start(tape, line, start, memory)


def _episode_structure(tape: _Tape, steps: int, start: Collector, live: NDArray[np.bool_]) -> _EpisodeStructure:
    rows = start.ended.size
    valid = tape.arrays["valid"][:steps]
    terminated, truncated = (tape.arrays[name][:steps] & valid for name in ("terminated", "truncated"))
    rewards = np.where(valid, tape.arrays["rewards"][:steps], 0.0)
    starts = np.empty((steps + 1, rows), np.bool_)
    starts[0] = start.starts.reshape(rows)
    starts[1:-1] = valid[1:] & ~valid[:-1]  # between two episodes lies one step that only resets
    starts[-1] = live & ~(terminated[-1] | truncated[-1]) & ~valid[-1]
    index = np.arange(steps)[:, None]
    first = np.maximum.accumulate(np.where(starts[:-1], index, -start.timestep.reshape(rows)), axis=0)
    return _EpisodeStructure(
        valid=valid,
        terminated=terminated,
        truncated=truncated,
        rewards=rewards,
        starts=starts,
        timestep=np.where(valid, index - first, 0),
        first=first,
        reward_sum=np.concatenate([np.zeros((1, rows)), np.cumsum(rewards, 0)]),
    )


def _finished(line: _EpisodeStructure, start: Collector) -> FinishedEpisodes:
    """Return the episodes that ended; their returns include rewards from before the tape."""
    members, num_envs = start.ended.shape
    end, row = np.nonzero(line.terminated | line.truncated)
    first = line.first[end, row]
    before = np.where(first < 0, start.returns.reshape(-1)[row], 0.0)
    returns = before + line.reward_sum[end + 1, row] - line.reward_sum[np.maximum(first, 0), row]
    lengths, member = line.timestep[end, row] + 1, row // num_envs
    return FinishedEpisodes(
        tuple(returns[member == s] for s in range(members)), tuple(lengths[member == s] for s in range(members))
    )


def _trajectory(tape: _Tape, line: _EpisodeStructure, start: Collector) -> Trajectory:
    steps = len(line.valid)

    def tensor(array: Array) -> torch.Tensor:  # [T, rows, ...] -> [S, T, N, ...], without a copy
        return torch.from_numpy(array.reshape(len(array), *start.ended.shape, *array.shape[2:])).transpose(0, 1)

    return Trajectory(
        obs=tensor(tape.arrays["obs"][: steps + 1]),
        actions=tensor(tape.arrays["actions"][:steps]),
        rewards=tensor(line.rewards.astype(np.float32)),
        terminated=tensor(line.terminated),
        truncated=tensor(line.truncated),
        valid=tensor(line.valid),
        starts=tensor(line.starts),
        timestep=tensor(line.timestep),
        action_mask=tensor(tape.arrays["action_mask"][: steps + 1]) if "action_mask" in tape.arrays else None,
        memory=None if start.memory is None else torch.from_numpy(start.memory),
    )


def _next_start(tape: _Tape, line: _EpisodeStructure, start: Collector, memory: Array | None) -> Collector:
    """Return the start of the next window."""
    shape, rows, steps = start.ended.shape, start.ended.size, len(line.valid)
    first = line.first[-1]
    ended = line.terminated[-1] | line.truncated[-1]
    over = ended | ~line.valid[-1]
    before = np.where(first < 0, start.returns.reshape(rows), 0)
    returns = line.reward_sum[-1] - line.reward_sum[np.maximum(first, 0), np.arange(rows)] + before
    return Collector(
        obs=tape.arrays["obs"][steps].reshape(start.obs.shape).copy(),
        ended=ended.reshape(shape),
        starts=line.starts[-1].reshape(shape),
        timestep=np.where(over, 0, line.timestep[-1] + 1).reshape(shape),
        returns=np.where(over, 0.0, returns).reshape(shape),
        action_mask=None if start.action_mask is None else tape.arrays["action_mask"][steps].reshape(*shape, -1).copy(),
        memory=memory,
    )
