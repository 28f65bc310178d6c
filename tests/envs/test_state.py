"""Environment states are saved and restored bit for bit, and data from a file is never executed."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pgzoo.envs import state
from pgzoo.envs.choice import make_states
from pgzoo.envs.native import NativeBackend
from pgzoo.envs.sync import SyncBackend
from pgzoo.errors import EnvError, PluginError
from pgzoo.registry import PluginCatalog, PluginInfo, Registry
from pgzoo.testing.probes import Corridor
from pgzoo.types import EnvRequest

STATES = (state.classic_control(), state.toy_text(), state.MuJoCo())
IDS = "CartPole-v1 Pendulum-v1 Acrobot-v1 MountainCar-v0 MountainCarContinuous-v0 FrozenLake-v1 Blackjack-v1 Taxi-v4"
ROBOTS = (
    "Ant HalfCheetah Hopper Humanoid HumanoidStandup InvertedDoublePendulum InvertedPendulum Pusher Reacher Swimmer"
)
NO_MUJOCO = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None, reason="needs mujoco: pip install 'pgzoo[mujoco]'"
)
NO_BOX2D = pytest.mark.skipif(
    importlib.util.find_spec("Box2D") is None, reason="needs Box2D: pip install 'pgzoo[box2d]'"
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ARRAYS = hnp.arrays(st.sampled_from(["f4", "f8", "i8", "u1", "?", "U3"]), hnp.array_shapes(min_dims=0, min_side=0))
HASHABLE = st.integers() | st.text()


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@given(
    st.recursive(
        PLAIN | ARRAYS,
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(HASHABLE, inner),
        max_leaves=8,
    )
)
def test_plain_data_is_unchanged_by_encoding_and_decoding(value: Any) -> None:
    assert same(state.decode(through_json(state.encode(value))), value)


def test_infinity_nan_numpy_scalars_generators_and_deques_are_preserved() -> None:
    rng = np.random.default_rng(3)
    told = through_json(state.encode([float("inf"), np.float32(0.1), rng, deque([1, 2], maxlen=2)]))
    infinite, scalar, again, queue = state.decode(told)
    assert infinite == float("inf") and same(scalar, np.float32(0.1)) and queue.maxlen == 2
    assert again.random(9).tolist() == rng.random(9).tolist()
    assert np.isnan(state.decode(state.encode(float("nan"))))


@pytest.mark.parametrize("value", [object(), lambda: 0, np.array([object()]), {1, 2}, np.zeros(1, "i4,i4")])
def test_encoding_values_that_are_not_plain_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="not plain data"):
        state.encode([value])


@pytest.mark.parametrize(
    "told",
    [
        {"array": {"dtype": "O", "data": "AAAAAAAAAAA=", "shape": [1]}},
        {"array": {"dtype": "<f8", "data": "AAAA", "shape": [10**12]}},
        {"array": {"dtype": "<f8", "data": "AAAAAAAAAAA=", "shape": [10**12]}},
        {"scalar": {"dtype": "V8", "data": "AAAAAAAAAAA="}},
        {"generator": {"dict": [["bit_generator", "BitGenerator"]]}},
        {"generator": {"dict": [["bit_generator", "PCG64"], ["state", 1]]}},
        {"float": "1.5"},
        {"call": "os.system"},
    ],
)
def test_decoding_invalid_data_is_refused(told: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        state.decode(told)


def test_data_that_is_nested_too_deeply_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    for way in (state.encode, state.decode):
        with pytest.raises(ValueError, match="too deep"):
            way(deep)
    monkeypatch.setattr(state, "LIMIT", 100)
    with pytest.raises(ValueError, match="too large"):
        state.encode(np.zeros(13))


def going_on_equals(backend: Any, what: EnvRequest, cut: int, steps: int = 300) -> bool:
    """Return whether new environments, restored to the states of others after `cut` steps, continue identically."""
    live, envs = np.ones(what.rows, np.bool_), backend.open(what)
    envs.action_space.seed(1)
    actions = [np.stack([envs.action_space.sample() for _ in live]) for _ in range(cut + steps)]
    envs.reset(np.arange(what.rows) + 5)
    for action in actions[:cut]:
        envs.step(action, live)
    fresh = backend.open(what)
    fresh.reset(np.arange(what.rows) + 99)
    fresh.restore(through_json(envs.save()))
    for action in actions[cut:]:
        for a, b in zip(envs.step(action, live)[:4], fresh.step(action, live)[:4], strict=True):
            if a.tobytes() != b.tobytes():
                return False
        if envs.action_mask is not None and not np.array_equal(envs.action_mask, fresh.action_mask):
            return False
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "env",
    [*IDS.split(), *(pytest.param(f"{name}-v5", marks=NO_MUJOCO) for name in [*ROBOTS.split(), "Walker2d"])],
)
@pytest.mark.parametrize("cut", [0, 1, 50, 51])
def test_a_restored_environment_continues_bit_for_bit(env: str, cut: int) -> None:
    limit = None if env == "Blackjack-v1" else 50  # after step 50 many episodes have just ended
    assert going_on_equals(SyncBackend(), EnvRequest(env, {}, limit, 3, STATES), cut)


def test_restored_native_cartpole_continues_bit_for_bit() -> None:
    assert going_on_equals(NativeBackend(), EnvRequest("CartPole-v1", {}, 50, 3), 50)


def test_restoring_leaves_rows_without_a_saved_state_unchanged() -> None:
    for backend in (SyncBackend(), NativeBackend()):
        envs: Any = backend.open(EnvRequest("CartPole-v1", {}, None, 2, STATES))
        envs.reset(np.array([1, 2]))
        first, second = through_json(envs.save())
        envs.reset(np.array([8, 9]))
        kept = envs.save()[0]
        envs.restore([None, second])
        assert through_json(envs.save()) == [through_json(kept), second] and kept != first


def test_saving_an_unknown_environment_returns_none() -> None:
    class Heavier(gym.envs.classic_control.CartPoleEnv):
        """A subclass, which may have more state than its parent."""

    assert state.save(Heavier(), STATES) is None
    envs = SyncBackend().open(EnvRequest("probe/Corridor-v0", {}, None, 2, STATES))
    envs.reset(np.array([1, 2]))
    assert envs.save() is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("env", "forgets"),
    [
        ("CartPole-v1", True),
        ("probe/AnySpaces-v0", True),
        ("probe/Trap-v0", True),
        ("probe/LeakyReset-v0", False),
        pytest.param("LunarLander-v3", True, marks=NO_BOX2D),
        pytest.param("BipedalWalker-v3", False, marks=NO_BOX2D),  # its physics world is made once, and keeps state
    ],
)
def test_complete_and_incomplete_resets_are_detected_by_trial(env: str, forgets: bool) -> None:
    assert state.reset_is_complete(gym.make(env, disable_env_checker=True), ()) is forgets


def test_resets_of_an_environment_with_a_known_state_are_not_tried() -> None:
    class Broken(gym.Env[Any, Any]):
        """An environment that can't be reset or stepped."""

    assert state.reset_is_complete(Broken(), (state.Attributes({state._path(Broken()): ()}),))


def test_the_resets_of_a_known_environment_are_tried_if_a_wrapper_may_remember_something() -> None:
    class Counting(gym.ObservationWrapper[Any, Any, Any]):
        """Adds the number of all observations so far."""

        seen = 0

        def observation(self, observation: Any) -> Any:
            self.seen += 1
            return observation + np.float32(self.seen)

    assert state.reset_is_complete(
        gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1)), STATES
    )
    assert not state.reset_is_complete(Counting(gym.make("CartPole-v1")), STATES)


def test_trying_the_resets_of_a_slow_environment_stops_early() -> None:
    steps = []

    class Slow(Corridor):
        def step(self, action: Any) -> Any:
            time.sleep(0.05)
            steps.append(action)
            return super().step(action)

    assert state.reset_is_complete(Slow(), ())
    assert len(steps) < 3 * state.TRIED_SECONDS / 0.05  # each of the eight tries takes up to 150 steps


def test_restoring_fails_with_other_wrappers_or_without_a_plugin() -> None:
    env = gym.make("CartPole-v1", disable_env_checker=True)
    env.reset(seed=1)
    saved = state.save(env, STATES)
    with pytest.raises(ValueError, match="the saved environment had the wrappers TimeLimit, OrderEnforcing"):
        state.restore(env.env, saved, STATES)
    with pytest.raises(ValueError, match="no plugin here"):
        state.restore(env, saved, ())


class Raising(state.Attributes):
    """Raises in one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__(state.classic_control().names)
        setattr(self, method, self.fail)

    def fail(self, *_: Any) -> Any:
        raise KeyError("x")


@pytest.mark.parametrize("method", ["fits", "get", "put"])
def test_an_exception_of_an_environment_state_names_it_and_the_environment(method: str) -> None:
    env = gym.make("CartPole-v1", disable_env_checker=True)
    env.reset(seed=1)
    adapter = Raising(method)
    message = f"\"CartPole-v1\" raised KeyError: 'x' in {method} of the environment state Raising"
    with pytest.raises(EnvError, match=message):
        state.restore(env, state.save(env, (adapter,)), (adapter,))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (state.classic_control(), 'The environment state "mine" can\'t be created: TypeError'),
        (dict, 'The environment state "mine" has no method fits and no method put. Register a class, or a function'),
    ],
)
def test_an_environment_state_that_cannot_be_created_is_an_error(target: Any, said: str) -> None:
    registry, catalog = Registry(PluginInfo("mine", "import", "mine")), PluginCatalog()
    registry.env_state("mine", target)
    catalog.add(registry.plugin, object(), registry.entries.values())
    with pytest.raises(PluginError, match=re.escape(said)):
        make_states(catalog)
