"""The dynamics of an environment for the compiled backend: make them, and try them before they are compiled."""

from __future__ import annotations

import copy
import math
import traceback
from collections.abc import Callable
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np

from pgzoo.envs.checks import environment_id, mask_size, sample_action
from pgzoo.envs.kernel import apply_rows, guard, no_mask, unguard
from pgzoo.errors import EnvError, PgzooError, raised_at
from pgzoo.ops import jit
from pgzoo.types import Dynamics

__all__ = ["make_dynamics", "python_error"]


def make_dynamics(factory: Callable[[Any], Dynamics], env: gym.Env[Any, Any]) -> Dynamics:
    """Return the dynamics of an environment, after one reset and one step in Python.

    Compiled code doesn't check indices: a function that uses more numbers than the dynamics declare would overwrite
    other memory. In Python, on arrays of the declared sizes, it raises an error.

    Raises:
        EnvError: they can't be made, have an invalid field, or raise.
        UnfitError: they don't fit the environment's keyword arguments.
    """
    who = f'environment "{environment_id(env)}": its dynamics ({_name(factory)})'
    try:
        dynamics = factory(env.unwrapped)
    except PgzooError:
        raise
    except Exception as error:
        raise EnvError(f"{who} can't be made: {_described(error)}.") from error
    if problem := _invalid_field(dynamics):
        raise EnvError(f"{who} {problem}. See docs/backends.md.")
    try:
        _try_in_python(dynamics, env.observation_space, env.action_space)
    except Exception as error:
        if _unpacks_step(error):
            raise EnvError(f"{who}: step must return (reward, terminated): {_described(error)}.") from error
        if isinstance(error, IndexError):
            shapes = (
                f"size={dynamics.size}, reset_randoms={dynamics.reset_randoms}, step_randoms={dynamics.step_randoms}"
            )
            raise EnvError(
                f"{who} use an index outside of an array: {_described(error)}. They declare {shapes} and "
                f"{np.size(dynamics.constants)} constants. Declare as many as the functions use."
            ) from error
        # a number for which Python raises may be inf or nan in compiled code; else see `python_error`
        if not isinstance(error, ArithmeticError | ValueError):
            raise EnvError(f"{who} raised {_described(error)} in a reset or a step. See docs/backends.md.") from error
    return dynamics


def python_error(dynamics: Dynamics, observations: gym.Space[Any], actions: gym.Space[Any]) -> str:
    """Return what the functions raise in one reset and one step in Python, with the line; empty if they don't."""
    try:
        _try_in_python(dynamics, observations, actions)
    except Exception as error:
        return _described(error)
    return ""


def _unpacks_step(error: Exception) -> bool:
    """Return whether an error arose where the result of `step` is split into the reward and the flag."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "unpack" in str(error) and last.name == apply_rows.__name__


def _name(factory: Any) -> str:
    named = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{named.__module__}:{named.__qualname__}"


def _described(error: Exception) -> str:
    text = " ".join(str(error).split()).removesuffix(".")
    return f"{type(error).__name__}: {text}".removesuffix(": ") + raised_at(error)


def _invalid_field(dynamics: Any) -> str:
    """Return what is wrong with the fields of dynamics, or an empty string."""
    if not isinstance(dynamics, Dynamics):
        return f"are {dynamics!r:.60} instead of a pgzoo.Dynamics"
    for name in ("size", "reset_randoms", "step_randoms"):
        count: Any = getattr(dynamics, name)
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
            return f"have {name}={count!r:.60}, which must be an integer, 0 or greater"
    for name in ("reset", "step", "observe", "read", "mask", "draws"):
        function = getattr(dynamics, name)
        if not callable(function) and not (name == "mask" and function is None):
            return f"have {name}={function!r:.60}, which must be a function"
    try:
        np.ascontiguousarray(dynamics.constants, np.float64)
    except (TypeError, ValueError):
        return f"have constants={dynamics.constants!r:.60}, which must be an array of numbers"
    return ""


def _try_in_python(dynamics: Dynamics, space: gym.Space[Any], actions: gym.Space[Any]) -> None:
    """Reset and step one row in Python, with observations and actions in these spaces."""
    actions = copy.deepcopy(actions)
    parts = {"reset": dynamics.reset, "step": dynamics.step, "observe": dynamics.observe}
    apply = jit.specialize(apply_rows, parts | {"mask": dynamics.mask or no_mask}, interpreted=True)
    generator = np.random.default_rng(0)
    random = generator.random((1, dynamics.reset_randoms)), generator.random((1, dynamics.step_randoms))
    constants = np.ascontiguousarray(dynamics.constants, np.float64)
    state = guard(np.zeros((1, dynamics.size)))
    obs = guard(np.zeros((1, math.prod(space.shape or ())), space.dtype))
    allowed = guard(np.zeros((1, mask_size(actions) if dynamics.mask else 0), np.bool_))
    actions.seed(0)
    for resets in (True, False):
        mask = unguard(allowed)[0][0]
        action = np.array(sample_action(actions, mask if mask.any() else None))
        action = action[None].astype(np.int64) if isinstance(actions, gym.spaces.Discrete) else action.reshape(1, -1)
        results = obs, np.zeros(1), np.zeros(1, np.bool_), allowed
        with np.errstate(all="ignore"):
            apply(state, np.array([resets]), *random, constants, action, *results)
