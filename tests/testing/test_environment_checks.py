"""Every check of environment states and dynamics can fail: for each there is a faulty one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from failing_checks import assert_fails, failing, named_by_faulty_plugins
from gymnasium.spaces import Box

from pgzoo.envs.dynamics import cartpole
from pgzoo.registry import PluginCatalog, PluginInfo, Registry
from pgzoo.testing.checks import CHECKS, CheckFailed, CheckTarget
from pgzoo.types import Array


class Walk(gym.Env[Any, Any]):
    """A random walk whose rewards grow with the number of steps."""

    observation_space, action_space = Box(-100.0, 100.0, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.path = self.np_random.normal(), [0.0]
        return np.array([self.place], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += float(action) - 0.5 + self.np_random.normal()
        self.path.append(self.place)
        return np.array([self.place], np.float32), float(len(self.path)), len(self.path) > 30, False, {}


class SaveWalk:
    """Saves and restores a `Walk`."""

    def fits(self, env: Any) -> bool:
        return isinstance(env.unwrapped, Walk)

    def get(self, env: Any) -> Any:
        return {"place": env.unwrapped.place, "path": env.unwrapped.path}

    def put(self, env: Any, state: Any) -> None:
        vars(env.unwrapped).update(state)


class SavesPlaceOnly(SaveWalk):
    def get(self, env: Any) -> Any:
        return {"place": env.unwrapped.place}


class SavesSet(SaveWalk):
    def get(self, env: Any) -> Any:
        return set(env.unwrapped.path)


class FailsForOthers(SaveWalk):
    def fits(self, env: Any) -> bool:
        return bool(env.unwrapped.path is not None)


@pytest.fixture
def walk() -> Iterator[None]:
    gym.register("Walk-v0", Walk, max_episode_steps=20)
    yield
    gym.registry.pop("Walk-v0")


@pytest.mark.usefixtures("walk")
def test_an_environment_state_that_saves_everything_passes_all_checks() -> None:
    assert failing("env_state", SaveWalk) == {}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (SavesPlaceOnly, "restores Walk-v0, saved after step 1, to another state: another reward in step 1"),
        (SavesSet, "fails to save and restore Walk-v0: TypeError: builtins.set can't be saved: not plain data"),
        (FailsForOthers, "AttributeError"),
        (SaveWalk(), 'fails to be created: The environment state "broken" can\'t be created: TypeError'),
    ],
)
@pytest.mark.usefixtures("walk")
def test_an_environment_state_with_one_fault_fails_only_the_check_for_it(target: Any, said: str) -> None:
    assert_fails(failing("env_state", target), "continues-exactly", said, 'Environment state "broken"')


def late_end(state: Array, action: int, random: Array, constants: Array) -> tuple[float, bool]:
    return cartpole.step(state, action, random, constants)[0], False


def beyond_the_state(state: Array, random: Array, constants: Array) -> None:
    state[4] = 0.0


DYNAMICS: list[tuple[dict[str, Any], str, str]] = [
    ({"step": late_end}, "equals-gymnasium", "by 1 in end flags"),
    ({"reset": beyond_the_state}, "equals-gymnasium", "IndexError"),
]


@pytest.mark.parametrize(("changes", "check", "said"), DYNAMICS)
def test_dynamics_that_differ_from_gymnasium_or_raise_fail_their_check(
    changes: dict[str, Any], check: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgzoo.ops.jit.available", lambda: False)  # compiling them would take seconds
    info, catalog = PluginInfo("broken", "entry point", "broken", "pgzoo-broken", "1.0"), PluginCatalog()
    registry = Registry(info)
    registry.dynamics("mine", lambda env: replace(cartpole.dynamics(env), **changes), envs=("CartPole-v1",))
    catalog.add(info, object(), registry.entries.values())
    with pytest.raises(CheckFailed, match=f'Dynamics "mine" of plugin "broken".*CartPole-v1.*{said}'):
        CHECKS["dynamics"][check](CheckTarget(info, catalog, catalog.get("dynamics", "mine")))


def test_every_check_of_dynamics_and_environment_states_has_one_that_fails_it() -> None:
    assert {check for _, check, _ in DYNAMICS} | named_by_faulty_plugins("dynamics") == set(CHECKS["dynamics"])
    assert named_by_faulty_plugins("env_state") == set(CHECKS["env_state"])
