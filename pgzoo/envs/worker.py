"""One environment in a separate process, for `asynchronous`. Imports no torch, so that processes start quickly."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from pgzoo.envs.checks import (
    blame_environment,
    check_observation,
    environment_id,
    read_info,
    read_reset,
    read_reward,
    read_step,
)
from pgzoo.envs.single import action_mask, make
from pgzoo.envs.wrappers import Wrap
from pgzoo.errors import EnvError
from pgzoo.process import ignore_stop_signals

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

__all__ = ["make_checked"]


class _Checked(gym.Wrapper[Any, Any, Any, Any]):
    """Checks what the environment returns before it goes into shared memory, and reduces info to what the run needs.

    That is the action mask, and the values of the keys `info` under "info:KEY".

    Everything that the environment raises becomes an EnvError, which the main process receives.
    """

    def __init__(self, env: gym.Env[Any, Any], info: tuple[str, ...]) -> None:
        super().__init__(env)
        self._id, self._info_keys = environment_id(env), info

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        with blame_environment(self._id, "reset"):
            obs, info = read_reset(self._id, self.env.reset(**kwargs))
            check_observation(self._id, self.observation_space, obs)
            return obs, self._mask_of(info, ended=False)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with blame_environment(self._id, "step"):
            obs, reward, terminated, truncated, info = read_step(self._id, self.env.step(action))
            check_observation(self._id, self.observation_space, obs)
            sent = self._mask_of(info, ended=bool(terminated or truncated))
            values = read_info(self._id, info, self._info_keys)
            sent |= {f"info:{key}": value for key, value in zip(self._info_keys, values, strict=True)}
            return obs, read_reward(self._id, reward), terminated, truncated, sent

    def close(self) -> None:
        try:
            with blame_environment(self._id, "close"):
                self.env.close()
        except EnvError as error:  # the main process no longer listens
            print(f"Warning: {error}", file=sys.stderr)

    def _mask_of(self, info: Mapping[str, Any], *, ended: bool) -> dict[str, Any]:
        mask = action_mask(self.env, info, ended=ended)
        return {} if mask is None else {"action_mask": mask}


def make_checked(
    main_process: int, spec: EnvSpec, settings: Mapping[str, Any], wrappers: Iterable[Wrap], info: tuple[str, ...] = ()
) -> gym.Env[Any, Any]:
    """Make the environment in a worker, or once in the main process, which asks for its spaces."""
    if os.getpid() != main_process:
        ignore_stop_signals()
    try:
        return _Checked(make(spec, settings, wrappers), info)
    except EnvError as error:
        if os.getpid() == main_process:
            raise
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None  # the main process sees that this one is gone
