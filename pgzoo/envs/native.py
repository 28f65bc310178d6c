"""Environments whose dynamics are array operations: all rows in one step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from numpy.typing import NDArray

from pgzoo.protocols import EnvRequest, StepResult
from pgzoo.types import Array

__all__ = ["NativeBackend"]

IDS = ("CartPole-v0", "CartPole-v1")
KEYWORDS = ("sutton_barto_reward",)


class NativeBackend:
    """gymnasium's own vector CartPole."""

    width = 128

    def fits(self, request: EnvRequest) -> str:
        """CartPole-v0 and -v1, with the keyword that the vector environment knows."""
        if request.id not in IDS:
            return f"it runs {' and '.join(IDS)} only"
        unknown = sorted(set(request.kwargs) - set(KEYWORDS))
        return f"it takes no environment keyword {', '.join(unknown)}" if unknown else ""

    def open(self, request: EnvRequest) -> NativeCartPole:
        """Make `request.rows` CartPoles."""
        limit = request.max_episode_steps or gym.spec(request.id).max_episode_steps
        return NativeCartPole(request.rows, limit or 500, request.kwargs)


class NativeCartPole:
    """CartPole with every row's episodes drawn from the row's own seed.

    gymnasium draws all resets from one generator, so that an episode would depend on how many others there are and when
    they end; here each start state is written over with one from the row's stream.
    """

    def __init__(self, rows: int, max_episode_steps: int, kwargs: Any) -> None:
        self._env = CartPoleVectorEnv(num_envs=rows, max_episode_steps=max_episode_steps, **kwargs)
        self.observation_space = self._env.single_observation_space
        self.action_space = self._env.single_action_space
        self._env.reset(seed=0)

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Begin a new episode in every row from its seed."""
        self._env.reset()
        self._streams = seeds.astype(np.uint64)
        self._env.state = _start_states(self._streams)
        return self._env.state.T.astype(np.float32)

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every row."""
        fresh = np.flatnonzero(self._env.prev_done & live)
        obs, rewards, terminated, truncated, _ = self._env.step(actions)
        if fresh.size:
            self._streams[fresh] = _mix(self._streams[fresh])
            self._env.state[:, fresh] = _start_states(self._streams[fresh])
            obs[fresh] = self._env.state[:, fresh].T
        return StepResult(obs, rewards, terminated, truncated)

    def close(self) -> None:
        """Free the environment."""
        self._env.close()


def _start_states(streams: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Four numbers uniform in +-0.05 for each row, `[rows] -> [4, rows]`."""
    words = np.stack([_mix(streams + np.uint64(k)) for k in range(1, 5)])
    return (words >> np.uint64(11)) * (0.1 / 2**53) - 0.05


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea & Flood 2014): a good hash of 64 bits, on whole arrays."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
