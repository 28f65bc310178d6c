"""Environments in a process each, by gymnasium's AsyncVectorEnv."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pgzoo.envs.single import allowed, make, recipe
from pgzoo.types import Array, EnvRequest, StepResult

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

__all__ = ["AsyncBackend"]


class AsyncBackend:
    """Pays where one step takes a millisecond or more and there are cores to spare; not for small environments."""

    width = 8

    def fits(self, request: EnvRequest) -> str:
        """Always."""
        return ""

    def open(self, request: EnvRequest) -> AsyncEnvs:
        """Start `request.rows` processes."""
        return AsyncEnvs(request)


class AsyncEnvs:
    """Every row is stepped; its generator is its own."""

    def __init__(self, request: EnvRequest) -> None:
        one = functools.partial(_make, *recipe(request))
        self._envs = gym.vector.AsyncVectorEnv([one] * request.rows, context="spawn")
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space
        self.action_mask: NDArray[np.bool_] | None = None

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Begin a new episode in every row from its seed."""
        obs, info = self._envs.reset(seed=[int(seed) for seed in seeds])
        self.action_mask = self._allowed(info)
        return np.asarray(obs)

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every row."""
        obs, rewards, terminated, truncated, info = self._envs.step(actions)
        self.action_mask = self._allowed(info)
        return StepResult(np.asarray(obs), np.asarray(rewards), terminated, truncated)

    def select(self, rows: NDArray[np.int64]) -> None:
        """The processes go on in step."""

    def _allowed(self, info: dict[str, Any]) -> NDArray[np.bool_] | None:
        """The masks that the processes send along, `[rows, K]`."""
        mask = info.get("action_mask")
        return None if mask is None else np.asarray(mask, np.bool_)

    def close(self) -> None:
        """End the processes."""
        self._envs.close()


class _Telling(gym.Wrapper[Any, Any, Any, Any]):
    """Sends along which actions are allowed, `[K]`, however the environment says so."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        return obs, self._told(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, self._told(info)

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        """The mask alone: nobody reads what else there is, and it would go through a pipe."""
        mask = allowed(self.env, info)
        return {} if mask is None else {"action_mask": mask}


def _make(spec: EnvSpec, settings: Mapping[str, Any]) -> gym.Env[Any, Any]:
    return _Telling(make(spec, settings))
