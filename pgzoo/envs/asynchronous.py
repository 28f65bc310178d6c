"""Environments in a process each, by gymnasium's AsyncVectorEnv."""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.async_vector_env import AsyncState
from numpy.typing import NDArray

from pgzoo.envs.checks import environment_error, mask_size
from pgzoo.envs.single import recipe
from pgzoo.envs.sync import late_mask
from pgzoo.envs.worker import make_checked
from pgzoo.errors import EnvError
from pgzoo.types import INFO, Array, EnvRequest, StepResult

__all__ = ["AsyncBackend"]


class AsyncBackend:
    """Worthwhile if a step takes a millisecond or more and several CPU cores are free; not for small environments."""

    width, wraps, sends_info = 8, True, True

    def fits(self, request: EnvRequest) -> str:
        """Return an empty string: it runs every environment."""
        return ""

    def open(self, request: EnvRequest) -> AsyncEnvs:
        """Start `request.rows` processes."""
        return AsyncEnvs(request)


class AsyncEnvs:
    """Every row is stepped, live or not; each row has its own random generator."""

    def __init__(self, request: EnvRequest) -> None:
        spec, settings, wrappers = recipe(request)
        self._id, self._masked, self._rows = spec.id, request.masked, request.rows
        self._broken = False
        self._info_keys = request.info
        one = functools.partial(make_checked, os.getpid(), spec, settings, wrappers, request.info)
        envs = gym.vector.AsyncVectorEnv.__new__(gym.vector.AsyncVectorEnv)
        try:
            with self._failures_named("its constructor"):
                gym.vector.AsyncVectorEnv.__init__(envs, [one] * request.rows, context="spawn")
        except BaseException:
            _kill(getattr(envs, "processes", ()))  # those that it had started when it failed
            raise
        self._envs = envs
        # The workers ignore SIGTERM, with which multiprocessing ends them at exit before it waits for them: kill them
        # first.
        self._kill = functools.partial(_kill, envs.processes)
        atexit.register(self._kill)
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space
        self.action_mask: NDArray[np.bool_] | None = None

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Start a new episode in every row from its seed."""
        with self._failures_named("reset"):
            obs, info = self._envs.reset(seed=[int(seed) for seed in seeds])
        masks = self._masks_of(info)
        self.action_mask = self._everything() if masks is None and self._masked else masks
        return np.asarray(obs)

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every row."""
        with self._failures_named("step"):
            obs, rewards, terminated, truncated, info = self._envs.step(actions)
        masks = self._masks_of(info)
        if self.action_mask is not None:
            self.action_mask = self._everything() if masks is None else masks
        elif masks is not None:
            raise late_mask(self._id)
        nothing = np.zeros(self._rows)  # all rows were only reset
        values = {key: np.asarray(info.get(INFO + key, nothing)) for key in self._info_keys}
        return StepResult(np.asarray(obs), np.asarray(rewards), terminated, truncated, values or None)

    def select(self, rows: NDArray[np.int64]) -> None:
        """Return None: all processes are always stepped together."""

    def close(self) -> None:
        """End the processes."""
        if not self._broken:
            with suppress(EnvError), self._failures_named("close"):
                self._envs.close()
        if self._broken:
            self._kill()
            self._envs._state = AsyncState.DEFAULT  # don't wait for their responses
            self._envs.close(terminate=True)
        atexit.unregister(self._kill)

    def _masks_of(self, info: dict[str, Any]) -> NDArray[np.bool_] | None:
        """Return the masks that came with this step, `[rows, K]`, all True in rows without one; None if none came."""
        if "action_mask" not in info:
            return None
        return np.where(info["_action_mask"][:, None], info["action_mask"], True)

    def _everything(self) -> NDArray[np.bool_]:
        return np.ones((self._rows, mask_size(self.action_space)), np.bool_)

    @contextmanager
    def _failures_named(self, doing: str) -> Iterator[None]:
        """Turn what a worker raised, or its death, into one EnvError; gymnasium logs none of it."""
        level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1
        try:
            yield
        except (EOFError, ConnectionError):
            self._broken = True
            raise EnvError(f'a process of environment "{self._id}" died during {doing}{self._exit_codes()}.') from None
        except Exception as error:
            self._broken = True
            raise environment_error(self._id, doing, error) from error
        except BaseException:  # a second Ctrl-C: some responses have been read, others not
            self._broken = True
            raise
        finally:
            gym.logger.min_level = level

    def _exit_codes(self) -> str:
        processes = self._envs.processes if hasattr(self, "_envs") else []
        over = wait([process.sentinel for process in processes], timeout=5.0)
        for process in processes:
            if process.sentinel in over:
                process.join(5.0)  # a sentinel is ready shortly before the exit code is known
        codes = sorted({str(process.exitcode) for process in processes if process.exitcode is not None})
        return f" (exit code {', '.join(codes)})" if codes else ""


def _kill(processes: Iterable[BaseProcess]) -> None:
    for process in processes:
        if process.pid is not None:  # it was started
            process.kill()
