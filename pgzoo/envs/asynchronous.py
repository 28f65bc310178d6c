"""Environments in a process each, by gymnasium's AsyncVectorEnv."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pgzoo.envs.single import make, recipe
from pgzoo.protocols import EnvRequest, StepResult
from pgzoo.types import Array

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
        one = functools.partial(make, *recipe(request))
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
        if "action_mask" not in info or isinstance(self.action_space, gym.spaces.Box):
            return None
        parts = info["action_mask"]
        parts = parts if isinstance(parts, tuple | list) else (parts,)
        rows = len(parts[0])
        return np.concatenate([np.asarray(part).reshape(rows, -1) for part in parts], 1).astype(np.bool_)

    def close(self) -> None:
        """End the processes."""
        self._envs.close()
