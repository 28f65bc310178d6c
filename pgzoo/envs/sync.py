"""Environments one after the other in this process."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pgzoo.envs import state
from pgzoo.envs.single import allowed, make_single
from pgzoo.types import Array, EnvRequest, StepResult

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
        self._states = request.states
        self.observation_space = self._envs[0].observation_space
        self.action_space = self._envs[0].action_space
        self._discrete = isinstance(self.action_space, gym.spaces.Discrete)
        self.action_mask: NDArray[np.bool_] | None = None
        self._ended = [False] * request.rows
        self._obs = np.zeros((request.rows, *(self.observation_space.shape or ())), self.observation_space.dtype)

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Begin a new episode in every row from its seed."""
        masks = []
        for row, env in enumerate(self._envs):
            self._obs[row], info = env.reset(seed=int(seeds[row]))
            masks.append(allowed(env, info))
        self.action_mask = None if masks[0] is None else np.array(masks)
        self._ended = [False] * len(self._envs)
        return self._obs.copy()

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every live row."""
        rows = len(self._envs)
        rewards: list[SupportsFloat] = [0.0] * rows
        terminated, truncated = [False] * rows, [False] * rows
        chosen = actions.tolist() if self._discrete else actions  # gymnasium checks a Python int far faster
        obs = self._obs = self._obs.copy()
        masks = self.action_mask = None if self.action_mask is None else self.action_mask.copy()
        for row, alive in enumerate(live.tolist()):
            if not alive:
                continue
            if self._ended[row]:
                (obs[row], info), self._ended[row] = self._envs[row].reset(), False
            else:
                obs[row], rewards[row], ended, cut, info = self._envs[row].step(chosen[row])
                terminated[row], truncated[row], self._ended[row] = ended, cut, ended or cut
            if masks is not None:
                masks[row] = allowed(self._envs[row], info)
        return StepResult(
            obs, np.array(rewards, np.float64), np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        )

    def select(self, rows: NDArray[np.int64]) -> SyncEnvs:
        """These environments alone."""
        part = copy.copy(self)
        part._envs, part._ended = [self._envs[row] for row in rows], [self._ended[row] for row in rows]
        part._obs = self._obs[rows]
        part.action_mask = None if self.action_mask is None else self.action_mask[rows]
        return part

    def save(self) -> list[Any] | None:
        """Where each row stands: its environment, whether its next step only resets, and what it showed last."""
        rows = [state.save(env, self._states) for env in self._envs]
        if any(row is None for row in rows):
            return None
        masks = [None] * len(rows) if self.action_mask is None else list(self.action_mask)
        shown = zip(self._ended, self._obs, masks, strict=True)
        return [
            [row, ended, state.encode(obs), state.encode(mask)]
            for row, (ended, obs, mask) in zip(rows, shown, strict=True)
        ]

    def restore(self, states: Sequence[Any]) -> None:
        """Put every row where it stood, but for those of which nothing is known (None)."""
        for row, saved in enumerate(states):
            if saved is None:
                continue
            env, self._ended[row], obs, mask = saved
            state.restore(self._envs[row], env, self._states)
            self._obs[row] = state.decode(obs)
            if self.action_mask is not None:
                self.action_mask[row] = state.decode(mask)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
