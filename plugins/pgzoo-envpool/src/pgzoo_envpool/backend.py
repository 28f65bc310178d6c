"""envpool's environments, as pgzoo asks for them: every row its own seed, true final observations, both kinds of end.

envpool itself is imported when the first environment is asked for: it takes more than a second.
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
"""Where it is faster than `sync` for eight environments and more, and `sync` can't save a state either."""

MANY = 8
"""Environments of a member from which on it is preferred: handing a step to a thread costs some 40 microseconds."""

THREADS = "PGZOO_ENVPOOL_THREADS"
"""The environment variable that says how many threads step the environments. What they do doesn't depend on it."""

NO_LIMIT = np.iinfo(np.int32).max
"""envpool's own time limit, out of the way: it says that an episode was truncated where it terminated as well."""

OF_THE_POOL = frozenset(
    {"base_path", "batch_size", "env_seed", "gym_reset_return_info", "max_episode_steps", "max_num_players", "num_envs"}
    | {"num_threads", "reward_threshold", "seed", "thread_affinity_offset"}
)
"""What envpool is configured with beside the keywords of an environment."""


class EnvpoolBackend:
    """Classic control, toy text, Box2D, MuJoCo and more of envpool's, where they show what gymnasium's show.

    It also runs ids that gymnasium has given up, if it is asked for by name.
    """

    width = 8
    foreign = True

    def fits(self, request: EnvRequest) -> str:
        """What envpool knows, with the spaces that gymnasium's environment has, if there is one."""
        return _spaces(request)[0]

    def preferred(self, request: EnvRequest) -> bool:
        """Box2D but for CarRacing, eight environments or more of a member: faster, and nothing is given up there."""
        return request.id in PREFERRED and request.rows >= MANY

    def open(self, request: EnvRequest) -> EnvpoolEnvs:
        """Make `request.rows` environments; envpool makes them anew at every reset."""
        return EnvpoolEnvs(request)


class EnvpoolEnvs:
    """A pool that is made anew by each reset, for envpool fixes the seeds of its environments when it makes them.

    That costs 20 to 50 microseconds for each environment, with MuJoCo 2 milliseconds: as much as some 50 steps. The
    time limit is kept here, so that an episode that terminates in its last step is not said to be truncated alone.
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
        """Begin a new episode in every row from its seed."""
        self._pool = None  # its threads end before others begin
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
        self._obs = self._shown(obs)
        return self._obs

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every live row. Where an episode terminated envpool resets, where it was cut off we do."""
        cut = self._cut & live
        if not cut.any() and live.all():
            obs, rewards, terminated, _, info = self._pool.step(actions, self._ids)
            self._obs, self._cut = self._shown(obs), info["elapsed_step"] >= self._limit
            return StepResult(self._obs, rewards.astype(np.float64), terminated, self._cut)
        rows = len(live)
        rewards = np.zeros(rows)
        terminated, truncated = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
        self._obs = self._obs.copy()
        if (acting := np.flatnonzero(live & ~cut)).size:
            obs, rewards[acting], terminated[acting], _, info = self._pool.step(actions[acting], self._ids[acting])
            self._obs[acting] = self._shown(obs)
            truncated[acting] = info["elapsed_step"] >= self._limit
        if (over := np.flatnonzero(cut)).size:
            obs, _ = self._pool.reset(self._ids[over])
            self._obs[over] = self._shown(obs)
        self._cut = np.where(live, truncated, self._cut)
        return StepResult(self._obs, rewards, terminated, truncated)

    def select(self, rows: NDArray[np.int64]) -> EnvpoolEnvs:
        """These rows of the pool alone."""
        part = copy.copy(self)
        part._ids, part._cut, part._obs = self._ids[rows], self._cut[rows], self._obs[rows]
        return part

    def close(self) -> None:
        """End the threads."""
        self._pool = None

    def _shown(self, obs: Array) -> Array:
        """Observations as the space has them: `[rows, *O]`."""
        space = self.observation_space
        return np.asarray(obs).reshape(-1, *(space.shape or ())).astype(space.dtype, copy=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back warnings: gymnasium's of envpool's spaces, and of old versions, which pgzoo says better."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _envpool() -> Any:
    with _quiet():
        import envpool
    return envpool


def _threads() -> int:
    """How many threads step the environments. Raises UsageError where the variable says no such number."""
    said = os.environ.get(THREADS, "1")
    if not said.isdecimal() or int(said) < 1:
        raise UsageError(f"{THREADS}={said}: give a number of threads, at least 1.")
    return int(said)


def _config(env_id: str, **kwargs: Any) -> dict[str, Any]:
    config: dict[str, Any] = _envpool().make_spec(env_id, **kwargs).config._asdict()
    return config


def _spaces(request: EnvRequest) -> tuple[str, Any, Any]:
    """Why envpool can't take gymnasium's place, or nothing, and what its environment shows and takes."""
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
    """The spaces of gymnasium's environment of that id; None where it can't be made."""
    with _quiet():
        try:
            env: Any = gym.make(env_id, disable_env_checker=True, **kwargs)
        except Exception:  # an environment may raise anything
            return None
    env.close()
    return env.observation_space, env.action_space


def _alike(own: gym.Space[Any], other: gym.Space[Any]) -> bool:
    """Whether one can stand for the other: bounds of observations and the width of numbers don't matter."""
    if isinstance(own, Discrete) or isinstance(other, Discrete):
        return own == other
    if not isinstance(other, Box) or own.dtype is None or other.dtype is None:
        return False
    return own.shape == other.shape and own.dtype.kind == other.dtype.kind


def _unbounded(space: Any) -> Any:
    """The space without bounds that say nothing, such as the greatest and the least number there is."""
    if not isinstance(space, Box) or space.dtype.kind != "f":
        return space
    least, greatest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    low = np.where((space.low == least) | (space.low <= -greatest), -math.inf, space.low)
    return Box(low, np.where(space.high >= greatest, math.inf, space.high), space.shape, space.dtype.type)


def _single(space: Any) -> Any:
    """Actions in float32, as gymnasium's environments take them."""
    if not isinstance(space, Box) or space.dtype.kind != "f":
        return space
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), space.shape, np.float32)
