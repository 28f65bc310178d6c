"""Validate what an environment returns against its declared spaces. Imports no torch.

Each function here returns a value that is safe to use, or raises EnvError with one line that names the
environment, what it returned and what is expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray

from pgzoo.errors import EnvError, raised_at

__all__ = [
    "allows_action",
    "blame_environment",
    "check_observation",
    "environment_error",
    "environment_id",
    "mask_size",
    "observation_problem",
    "read_info",
    "read_mask",
    "read_reset",
    "read_reward",
    "read_step",
    "sample_action",
]

RESET = "reset(self, *, seed=None, options=None)"
STEP_RESULT = "(observation, reward, terminated, truncated, info)"
RETURNS = f" Gymnasium's reset returns (observation, info), and its step {STEP_RESULT}."
HINTS = {
    "keyword argument 'seed'": f" Gymnasium's signature is {RESET}.",
    "keyword argument 'options'": f" Gymnasium's signature is {RESET}.",
    "values to unpack": RETURNS,
}
"""Hints for environments that were written for the old gym API, by a substring of the error message."""


def environment_id(env: gym.Env[Any, Any]) -> str:
    """Return the id under which an environment was made, or the name of its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def environment_error(env_id: str, doing: str, error: BaseException) -> EnvError:
    """Return an EnvError that names the exception, the call in which it was raised, and the line.

    `doing` is what it was asked for, such as "reset". An EnvError is returned as it is.
    """
    if isinstance(error, EnvError):
        return error
    hint, where = next((hint for part, hint in HINTS.items() if part in str(error)), ""), raised_at(error)
    if "cannot unpack non-iterable" in str(error) and not where:  # a wrapper of gymnasium's got None or a number
        hint = RETURNS
    text = " ".join(str(error).split()).removesuffix(".")
    raised = f"raised {type(error).__name__}: {text}".removesuffix(": ")
    if isinstance(error, SystemExit):
        raised = f"called sys.exit({'' if error.code is None else repr(error.code)})"
    return EnvError(f'environment "{env_id}" {raised} in {doing}{where}.{hint}')


@contextmanager
def blame_environment(env_id: str, doing: str) -> Iterator[None]:
    """Turn whatever an environment raises, `sys.exit` included, into `environment_error`."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise environment_error(env_id, doing, error) from error


def read_reset(env_id: str, result: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return the observation and the info of what `reset` returned."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        return result
    raise EnvError(f'environment "{env_id}" returned {_shown(result)} from reset; expected (observation, info).')


def read_step(env_id: str, result: Any) -> tuple[Any, Any, bool, bool, Mapping[str, Any]]:
    """Return the five parts of what `step` returned, the flags as bools."""
    if isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], Mapping):
        obs, reward, terminated, truncated, info = result
        if type(terminated) is not bool:
            terminated = _flag(env_id, "terminated", terminated)
        if type(truncated) is not bool:
            truncated = _flag(env_id, "truncated", truncated)
        return obs, reward, terminated, truncated, info
    if isinstance(result, tuple) and len(result) == 5:
        raise EnvError(f'environment "{env_id}" returned {_shown(result[4])} as info from step; expected a mapping.')
    count = f"{len(result)} values" if isinstance(result, tuple) else _shown(result)
    raise EnvError(f'environment "{env_id}" returned {count} from step; expected {STEP_RESULT}.')


def read_reward(env_id: str, reward: Any) -> float:
    """Return a reward as a float; an array of one number is that number."""
    if (number := _number(reward)) is None:
        raise EnvError(f'environment "{env_id}" returned the reward {_shown(reward)}; expected one number.')
    return number


def read_info(env_id: str, info: Mapping[str, Any], keys: Iterable[str]) -> list[float]:
    """Return the values of these keys in the info of a step, as floats."""
    values = []
    for key in keys:
        if key not in info:
            sent = ", ".join(sorted(map(str, info))) or "nothing"
            raise EnvError(
                f'environment "{env_id}" has no info["{key}"] in a step, which the algorithm or the estimator needs '
                f'("info:{key}"). Its info has: {sent}. The environment must return one number under this key with '
                "every step."
            )
        if (number := _number(info[key])) is None:
            raise EnvError(f'environment "{env_id}" has info["{key}"] = {_shown(info[key])}; expected one number.')
        values.append(number)
    return values


def check_observation(env_id: str, space: gym.Space[Any], obs: Any) -> None:
    """Raise EnvError where an observation isn't in its space: its shape, its dtype, or a category.

    Numbers outside the bounds of a Box are allowed, because many environments exceed their declared bounds.
    """
    if problem := observation_problem(space, obs):
        raise EnvError(
            f'environment "{env_id}" returned the observation {problem}, '
            f"as its observation_space {_one_line(space)} says."
        )


def observation_problem(space: gym.Space[Any], obs: Any) -> str:
    """Return the part of an observation that isn't in its space, as "VALUE; expected VALUES"; empty if it fits.

    What fits is described in `check_observation`.
    """
    return "; expected ".join(_problem(space, obs) or ())


def mask_size(space: gym.Space[Any]) -> int:
    """Return K, the length of an action mask: one entry for each action, or for each choice of each component."""
    match space:
        case Discrete():
            return int(space.n)
        case MultiDiscrete():
            return int(space.nvec.sum())
        case MultiBinary():
            return int(np.prod(space.shape))
    return 0


def read_mask(env_id: str, space: gym.Space[Any], mask: Any, *, ended: bool = False) -> NDArray[np.bool_]:
    """Return an action mask `[K]` as bool: True where the action is allowed.

    It is one array, or a tuple or list with one array for each component of the action. With `ended` the episode is
    over, and nothing needs to be allowed.
    """
    size = mask_size(space)
    head = f'environment "{env_id}" sent the action mask {_shown(mask)}'
    expected = f"expected bool or 0/1 integers of shape ({size},) for {_one_line(space)}, True or 1 for allowed"
    parts = mask if isinstance(mask, tuple | list) else (mask,)
    try:
        flat = np.concatenate([np.ravel(part) for part in parts]) if len(parts) else np.empty(0)
    except ValueError:
        raise EnvError(f"{head}; {expected}.") from None
    if flat.shape != (size,) or flat.dtype.kind not in "biu":
        raise EnvError(f"{head}; {expected}.")
    allowed = flat.astype(np.bool_)
    if flat.dtype.kind != "b" and not np.array_equal(flat, allowed):
        raise EnvError(f"{head}; {expected}.")
    if not ended and not allows_action(space, allowed):
        raise EnvError(f"{head}, which allows no action although the episode isn't over.")
    return allowed


def sample_action(space: gym.Space[Any], mask: NDArray[np.bool_] | None) -> Any:
    """Draw a random action that the mask `[K]` allows, from the space's own generator."""
    if mask is None:
        return space.sample()
    match space:
        case Discrete():
            return space.sample(mask.astype(np.int8))
        case MultiDiscrete():
            return space.sample(tuple(part.astype(np.int8) for part in _components(space, mask)))
        case MultiBinary():
            return space.sample() * mask.reshape(space.shape)
    return space.sample()


def allows_action(space: gym.Space[Any], mask: NDArray[np.bool_]) -> bool:
    """Return whether a mask `[K]` allows an action: one value or more of each component."""
    if isinstance(space, MultiDiscrete):
        return all(part.any() for part in _components(space, mask))
    return isinstance(space, MultiBinary) or bool(mask.any())  # a bit that may not be set is 0


def _components(space: MultiDiscrete, mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    return np.split(mask, np.cumsum(space.nvec.ravel())[:-1])


def _problem(space: gym.Space[Any], obs: Any) -> tuple[str, str] | None:
    """Return the received and the expected value as text; None if the observation fits."""
    match space:
        case Discrete():
            value = np.asarray(obs) if not isinstance(obs, int) else obs
            whole = isinstance(value, int) or (value.shape == () and value.dtype.kind in "iu")
            if not (whole and space.start <= value < space.start + space.n):
                return _shown(obs), f"a whole number from {space.start} to {space.start + space.n - 1}"
        case Box() | MultiBinary() | MultiDiscrete():
            return _array_problem(space, obs)
        case gym.spaces.Tuple():
            if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
                return _shown(obs), f"a tuple of {len(space.spaces)}"
            found = ((f"[{k}]", _problem(part, obs[k])) for k, part in enumerate(space.spaces))
            return next((_inside(where, problem) for where, problem in found if problem), None)
        case gym.spaces.Dict():
            missing = set(space.spaces) - set(obs) if isinstance(obs, Mapping) else set(space.spaces)
            if missing:
                return _shown(obs), f"a dict with {', '.join(map(str, sorted(missing, key=str)))}"
            found = ((f"[{key!r}]", _problem(part, obs[key])) for key, part in space.spaces.items())
            return next((_inside(where, problem) for where, problem in found if problem), None)
    return None


def _array_problem(space: gym.Space[Any], obs: Any) -> tuple[str, str] | None:
    try:
        array = np.asarray(obs)
    except ValueError:
        array = np.asarray(None)
    assert space.dtype is not None
    expected = f"{space.dtype} of shape {space.shape}"
    if array.shape != space.shape or array.dtype.kind not in "biuf":
        return _shown(obs), expected
    if isinstance(space, MultiDiscrete) and array.dtype.kind in "biu":
        inside = bool(((array >= space.start) & (array < space.start + space.nvec)).all())
        return None if inside else (_shown(obs), f"whole numbers below {space.nvec.tolist()}")
    if isinstance(space, MultiBinary) or space.dtype.kind == "b":
        fine = array.dtype.kind == "b" or (array.dtype.kind in "iu" and bool(((array == 0) | (array == 1)).all()))
        return None if fine else (_shown(obs), f"{expected}, all 0 or 1")
    if array.dtype == space.dtype or space.dtype.kind == "f":
        return None
    if array.dtype.kind == "f":
        return _shown(obs), expected
    least, greatest = np.iinfo(space.dtype).min, np.iinfo(space.dtype).max
    if array.size and not (least <= int(array.min()) and int(array.max()) <= greatest):
        return _shown(obs), f"{expected}, that is numbers from {least} to {greatest}"
    return None


def _flag(env_id: str, name: str, value: Any) -> bool:
    """Return a flag as a bool; an array of one flag is that flag."""
    if type(value) is np.bool_:  # the result of a comparison in numpy, common and worth a short way
        return bool(value)
    array = np.asarray(value)
    if array.size == 1 and array.dtype.kind in "biuf" and array.item() in (0, 1):
        return bool(array.item())
    raise EnvError(f'environment "{env_id}" returned {_shown(value)} as {name} from step; expected one bool.')


def _number(value: Any) -> float | None:
    """Return a number, or an array of one number, as a float; None for anything else."""
    if isinstance(value, float | int | np.number | np.bool_) and not isinstance(value, np.complexfloating):
        return float(value)
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "fiub":
        return float(value.item())
    return None


def _inside(where: str, problem: tuple[str, str]) -> tuple[str, str]:
    return f"{problem[0]} at {where}", problem[1]


def _shown(value: Any) -> str:
    """A value in a few words: arrays with their type and shape."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        kind = f"{value.dtype} of shape {value.shape}"
        return f"{value.tolist()} ({kind})" if value.size <= 8 else kind
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_line(space: gym.Space[Any]) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
