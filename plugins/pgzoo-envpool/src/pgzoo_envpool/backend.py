"""An environment backend on envpool, with a seed per row and true final observations.

It distinguishes termination from truncation. envpool itself is imported when it is first needed, because the import
takes more than a second.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from pgzoo.errors import UsageError
from pgzoo.types import Array, EnvRequest, StepResult

__all__ = ["EnvpoolBackend", "EnvpoolEnvs"]

PREFERRED = frozenset({"BipedalWalker-v3", "BipedalWalkerHardcore-v3", "LunarLander-v3", "LunarLanderContinuous-v3"})
"""Environments on which it is faster than `sync` with eight or more copies, and which `sync` can't resume either."""

MANY = 8
"""Minimum number of environments per member to be preferred: passing a step to a thread costs about 40 µs."""

THREADS = "PGZOO_ENVPOOL_THREADS"
"""The environment variable with the number of threads. Results don't depend on it."""

NO_LIMIT = np.iinfo(np.int32).max
"""A time limit for envpool that is never reached: at its own limit, envpool reports truncation but no termination."""

OF_THE_POOL = frozenset(
    {"base_path", "batch_size", "env_seed", "gym_reset_return_info", "max_episode_steps", "max_num_players", "num_envs"}
    | {"num_threads", "reward_threshold", "seed", "thread_affinity_offset"}
)
"""Configuration keys of envpool that aren't keyword arguments of an environment."""


class EnvpoolBackend:
    """Classic control, toy text, Box2D, MuJoCo and more from envpool, if their spaces equal gymnasium's.

    It also runs ids that gymnasium no longer supports, if this backend is selected by name.
    """

    width = 8
    foreign = True

    def fits(self, request: EnvRequest) -> str:
        """Return the reason why envpool can't run the environment; an empty string if it can."""
        return _spaces(request)[0]

    def preferred(self, request: EnvRequest) -> bool:
        """Return True for Box2D except CarRacing with at least eight environments per member."""
        return request.id in PREFERRED and request.rows >= MANY

    def open(self, request: EnvRequest) -> EnvpoolEnvs:
        """Return `request.rows` environments; every reset recreates them."""
        return EnvpoolEnvs(request)


class EnvpoolEnvs:
    """A pool that is recreated by each reset, because envpool sets seeds only at creation.

    That costs 20 to 50 microseconds per environment, or 2 milliseconds with MuJoCo: as much as about 50 steps. This
    class implements the time limit, so that termination in the last step is reported.
    """

    def __init__(self, request: EnvRequest) -> None:
        self._request = request
        _, observation_space, action_space = _spaces(request)
        self.observation_space: gym.Space[Any] = observation_space
        self.action_space: gym.Space[Any] = action_space
        self.action_mask: NDArray[np.bool_] | None = None
        self._limit = request.max_episode_steps or _config(request.id)["max_episode_steps"]
        self._threads = _threads()
        self._pool: Any = None
        self._ids = np.arange(request.rows, dtype=np.int32)
        self._cut = np.zeros(request.rows, np.bool_)
        self._obs = np.zeros((request.rows, *(observation_space.shape or ())), observation_space.dtype)

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Start a new episode in every row, with the row's seed."""
        self._pool = None  # stop its threads before new ones start
        envpool = _envpool()
        with _quiet():
            self._pool = envpool.make(
                self._request.id,
                "gymnasium",
                num_envs=len(self._ids),
                seed=seeds.astype(np.uint32).view(np.int32).tolist(),
                num_threads=self._threads,
                max_episode_steps=NO_LIMIT,
                **self._request.kwargs,
            )
            obs, _ = self._pool.reset()
        self._cut = np.zeros(len(self._ids), np.bool_)
        self._obs = self._reshaped(obs)
        return self._obs

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every live row. envpool resets a row after a termination, this class after a truncation."""
        cut = self._cut & live
        if not cut.any() and live.all():
            obs, rewards, terminated, _, info = self._pool.step(actions, self._ids)
            self._obs, self._cut = self._reshaped(obs), info["elapsed_step"] >= self._limit
            return StepResult(self._obs, rewards.astype(np.float64), terminated, self._cut)
        rows = len(live)
        rewards = np.zeros(rows)
        terminated, truncated = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
        self._obs = self._obs.copy()
        if (acting := np.flatnonzero(live & ~cut)).size:
            obs, rewards[acting], terminated[acting], _, info = self._pool.step(actions[acting], self._ids[acting])
            self._obs[acting] = self._reshaped(obs)
            truncated[acting] = info["elapsed_step"] >= self._limit
        if (over := np.flatnonzero(cut)).size:
            obs, _ = self._pool.reset(self._ids[over])
            self._obs[over] = self._reshaped(obs)
        self._cut = np.where(live, truncated, self._cut)
        return StepResult(self._obs, rewards, terminated, truncated)

    def select(self, rows: NDArray[np.int64]) -> EnvpoolEnvs:
        """Return only these rows of the pool."""
        part = copy.copy(self)
        part._ids, part._cut, part._obs = self._ids[rows], self._cut[rows], self._obs[rows]
        return part

    def close(self) -> None:
        """Stop the threads."""
        self._pool = None

    def _reshaped(self, obs: Array) -> Array:
        """Return observations in the shape `[rows, *O]` and dtype of the space."""
        space = self.observation_space
        return np.asarray(obs).reshape(-1, *(space.shape or ())).astype(space.dtype, copy=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress gymnasium's warnings about envpool's spaces and old versions, for which pgzoo has better messages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _envpool() -> Any:
    with _quiet():
        import envpool
    return envpool


def _threads() -> int:
    """Return the number of threads. Raises UsageError if the variable isn't a positive integer."""
    value = os.environ.get(THREADS, "1")
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"{THREADS}={value}: give a number of threads, at least 1.")
    return int(value)


def _config(env_id: str, **kwargs: Any) -> dict[str, Any]:
    config: dict[str, Any] = _envpool().make_spec(env_id, **kwargs).config._asdict()
    return config


def _spaces(request: EnvRequest) -> tuple[str, Any, Any]:
    """Return the reason why envpool can't run this (or ""), and its observation and action spaces."""
    envpool, env_id, keywords = _envpool(), request.id, dict(request.kwargs)
    if env_id not in envpool.list_all_envs():
        return f"envpool {version('envpool')} has no such environment", None, None
    known = sorted(set(_config(env_id)) - OF_THE_POOL)
    if unknown := sorted(set(keywords) - set(known)):
        takes = f"; it takes {', '.join(known)}" if known else ""
        return f"it takes no environment keyword {', '.join(unknown)}{takes}", None, None
    with _quiet():
        try:
            spec = envpool.make_spec(env_id, **keywords)
        except (TypeError, ValueError, AssertionError) as error:
            return f"envpool doesn't take these keywords: {error}", None, None
        shown, taken = spec.observation_space, spec.action_space
    for what, space in (("show", shown), ("take", taken)):
        if not isinstance(space, Box | Discrete):
            return f"envpool's environments {what} a {type(space).__name__}", None, None
    theirs = _gymnasiums(env_id, keywords)
    if theirs is None:
        return "", _unbounded(shown), _single(taken)
    for what, own, other in (("show", shown, theirs[0]), ("take", taken, theirs[1])):
        if not _alike(own, other):
            return f"envpool's environments {what} {own}, gymnasium's {other}", None, None
    return "", *theirs


def _gymnasiums(env_id: str, kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Return the spaces of gymnasium's environment with that id; None if it can't be created."""
    with _quiet():
        try:
            env: Any = gym.make(env_id, disable_env_checker=True, **kwargs)
        except Exception:  # an environment may raise anything
            return None
    env.close()
    return env.observation_space, env.action_space


def _alike(own: gym.Space[Any], other: gym.Space[Any]) -> bool:
    """Return whether two spaces are equal, ignoring bounds of observations and float width."""
    if isinstance(own, Discrete) or isinstance(other, Discrete):
        return own == other
    if not isinstance(other, Box) or own.dtype is None or other.dtype is None:
        return False
    return own.shape == other.shape and own.dtype.kind == other.dtype.kind


def _unbounded(space: Any) -> Any:
    """Return the space with infinite bounds in place of trivial ones, such as the largest float."""
    if not isinstance(space, Box) or space.dtype.kind != "f":
        return space
    least, greatest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    low = np.where((space.low == least) | (space.low <= -greatest), -math.inf, space.low)
    return Box(low, np.where(space.high >= greatest, math.inf, space.high), space.shape, space.dtype.type)


def _single(space: Any) -> Any:
    """Return a float action space in float32, as in gymnasium's environments."""
    if not isinstance(space, Box) or space.dtype.kind != "f":
        return space
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), space.shape, np.float32)
