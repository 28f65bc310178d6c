"""Environments one after the other in this process."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pgzoo.envs.single import make_single
from pgzoo.protocols import EnvRequest, StepResult
from pgzoo.types import Array

__all__ = ["SyncBackend"]


class SyncBackend:
    """Runs every environment that gymnasium can make."""

    width = 8

    def fits(self, request: EnvRequest) -> str:
        """Always."""
        return ""

    def open(self, request: EnvRequest) -> SyncEnvs:
        """Make `request.rows` environments."""
        return SyncEnvs(request)


class SyncEnvs:
    """As gymnasium's SyncVectorEnv in NEXT_STEP autoreset, but rows that nobody reads are not stepped."""

    def __init__(self, request: EnvRequest) -> None:
        self._envs = [make_single(request) for _ in range(request.rows)]
        self.observation_space = self._envs[0].observation_space
        self.action_space = self._envs[0].action_space
        self._ended = np.zeros(request.rows, dtype=np.bool_)
        self._obs = np.zeros((request.rows, *(self.observation_space.shape or ())), self.observation_space.dtype)

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Begin a new episode in every row from its seed."""
        for row, env in enumerate(self._envs):
            self._obs[row] = env.reset(seed=int(seeds[row]))[0]
        self._ended[:] = False
        return self._obs.copy()

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every live row."""
        rows = len(self._envs)
        rewards = np.zeros(rows)
        terminated, truncated = np.zeros(rows, dtype=np.bool_), np.zeros(rows, dtype=np.bool_)
        for row in np.flatnonzero(live):
            env = self._envs[row]
            if self._ended[row]:
                self._obs[row] = env.reset()[0]
            else:
                self._obs[row], rewards[row], terminated[row], truncated[row], _ = env.step(actions[row])
        self._ended = terminated | truncated
        return StepResult(self._obs.copy(), rewards, terminated, truncated)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
