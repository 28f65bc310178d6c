"""Environments one after the other in this process."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pgzoo.envs import state
from pgzoo.envs.checks import (
    blame_environment,
    check_observation,
    environment_error,
    environment_id,
    mask_size,
    read_info,
    read_reset,
    read_reward,
    read_step,
)
from pgzoo.envs.single import action_mask, make_single
from pgzoo.errors import EnvError
from pgzoo.types import Array, EnvRequest, StepResult

__all__ = ["SyncBackend", "late_mask"]


class SyncBackend:
    """Runs every environment that gymnasium can make."""

    width, wraps, sends_info = 8, True, True

    def fits(self, request: EnvRequest) -> str:
        """Return an empty string: it runs every environment."""
        return ""

    def open(self, request: EnvRequest) -> SyncEnvs:
        """Make `request.rows` environments."""
        return SyncEnvs(request)


class SyncEnvs:
    """Like gymnasium's SyncVectorEnv in NEXT_STEP autoreset, but rows that are not live are not stepped.

    Where the environment sends a mask with some steps only, all actions are allowed in the others.
    """

    def __init__(self, request: EnvRequest) -> None:
        self._envs = [make_single(request) for _ in range(request.rows)]
        self._id, self._states, self._masked = environment_id(self._envs[0]), request.states, request.masked
        self._info_keys = request.info
        self.observation_space = self._envs[0].observation_space
        self.action_space = self._envs[0].action_space
        self._discrete = isinstance(self.action_space, gym.spaces.Discrete)
        self.action_mask: NDArray[np.bool_] | None = None
        self._ended = [False] * request.rows
        self._obs = np.zeros((request.rows, *(self.observation_space.shape or ())), self.observation_space.dtype)

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Start a new episode in every row from its seed."""
        masks = []
        for row, env in enumerate(self._envs):
            with blame_environment(self._id, "reset"):
                obs, info = read_reset(self._id, env.reset(seed=int(seeds[row])))
                check_observation(self._id, self.observation_space, obs)
                masks.append(action_mask(env, info))
            self._obs[row] = obs
        if self._masked or any(mask is not None for mask in masks):
            everything = np.ones(mask_size(self.action_space), np.bool_)
            self.action_mask = np.array([everything if mask is None else mask for mask in masks])
        else:
            self.action_mask = None
        self._ended = [False] * len(self._envs)
        return self._obs.copy()

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every live row."""
        rows = len(self._envs)
        rewards, terminated, truncated = [0.0] * rows, [False] * rows, [False] * rows
        values = {key: np.zeros(rows) for key in self._info_keys}
        chosen = actions.tolist() if self._discrete else actions  # gymnasium checks a Python int far faster
        stored = self._obs = self._obs.copy()
        shape, dtype = stored.shape[1:], stored.dtype
        if self.action_mask is not None:
            self.action_mask = self.action_mask.copy()
        doing = "step"
        try:
            for row, alive in enumerate(live.tolist()):
                if not alive:
                    continue
                env = self._envs[row]
                if self._ended[row]:
                    doing = "reset"
                    (obs, info), self._ended[row] = read_reset(self._id, env.reset()), False
                    doing = "step"
                else:
                    obs, reward, ended, cut, info = read_step(self._id, env.step(chosen[row]))
                    rewards[row] = reward if type(reward) is float else read_reward(self._id, reward)
                    terminated[row], truncated[row], self._ended[row] = ended, cut, ended or cut
                    if values:
                        for key, value in zip(values, read_info(self._id, info, values), strict=True):
                            values[key][row] = value
                if type(obs) is not np.ndarray or obs.dtype is not dtype or obs.shape != shape:
                    check_observation(self._id, self.observation_space, obs)
                stored[row] = obs
                if self.action_mask is not None or info.get("action_mask") is not None:
                    self._read_mask(row, info)
        except (Exception, SystemExit) as error:
            raise environment_error(self._id, doing, error) from error
        flags = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        return StepResult(stored, np.array(rewards, np.float64), *flags, values or None)

    def _read_mask(self, row: int, info: Mapping[str, Any]) -> None:
        """Store which actions a row allows now: all of them if its environment has no action mask."""
        mask = action_mask(self._envs[row], info, ended=self._ended[row])
        if self.action_mask is not None:
            self.action_mask[row] = True if mask is None else mask
        elif mask is not None:
            raise late_mask(self._id)

    def select(self, rows: NDArray[np.int64]) -> SyncEnvs:
        """Return these environments alone."""
        part = copy.copy(self)
        part._envs, part._ended = [self._envs[row] for row in rows], [self._ended[row] for row in rows]
        part._obs = self._obs[rows]
        part.action_mask = None if self.action_mask is None else self.action_mask[rows]
        return part

    def save(self) -> list[Any] | None:
        """Return the state of each row: its environment, whether its episode is over, its last observation and mask.

        None if one of the environments can't be saved.
        """
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
        """Put every row into the state that `save` returned for it; a row whose state is None stays as it is."""
        for row, saved in enumerate(states):
            if saved is None:
                continue
            env, self._ended[row], obs, mask = saved
            state.restore(self._envs[row], env, self._states)
            self._obs[row] = state.decode(obs)
            if self.action_mask is not None and mask is not None:
                self.action_mask[row] = state.decode(mask)

    def close(self) -> None:
        """Close every environment; an error is raised only after all have been closed."""
        errors = []
        for env in self._envs:
            try:
                with blame_environment(self._id, "close"):
                    env.close()
            except EnvError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def late_mask(env_id: str) -> EnvError:
    """Return the error of an environment that sends its first action mask in the middle of a run."""
    return EnvError(
        f'environment "{env_id}" sent an action mask for the first time after many steps without one. Send '
        'info["action_mask"] with the observation of reset, all True where every action is allowed.'
    )
