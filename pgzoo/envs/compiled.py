"""Environments whose dynamics are compiled: plain functions of one row, registered as `dynamics`."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pgzoo.envs.checks import environment_error, environment_id, mask_size
from pgzoo.envs.dynamics_checks import make_dynamics, python_error
from pgzoo.envs.kernel import collect_rows, no_mask, step_rows
from pgzoo.envs.single import make_single
from pgzoo.errors import EnvError, UnfitError
from pgzoo.ops import jit
from pgzoo.ops.entries import array_space
from pgzoo.types import Array, Dynamics, EnvRequest, RowPolicy, StepResult

__all__ = ["CompiledBackend", "CompiledEnvs"]

_log = logging.getLogger("pgzoo")

NO_LIMIT = np.iinfo(np.int64).max


class CompiledBackend:
    """Runs the environments whose dynamics a plugin has registered, compiled with numba.

    Policies that are functions of one row, too (see `protocols.Policy`), are compiled together with the environment.
    """

    width, takes_dynamics = 128, True

    def __init__(self, find: Callable[[str], Any]) -> None:
        """`find(id)` returns the registered function from an environment to its `Dynamics`; None if there is none."""
        self._find = find

    def fits(self, request: EnvRequest) -> str:
        """Return an empty string for an environment with registered dynamics that fit its keyword arguments."""
        if self._find(request.id) is None:
            return "no plugin has registered its dynamics"
        try:
            _open(self._find(request.id), request)
        except UnfitError as error:
            return str(error)
        return ""

    def open(self, request: EnvRequest) -> CompiledEnvs:
        """Make `request.rows` environments."""
        if not jit.available():
            _warn_not_compiled()
        dynamics, env = _open(self._find(request.id), request)
        limit = request.max_episode_steps or (env.spec.max_episode_steps if env.spec else None) or NO_LIMIT
        return CompiledEnvs(dynamics, env, request.rows, limit)


@cache
def _warn_not_compiled() -> None:
    _log.warning(
        'numba is not installed: the backend "compiled" runs its environments in Python, many times slower. '
        'Install it: pip install "pgzoo[compiled]"'
    )


def _open(factory: Any, request: EnvRequest) -> tuple[Dynamics, gym.Env[Any, Any]]:
    """Return the dynamics of an environment, and the environment itself, which is closed.

    Raises:
        EnvError: gymnasium can't make it, or its dynamics are faulty.
        UnfitError: the dynamics don't fit its keyword arguments.
    """
    env = make_single(request)
    try:
        return make_dynamics(factory, env), env
    finally:
        env.close()


def _is_own(line: str) -> bool:
    """Return whether numba's line `File "PATH", line N` is in pgzoo's code. PATH may be relative to this folder."""
    return Path(line.split('"')[1]).resolve().is_relative_to(Path(__file__).parents[1])


class CompiledEnvs:
    """Rows that are stepped in compiled code; rows that are not live are not stepped."""

    def __init__(self, dynamics: Dynamics, env: gym.Env[Any, Any], rows: int, limit: int) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.action_mask: NDArray[np.bool_] | None = None
        self._id, self._dynamics, self._limit = environment_id(env), dynamics, limit
        self._discrete = isinstance(env.action_space, gym.spaces.Discrete)
        self._choices = mask_size(env.action_space) if dynamics.mask else 0
        self._parts = {"reset": dynamics.reset, "step": dynamics.step, "observe": dynamics.observe}
        self._parts["mask"] = dynamics.mask or no_mask
        self._constants = np.ascontiguousarray(dynamics.constants, np.float64)
        self._random = np.zeros(dynamics.reset_randoms), np.zeros(dynamics.step_randoms)
        self._state = np.zeros((rows, dynamics.size))
        self._streams = np.zeros(rows, np.uint64)
        self._steps = np.zeros(rows, np.int64)
        self._ended = np.zeros(rows, np.bool_)
        self._collectors: dict[Any, Callable[..., tuple[int, int, int]]] = {}

    @cached_property
    def _step_rows(self) -> Callable[..., None]:
        """The loop of `step`. Made when it is first needed, because importing numba counts as compiling."""
        return jit.specialize(step_rows, self._parts)

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Start a new episode in every row from its seed."""
        self._streams[:], self._ended[:] = seeds.astype(np.uint64), True
        return self.step(self._actions(len(seeds)), np.ones(len(seeds), np.bool_), "reset").obs

    def step(self, actions: Array, live: NDArray[np.bool_], doing: str = "step") -> StepResult:
        """Take one step in every live row."""
        rows, space = len(self._state), self.observation_space
        obs = np.zeros((rows, *(space.shape or ())), space.dtype)
        rewards, (terminated, truncated) = np.zeros(rows), np.zeros((2, rows), np.bool_)
        allowed = np.zeros((rows, self._choices), np.bool_)
        chosen = actions.astype(np.int64, copy=False) if self._discrete else actions.reshape(rows, -1)
        out = obs.reshape(rows, -1), rewards, terminated, truncated, allowed
        try:
            with np.errstate(over="ignore"):  # without numba: the random numbers are made by overflow
                self._step_rows(*self._rows(), live, *self._settings(), chosen, *out)
        except Exception as error:
            raise self._error(doing, error) from error
        self.action_mask = allowed if self._choices else None
        return StepResult(obs, rewards, terminated, truncated)

    def collect(
        self, policy: RowPolicy, left: NDArray[np.int64], noise: Array | None, count: int, stored: Mapping[str, Array]
    ) -> tuple[int, int, int]:
        """Let a policy act for `count` steps, or until no row has episodes left, all in compiled code.

        Args:
            policy: the policy.
            left: the number of episodes that each row still plays, `[rows]`; updated in place.
            noise: `[count, S, N, R]`; None for greedy actions.
            count: the number of steps.
            stored: where obs, actions, rewards, valid, terminated, truncated and action_mask are written, `[count + 1,
                rows, ...]` each. All are 0 before, but for the first observations and masks, which are given.

        Returns the number of steps until no row had episodes left (at most `count`), the sum of the rows' steps, and
        the number of episodes that ended.
        """
        space, rows = self.action_space, len(self._state)
        action = np.zeros(math.prod(space.shape or (1,)), space.dtype)
        features = np.zeros(math.prod(self.observation_space.shape or ()), np.float32)
        working = features, np.zeros((2, policy.width), np.float32), np.zeros(policy.outputs, np.float32), action
        shape = policy.weights, policy.sizes, policy.scale, policy.bounds, policy.moments
        draws = np.zeros((1, rows, 1), np.float32) if noise is None else noise.reshape(count, rows, noise.shape[-1])
        obs, actions, allowed = (
            stored[name].reshape(count + 1, rows, math.prod(stored[name].shape[2:]))
            for name in ("obs", "actions", "action_mask")
        )
        flags = (stored[name] for name in ("rewards", "valid", "terminated", "truncated"))
        leaves = obs, actions, *flags, allowed
        functions = policy.forward, policy.choose
        if (run := self._collectors.get(functions)) is None:
            own = dict(zip(("forward", "choose"), functions, strict=True))
            run = self._collectors[functions] = jit.specialize(collect_rows, self._parts | own)
        try:
            return run(*self._rows(), left, *self._settings(), *shape, *working, draws, noise is None, count, *leaves)
        except Exception as error:
            raise self._error("the compiled collector", error) from error

    def compile(self, policy: RowPolicy | None) -> None:
        """Compile what `reset`, `step` and `collect` run, or load it from the cache."""
        one = self.select(np.zeros(1, np.int64))  # a row that is neither live nor has episodes left
        obs = one.step(self._actions(1), np.zeros(1, np.bool_)).obs.astype(array_space(self.observation_space).dtype)
        if policy is not None:
            like = {"obs": obs, "actions": policy.stored[None], "rewards": np.zeros(1)}
            like |= {"action_mask": np.zeros((1, self._choices), np.bool_)}
            like |= {name: np.zeros(1, np.bool_) for name in ("valid", "terminated", "truncated")}
            stored = {name: np.zeros((2, *leaf.shape), leaf.dtype) for name, leaf in like.items()}
            one.collect(policy._replace(weights=policy.weights[:1]), np.zeros(1, np.int64), None, 1, stored)

    def _error(self, doing: str, error: Exception) -> EnvError:
        """Return the error to raise: for what numba can't compile, only the reason, the line, and what Python raises.

        The line is one outside of pgzoo if there is one: a mistake in a function shows in pgzoo's loop that calls it.
        """
        if not type(error).__module__.startswith("numba."):
            return environment_error(self._id, doing, error)
        lines = [line.strip() for line in str(error).splitlines()]
        reasons = (line for line in lines if line and not line.startswith("Failed in nopython mode pipeline"))
        files = sorted((line.removesuffix(":") for line in lines if line.startswith("File ")), key=_is_own)
        raised = python_error(self._dynamics, self.observation_space, self.action_space)
        where = f" ({files[0]})" if files and not (raised and _is_own(files[0])) else ""
        cause = f". In Python, a reset or a step raised {raised}" if raised else ""
        return EnvError(
            f'environment "{self._id}": numba can\'t compile its dynamics or the policy: '
            f"{next(reasons, 'no reason given').removesuffix('.')}{where}{cause}. See docs/backends.md."
        )

    def _actions(self, rows: int) -> Array:
        return np.zeros((rows, *(self.action_space.shape or ())), self.action_space.dtype)

    def _rows(self) -> tuple[Array, ...]:
        return self._state, self._streams, self._steps, self._ended

    def _settings(self) -> tuple[Any, ...]:
        return self._limit, self._constants, *self._random

    def select(self, rows: NDArray[np.int64]) -> CompiledEnvs:
        """Return only these rows."""
        part = copy.copy(self)
        part._state, part._streams = self._state[rows], self._streams[rows]
        part._steps, part._ended = self._steps[rows], self._ended[rows]
        part.action_mask = None if self.action_mask is None else self.action_mask[rows]
        return part

    def save(self) -> list[Any]:
        """Return the state of each row: its values, random stream, step count, and whether the episode is over."""
        return [list(row) for row in zip(*(leaf.tolist() for leaf in self._rows()), strict=True)]

    def restore(self, states: Sequence[Any]) -> None:
        """Put every row into the state that `save` returned for it; a row whose state is None stays as it is."""
        for row, saved in enumerate(states):
            if saved is not None:
                self._state[row], self._streams[row], self._steps[row], self._ended[row] = saved

    def close(self) -> None:
        """Do nothing."""
