"""Save and restore the state of one environment as plain data, so that a run can be resumed.

    common state     random generator and attributes of wrappers: saved by `save` and `restore` here
    specific state   saved by the first `protocols.EnvState` that fits; without one the environment can't be saved

Saved data are never executed: they are numbers, text, arrays of them, and containers.
"""

from __future__ import annotations

import base64
import copy
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from pgzoo.envs.checks import blame_environment, environment_id, sample_action
from pgzoo.envs.single import FlattenObservation, IntegerActions, PackObservation, action_mask
from pgzoo.envs.wrappers import FrameStackObservation
from pgzoo.protocols import EnvState

__all__ = [
    "Attributes",
    "MuJoCo",
    "classic_control",
    "decode",
    "encode",
    "reset_is_complete",
    "restore",
    "save",
    "toy_text",
]

LIMIT = 64 * 2**20
"""Maximum size of an array, in bytes."""
DEPTH = 16
"""Maximum nesting depth of containers."""
KINDS = "?biufcSU"
"""numpy dtype kinds that are allowed: numbers and strings, no objects."""
GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def encode(value: Any, depth: int = DEPTH) -> Any:
    """Convert a value to JSON-serializable data, which `decode` converts back, bit for bit and of the same type.

    Takes None, bool, int, float, str, arrays and scalars of numpy, its generators, and lists, tuples, deques and dicts
    of them.

    Raises:
        TypeError: it is, or holds, something else.
        ValueError: an array is too large, or containers are nested too deeply.
    """
    if depth < 0:
        raise ValueError("containers are nested too deeply")
    kind, inner = type(value), depth - 1
    if kind in (str, int, bool) or value is None or (kind is float and math.isfinite(value)):
        return value
    if kind is float:
        return {"float": str(value)}
    if kind is list:
        return [encode(item, inner) for item in value]
    if kind is tuple:
        return {"tuple": [encode(item, inner) for item in value]}
    if kind is deque:
        return {"deque": [encode(item, inner) for item in value], "maxlen": value.maxlen}
    if kind is dict:
        return {"dict": [[encode(key, inner), encode(item, inner)] for key, item in value.items()]}
    if kind is np.ndarray or isinstance(value, np.generic):
        return _pack(value)
    if kind is np.random.Generator:
        state = value.bit_generator.state
        if state["bit_generator"] in GENERATORS:
            return {"generator": encode(state, inner)}
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} can't be saved: not plain data")


def decode(value: Any, depth: int = DEPTH) -> Any:
    """Return what `encode` was given.

    Raises:
        ValueError: the value wasn't produced by `encode`, or is too large.
    """
    if depth < 0:
        raise ValueError("containers are nested too deeply")
    inner = depth - 1
    if isinstance(value, list):
        return [decode(item, inner) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        match value:
            case {"float": str(text)} if text in ("nan", "inf", "-inf"):
                return float(text)
            case {"tuple": list(items)}:
                return tuple(decode(item, inner) for item in items)
            case {"deque": list(items), "maxlen": int() | None as longest}:
                return deque((decode(item, inner) for item in items), longest)
            case {"dict": list(pairs)}:
                return {decode(key, inner): decode(item, inner) for key, item in pairs}
            case {"array": _} | {"scalar": _}:
                return _unpack(value)
            case {"generator": state}:
                return _generator(decode(state, inner))
    except (TypeError, KeyError) as error:
        raise ValueError(f"invalid environment state: {error}") from error
    raise ValueError(f"invalid environment state: {', '.join(map(str, value))[:100]}")


def save(env: gym.Env[Any, Any], states: Sequence[EnvState]) -> Any:
    """Return the state of an environment as JSON-serializable data; None if some of it can't be saved.

    Raises:
        EnvError: the code of a plugin raised.
    """
    adapter = _adapter(env, states)
    if adapter is None:
        return None
    with _blame(env, adapter, "get"):
        own = adapter.get(env)
    try:
        wrappers = [[type(wrapper).__name__, encode(_wrapper_state(wrapper))] for wrapper in _wrappers(env)]
        return {
            "wrappers": wrappers,
            "generator": encode(env.unwrapped._np_random),
            "seed": encode(env.unwrapped._np_random_seed),
            "state": encode(own),
        }
    except (TypeError, ValueError):  # the state of a wrapper or of the environment isn't plain data
        return None


def restore(env: gym.Env[Any, Any], state: Any, states: Sequence[EnvState]) -> None:
    """Restore a saved state in a new environment that has been reset once.

    Raises:
        EnvError: the code of a plugin raised.
        ValueError: the state belongs to another environment, or no plugin can restore it.
    """
    adapter = _adapter(env, states)
    if adapter is None:
        raise ValueError("no plugin here can restore such an environment")
    wrappers = list(_wrappers(env))
    if [type(wrapper).__name__ for wrapper in wrappers] != [name for name, _ in state["wrappers"]]:
        raise ValueError(
            f"the saved environment had the wrappers {', '.join(name for name, _ in state['wrappers']) or 'none'}"
        )
    for wrapper, (name, saved) in zip(wrappers, state["wrappers"], strict=True):
        kept = decode(saved)
        if kept.keys() != _wrapper_state(wrapper).keys():
            raise ValueError(f"its wrapper {name} kept {', '.join(kept)}")
        vars(wrapper).update(kept)
    env.unwrapped._np_random = decode(state["generator"])
    env.unwrapped._np_random_seed = decode(state["seed"])
    own = decode(state["state"])
    with _blame(env, adapter, "put"):
        adapter.put(env, own)


def _adapter(env: gym.Env[Any, Any], states: Sequence[EnvState]) -> EnvState | None:
    """Return what saves and restores an environment; None if nothing does."""
    for one in states:
        with _blame(env, one, "fits"):
            if one.fits(env):
                return one
    return None


def _blame(env: gym.Env[Any, Any], adapter: EnvState, method: str) -> AbstractContextManager[None]:
    """Turn what the code of a plugin raises into an EnvError that names it."""
    return blame_environment(environment_id(env), f"{method} of the environment state {type(adapter).__qualname__}")


FORGETFUL: tuple[type, ...] = (
    FrameStackObservation,
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
    gym.wrappers.TimeLimit,
    FlattenObservation,
    IntegerActions,
    PackObservation,
)
"""Wrappers that a reset puts into their initial state."""

TRIES, TRIED_STEPS, TRIED_SECONDS = 8, 50, 1.0
"""Number of pairs of episodes to compare, steps per episode, and the time limit in seconds."""


def reset_is_complete(env: gym.Env[Any, Any], states: Sequence[EnvState]) -> bool:
    """Return whether an episode after a seeded reset depends on the seed alone, and not on the episodes before it.

    True for an environment whose state is known and whose wrappers remember nothing (`FORGETFUL`). Any other is tried:
    an episode is played from a seed, then another one, then the first again with the same actions, and the two are
    compared. A difference that shows in none of the tries isn't found.
    """
    if all(type(wrapper) in FORGETFUL for wrapper in _wrappers(env)) and any(one.fits(env) for one in states):
        return True
    deadline = time.perf_counter() + TRIED_SECONDS
    for seed in range(TRIES):
        first = list(_episode(env, seed, deadline))
        for _ in _episode(env, seed + TRIES, deadline):  # play another episode, which a bad reset would remember
            pass
        again = _episode(env, seed, deadline)
        if not all(data_equivalence(*both, exact=True) for both in zip(first, again, strict=False)):
            return False
        if time.perf_counter() > deadline:
            break
    return True


def _episode(env: gym.Env[Any, Any], seed: int, deadline: float) -> Iterator[tuple[Any, ...]]:
    """Yield what reset and steps return from a seed, with actions from the same seed; copied, as buffers are reused."""
    obs, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    yield (copy.deepcopy(obs),)
    for _ in range(TRIED_STEPS):
        obs, reward, terminated, truncated, info = env.step(sample_action(env.action_space, action_mask(env, info)))
        yield copy.deepcopy((obs, reward, terminated, truncated))
        if terminated or truncated or time.perf_counter() > deadline:
            return


@dataclass(frozen=True)
class Attributes:
    """Environments whose state is in attributes with plain data: for each "module:Class" their names.

    A class derived from one of them may keep more and doesn't fit.
    """

    names: Mapping[str, tuple[str, ...]]

    def fits(self, env: gym.Env[Any, Any]) -> bool:
        """Whether it is of just such a class."""
        return _path(env) in self.names

    def get(self, env: gym.Env[Any, Any]) -> dict[str, Any]:
        """Return the attributes that exist; some don't before the first episode."""
        return {name: vars(env.unwrapped)[name] for name in self.names[_path(env)] if name in vars(env.unwrapped)}

    def put(self, env: gym.Env[Any, Any], state: Mapping[str, Any]) -> None:
        """Set them. Raises ValueError for one that such an environment doesn't keep."""
        if strange := state.keys() - set(self.names[_path(env)]):
            raise ValueError(f"{_path(env)} has no attribute {', '.join(sorted(strange))}")
        vars(env.unwrapped).update(state)


def classic_control() -> Attributes:
    """CartPole, Pendulum, Acrobot and both MountainCars."""
    module = "gymnasium.envs.classic_control"
    return Attributes(
        {
            f"{module}.acrobot:AcrobotEnv": ("state",),
            f"{module}.cartpole:CartPoleEnv": ("state", "steps_beyond_terminated"),
            f"{module}.continuous_mountain_car:Continuous_MountainCarEnv": ("state",),
            f"{module}.mountain_car:MountainCarEnv": ("state",),
            f"{module}.pendulum:PendulumEnv": ("state", "last_u"),
        }
    )


def toy_text() -> Attributes:
    """FrozenLake, Taxi, CliffWalking and Blackjack."""
    module, table = "gymnasium.envs.toy_text", ("s", "lastaction")
    hands = ("player", "dealer", "dealer_top_card_suit", "dealer_top_card_value_str")
    return Attributes(
        {
            f"{module}.blackjack:BlackjackEnv": hands,
            f"{module}.cliffwalking:CliffWalkingEnv": table,
            f"{module}.frozen_lake:FrozenLakeEnv": table,
            f"{module}.taxi:TaxiEnv": (*table, "fickle_step", "taxi_orientation"),
        }
    )


class MuJoCo:
    """gymnasium's own MuJoCo environments, version 5.

    The engine's state at the beginning of a step (positions, speeds, controls, the solver's warm start) isn't
    sufficient: observations and rewards also use quantities derived in the previous step. Recomputing them gives
    slightly different numbers, because a step ends with an integration.
    """

    derived: tuple[str, ...] = (
        *("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
        *("subtree_com", "cinert", "cvel", "cfrc_ext", "qacc", "qfrc_actuator", "qfrc_constraint", "sensordata"),
    )

    def fits(self, env: gym.Env[Any, Any]) -> bool:
        """Whether `env` is one of gymnasium's MuJoCo environments."""
        module = type(env.unwrapped).__module__
        return module.startswith("gymnasium.envs.mujoco.") and module.endswith("_v5")

    def get(self, env: gym.Env[Any, Any]) -> dict[str, Any]:
        """Return the engine's state and what was derived from the one before."""
        import mujoco

        raw: Any = env.unwrapped
        state = np.empty(mujoco.mj_stateSize(raw.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(raw.model, raw.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return {"state": state, **{name: np.array(getattr(raw.data, name)) for name in self.derived}}

    def put(self, env: gym.Env[Any, Any], state: Mapping[str, Any]) -> None:
        """Set both. Raises ValueError where a size is another model's."""
        import mujoco

        raw: Any = env.unwrapped
        for name in self.derived:
            place = getattr(raw.data, name)
            if np.shape(state[name]) != place.shape:
                raise ValueError(f"{name} has the size of another model")
            place[:] = state[name]
        try:
            mujoco.mj_setState(raw.model, raw.data, state["state"], mujoco.mjtState.mjSTATE_INTEGRATION)
        except TypeError as error:
            raise ValueError(f"the state is of another model: {error}") from error


def _path(env: gym.Env[Any, Any]) -> str:
    kind = type(env.unwrapped)
    return f"{kind.__module__}:{kind.__qualname__}"


def _wrappers(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


BASE = {"_saved_kwargs", *vars(gym.Wrapper(gym.Env()))}
CONSTANT_TYPES = (FunctionType, BuiltinFunctionType, MethodType, type, gym.Space)
"""What a wrapper is made with and doesn't change."""


def _wrapper_state(wrapper: gym.Wrapper[Any, Any, Any, Any]) -> dict[str, Any]:
    """What a wrapper keeps: all that every wrapper has, and all that it was made with, left out."""
    return {
        name: kept for name, kept in vars(wrapper).items() if name not in BASE and not isinstance(kept, CONSTANT_TYPES)
    }


def _pack(value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    if array.dtype.kind not in KINDS:
        raise TypeError(f"an array of {array.dtype} can't be saved: not plain data")
    if array.nbytes > LIMIT:
        raise ValueError(f"an array of {array.nbytes:,} bytes is too large")
    data = {"dtype": array.dtype.str, "data": base64.b64encode(array.tobytes()).decode()}
    return {"scalar": data} if isinstance(value, np.generic) else {"array": data | {"shape": list(array.shape)}}


def _unpack(value: Mapping[str, Any]) -> Any:
    packed = value["scalar"] if "scalar" in value else value["array"]
    dtype = np.dtype(str(packed["dtype"]))
    if dtype.kind not in KINDS or len(packed["data"]) > 2 * LIMIT:
        raise ValueError(f"can't be saved: not plain data: {dtype}")
    array = np.frombuffer(base64.b64decode(packed["data"], validate=True), dtype).copy()
    return array[0] if "scalar" in value else array.reshape(tuple(int(size) for size in packed["shape"]))


def _generator(state: dict[str, Any]) -> np.random.Generator:
    if state["bit_generator"] not in GENERATORS:
        raise ValueError(f"no generator: {state['bit_generator']}")
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)
