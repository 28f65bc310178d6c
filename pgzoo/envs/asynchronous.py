"""Environments in a process each, by gymnasium's AsyncVectorEnv."""

from __future__ import annotations

import functools

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

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Begin a new episode in every row from its seed."""
        obs, _ = self._envs.reset(seed=[int(seed) for seed in seeds])
        return np.asarray(obs)

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every row."""
        obs, rewards, terminated, truncated, _ = self._envs.step(actions)
        return StepResult(np.asarray(obs), np.asarray(rewards), terminated, truncated)

    def select(self, rows: NDArray[np.int64]) -> None:
        """The processes go on in step."""

    def close(self) -> None:
        """End the processes."""
        self._envs.close()
