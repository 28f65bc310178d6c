"""The loop that acts in environments: collect windows of steps or whole episodes, for all members at once."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgzoo.errors import RunFailed
from pgzoo.ops import jit
from pgzoo.ops.acting import actor_for, memory_size, noise_steps
from pgzoo.ops.entries import array_space
from pgzoo.ops.members import select
from pgzoo.protocols import Actor, Policy, VectorEnv
from pgzoo.training.activity import Cancelled, Monitor
from pgzoo.training.behavior import NOISE_BLOCK, Behavior
from pgzoo.training.tape import (
    FinishedEpisodes,
    RowIndex,
    Tape,
    episode_structure,
    finished_episodes,
    next_start,
    trajectory_of,
)
from pgzoo.types import INFO, ActorInputs, Array, Collector, Params, RowPolicy, StepResult, Trajectory

__all__ = ["EPISODE_LIMIT", "ActiveRows", "EndlessEpisode", "act", "collect", "compiled_policy", "reset_all"]

EPISODE_LIMIT = 100_000
"""Maximum length of an episode when whole episodes are collected for training; a longer one would fill the memory."""

MOST_STEPS = 8 * NOISE_BLOCK
"""Maximum number of steps in a call of the compiled collector for whole episodes: after it, cancelling takes effect."""


class EndlessEpisode(RunFailed):
    """An episode that is collected as a whole has not ended after `EPISODE_LIMIT` steps."""


def reset_all(envs: VectorEnv, policy: Policy, seeds: NDArray[np.int64]) -> Collector:
    """Reset every environment with its seed, `seeds [S, N]`, and return the start of a collection."""
    obs = _as_stored(envs, envs.reset(seeds.reshape(-1)))
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


def _as_stored(envs: VectorEnv, obs: Array) -> Array:
    """Return observations in the type in which they are stored and given to the policy; see `array_space`."""
    return obs.astype(array_space(envs.observation_space).dtype, copy=False)


def collect(
    envs: VectorEnv,
    behavior: Behavior,
    start: Collector,
    quota: NDArray[np.int64],
    window: int | None,
    monitor: Monitor | None = None,
    expected: int = 0,
) -> tuple[Trajectory, FinishedEpisodes, Collector]:
    """Act from `start` for `window` steps, or, if it is None, until every environment has completed its quota.

    `quota [S, N]` is the number of episodes that an environment plays; after them it is not stepped any more.
    `expected` is about how many steps that will take, which only affects the speed. Returns the trajectory, the
    episodes that ended, and the start of the next window.

    Raises:
        EndlessEpisode: there is no window, and an episode doesn't end within `EPISODE_LIMIT` steps.
        Cancelled: there is no window, and the monitor's `cancelled()` returned True. A window is always completed,
            because environments can't be rewound.
        ValueError: every quota is 0.
    """
    if (elsewhere := getattr(envs, "rollout", None)) is not None:
        return elsewhere(behavior, start, quota, window, monitor or Monitor())  # type: ignore[no-any-return]
    rows = ActiveRows(envs, behavior, start, quota)
    tape = Tape(None if window is None else window + 1)
    limit = EPISODE_LIMIT if window is None else window
    t = act(rows, tape, limit, monitor or Monitor(), whole_episodes=window is None, expected=expected)
    if window is None and rows.playing:
        raise EndlessEpisode(f"An episode has not ended after {t:,} steps. Limit episodes with --max-episode-steps.")
    tape.store_last(t, rows.where, rows.obs, rows.mask)
    live = np.zeros(start.ended.size, np.bool_)
    live[rows.where] = rows.live
    structure = episode_structure(tape, t, start, live)
    memory = rows.memory if rows.shape == start.ended.shape else None
    return (
        trajectory_of(tape, structure, start),
        finished_episodes(structure, start),
        next_start(tape, structure, start, memory),
    )


def act(rows: ActiveRows, tape: Tape, limit: int, monitor: Monitor, *, whole_episodes: bool, expected: int = 0) -> int:
    """Act until every environment has met its quota, for `limit` steps at most; return the number of steps.

    See `collect` for `expected`.

    Raises:
        Cancelled: whole episodes are collected, and the monitor's `cancelled()` is true.
        ValueError: every quota is 0.
    """
    if not rows.playing:
        raise ValueError("nothing to collect: no member is active")
    if (policy := compiled_policy(rows.envs, rows.policy, rows.params)) is not None:
        return act_compiled(rows, policy, tape, limit, monitor, whole_episodes=whole_episodes, expected=expected)
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
        tape.store(t, rows.where, rows.leaves(actions, step))
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


def compiled_policy(envs: VectorEnv, policy: Policy, params: Params) -> RowPolicy | None:
    """Return the policy for the compiled collector.

    None if the environments aren't compiled, or the policy isn't a function of one row or its parameters are not on the
    CPU. This doesn't depend on the number of members, because the two ways of acting differ by rounding.
    """
    own = getattr(policy, "row_policy", None)
    if own is None or not hasattr(envs, "collect") or noise_steps(policy) != 1 or not jit.available():
        return None
    return own(params) if all(value.is_cpu for value in params.values()) else None


def act_compiled(
    rows: ActiveRows,
    policy: RowPolicy,
    tape: Tape,
    limit: int,
    monitor: Monitor,
    *,
    whole_episodes: bool,
    expected: int = 0,
) -> int:
    """Do what `act` does in compiled code: a window in one call, whole episodes in a call of about `expected` steps.

    If that isn't enough, calls of more and more steps follow.
    """
    first = -(-expected // NOISE_BLOCK) * NOISE_BLOCK
    began, t, n = time.perf_counter(), 0, len(rows.obs)
    envs: Any = rows.envs
    left, flags = rows.left.astype(np.int64), np.zeros(n, np.bool_)
    mask = np.zeros((n, 0), np.bool_) if rows.mask is None else rows.mask
    actions = np.zeros((n, *policy.stored.shape), policy.stored.dtype)
    like = {"obs": rows.obs, "actions": actions, "rewards": np.zeros(n), "valid": flags}
    like |= {"terminated": flags, "truncated": flags} | ({} if rows.mask is None else {"action_mask": mask})
    while rows.playing and t < limit:
        if whole_episodes and monitor.cancelled():
            raise Cancelled
        count = min(max(NOISE_BLOCK, min(t or first, MOST_STEPS)), limit - t) if whole_episodes else limit
        stored = tape.block(t, count, like)
        for name, leaf in {"obs": rows.obs, "actions": actions, "action_mask": mask}.items():
            if name not in stored:  # needed only here
                stored[name] = np.zeros((count + 1, *leaf.shape), leaf.dtype)
        stored["obs"][0], stored["action_mask"][0] = rows.obs, mask
        noise = rows.noise.steps(t, count)
        steps, total, episodes = envs.collect(policy, left, noise, count, stored)
        t += steps
        monitor.steps += total
        monitor.episodes += episodes
        rows.obs, mask = stored["obs"][steps], stored["action_mask"][steps]
        rows.live = left > 0
        rows.count = int(np.count_nonzero(rows.live))
        rows.playing = rows.count > 0
    rows.mask, rows.left = None if rows.mask is None else mask, left
    monitor.seconds["compiled"] = monitor.seconds.get("compiled", 0.0) + time.perf_counter() - began
    return t


class ActiveRows:
    """The environments that are still stepped, S * N rows: their observations, masks and memory before the next step.

    When whole episodes are collected, one member may play much longer than the others; then finished members are
    dropped, and `where` holds the rows of the tape that belong to the remaining ones.
    """

    def __init__(self, envs: VectorEnv, behavior: Behavior, start: Collector, quota: NDArray[np.int64]) -> None:
        self.envs, self.params, self.noise = envs, behavior.params, behavior.noise
        self.policy = behavior.policy
        self.shape = start.ended.shape  # S, N
        rows = start.ended.size
        self.obs = _as_stored(envs, start.obs.reshape(rows, *start.obs.shape[2:]))
        self.mask = None if start.action_mask is None else start.action_mask.reshape(rows, -1)
        self.memory = start.memory  # [S, N, M]
        self.starts, self.ended = start.starts.reshape(rows), start.ended.reshape(rows)
        self.left = quota.reshape(rows)  # episodes to play
        self.live = self.left > 0
        self.valid = self.live & ~self.ended  # whether the next step counts: it doesn't where it only resets
        self.where: RowIndex = slice(None)
        self.count = int(np.count_nonzero(self.live))
        self.playing, self.episode_ended = self.count > 0, False

    @cached_property
    def actor(self) -> Actor:
        """The policy's actor; none is made if the compiled collector acts."""
        return actor_for(self.policy, self.params)

    def act(self, t: int) -> Array:
        """Choose actions for step t, `[rows, *A]`, and update the policy's memory."""
        mask = None if self.mask is None else self.mask.reshape(*self.shape, -1)
        obs = self.obs.reshape(*self.shape, *self.obs.shape[1:])
        seen = ActorInputs(obs, mask, self.memory, self.starts.reshape(self.shape))
        actions, self.memory = self.actor(seen, self.noise[t])
        return actions.reshape(len(self.obs), *actions.shape[2:])

    def leaves(self, actions: Array, step: StepResult) -> dict[str, Array]:
        """Return what is stored of a step, under the names of the tape, `[rows, ...]` each."""
        leaves = {"obs": self.obs, "actions": actions, "rewards": step.rewards, "valid": self.valid}
        leaves |= {"terminated": step.terminated, "truncated": step.truncated}
        if step.info:
            leaves |= {INFO + key: values for key, values in step.info.items()}
        return leaves if self.mask is None else leaves | {"action_mask": self.mask}

    def advance(self, step: StepResult) -> None:
        """Update the rows with the result of a step."""
        self.starts = self.ended  # rows that were only reset in this step start an episode with the next
        self.ended = (step.terminated | step.truncated) & self.valid
        self.obs = step.obs.astype(self.obs.dtype, copy=False)
        if self.mask is not None:
            self.mask = self.envs.action_mask
        self.episode_ended = bool(np.count_nonzero(self.ended))
        if self.episode_ended:
            self.left = self.left - self.ended
            self.live = self.left > 0
            self.count = int(np.count_nonzero(self.live))
            self.playing = self.count > 0
        self.valid = self.live & ~self.ended

    def drop_finished_members(self, tape: Tape, t: int) -> None:
        """Continue with only the unfinished members, if they are at most half and the backend supports `select`."""
        members, num_envs = self.shape
        alive = np.flatnonzero(self.live.reshape(self.shape).any(1))
        if members == 1 or 2 * len(alive) > members:
            return
        kept = (alive[:, None] * num_envs + np.arange(num_envs)).ravel()
        envs = self.envs.select(kept)
        if envs is None:
            return
        tape.store_last(t, self.where, self.obs, self.mask)  # the last observations of members that are dropped
        self.envs, self.shape = envs, (len(alive), num_envs)
        self.where = kept if isinstance(self.where, slice) else self.where[kept]
        self.obs, self.mask = self.obs[kept], None if self.mask is None else self.mask[kept]
        self.memory = None if self.memory is None else self.memory[alive]
        self.starts, self.ended, self.valid = self.starts[kept], self.ended[kept], self.valid[kept]
        self.left, self.live = self.left[kept], self.live[kept]
        self.params = select(self.params, alive.tolist())
        vars(self).pop("actor", None)  # made for the parameters of before
        self.noise.select(alive)
