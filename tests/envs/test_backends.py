"""Environment backends: all have the same semantics, and their rows are independent of each other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pgzoo.envs.asynchronous import AsyncBackend
from pgzoo.envs.native import NativeBackend
from pgzoo.envs.single import make_single
from pgzoo.envs.sync import SyncBackend
from pgzoo.errors import EnvError
from pgzoo.protocols import EnvBackend, VectorEnv
from pgzoo.types import EnvRequest

BACKENDS: dict[str, EnvBackend] = {"sync": SyncBackend(), "native": NativeBackend(), "async": AsyncBackend()}
CHEAP = ["sync", "native"]


def request(env: str = "CartPole-v1", rows: int = 3, limit: int | None = None, **kwargs: Any) -> EnvRequest:
    return EnvRequest(env, kwargs, limit, rows)


def actions(envs: VectorEnv, rows: int, steps: int) -> Any:
    """Return actions `[steps, rows]`; those of a row don't depend on the number of rows."""
    space = envs.action_space
    each = []
    for row in range(rows):
        space.seed(row)
        each.append([space.sample() for _ in range(steps)])
    return np.stack([np.array(one) for one in each], axis=1)


def playing(backend: str, steps: int, what: EnvRequest) -> dict[str, Any]:
    envs = BACKENDS[backend].open(what)
    seen: dict[str, list[Any]] = {"obs": [envs.reset(np.arange(what.rows) + 10)]}
    for action in actions(envs, what.rows, steps):
        step = envs.step(action, np.ones(what.rows, np.bool_))
        for name, value in zip(step._fields[:4], step, strict=False):
            seen.setdefault(name, []).append(np.array(value))
    envs.close()
    return {name: np.stack(values) for name, values in seen.items()}


# native CartPole compared with gymnasium's


def balancing(obs: Any) -> int:
    """Push in the direction in which the pole is falling."""
    return int(obs[2] + obs[3] > 0)


@pytest.mark.parametrize("sutton_barto_reward", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_native_cartpole_matches_gymnasium_step_by_step(sutton_barto_reward: bool, seed: int) -> None:
    limit = 30 if seed == 0 else None  # with seed 0 the pole is balanced until truncation
    what = request(rows=1, limit=limit, sutton_barto_reward=sutton_barto_reward)
    native, theirs = NativeBackend().open(what), make_single(what)
    obs = native.reset(np.array([seed]))[0]
    theirs.reset(seed=seed)
    env: Any = theirs.unwrapped
    env.state = obs.astype(np.float64)
    rng, over, steps = np.random.default_rng(seed), False, 0
    while not over:
        action = balancing(obs) if seed == 0 else int(rng.integers(2))
        ours = native.step(np.array([action]), np.ones(1, np.bool_))
        obs, reward, terminated, truncated, _ = theirs.step(action)
        np.testing.assert_allclose(ours.obs[0], obs, rtol=1e-5, atol=1e-6)
        assert (ours.rewards[0], ours.terminated[0], ours.truncated[0]) == (reward, terminated, truncated)
        over, steps = terminated or truncated, steps + 1
    assert steps == 30 and truncated and not terminated if seed == 0 else terminated


def test_start_states_are_uniform_in_gymnasiums_range() -> None:
    states = NativeBackend().open(request(rows=20_000)).reset(np.arange(20_000))
    assert np.abs(states).max() <= 0.05
    assert states.mean(0) == pytest.approx(np.zeros(4), abs=1e-3)
    assert states.std(0) == pytest.approx(np.full(4, 0.1 / 12**0.5), rel=0.02)
    assert np.abs(np.corrcoef(states.T) - np.eye(4)).max() < 0.03
    assert len(np.unique(states, axis=0)) == len(states)


def test_every_episode_starts_in_a_different_state() -> None:
    envs: Any = NativeBackend().open(request(rows=2, limit=1))
    states = [envs.reset(np.array([0, 1]))]
    for _ in range(100):
        envs.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
        states.append(envs.step(np.zeros(2, np.int64), np.ones(2, np.bool_)).obs)
    assert len(np.unique(np.concatenate(states), axis=0)) == 202


@pytest.mark.parametrize(("env", "steps"), [("CartPole-v0", 200), ("CartPole-v1", 500)])
def test_native_cartpole_truncates_at_the_registered_step_limit(env: str, steps: int) -> None:
    envs = NativeBackend().open(request(env, rows=1))
    obs = envs.reset(np.zeros(1, np.int64))
    for step in range(1, steps + 1):
        result = envs.step(np.array([balancing(obs[0])]), np.ones(1, np.bool_))
        obs = result.obs
        assert bool(result.truncated[0]) == (step == steps) and not result.terminated[0]


def test_native_backend_says_why_it_does_not_support_an_environment() -> None:
    assert NativeBackend().fits(request()) == ""
    assert NativeBackend().fits(request("Acrobot-v1")) == "it runs CartPole-v0 and CartPole-v1 only"
    assert "gravity" in NativeBackend().fits(request(gravity=3.0))


# the contract of every backend


@pytest.mark.parametrize(
    ("backend", "env"), [("sync", "CartPole-v1"), ("native", "CartPole-v1"), ("sync", "Pendulum-v1")]
)
def test_a_row_depends_only_on_its_own_seed_and_actions(backend: str, env: str) -> None:
    few, many = (playing(backend, 80, request(env, rows, limit=25)) for rows in (2, 11))
    assert few["terminated"].any() or few["truncated"].any()
    for name, values in few.items():
        assert np.array_equal(values, many[name][:, :2]), name


@pytest.mark.parametrize("backend", CHEAP)
def test_the_step_after_the_end_of_an_episode_only_resets(backend: str) -> None:
    seen = playing(backend, 200, request(rows=4, limit=20))
    over = seen["terminated"] | seen["truncated"]
    after = np.zeros_like(over)
    after[1:] = over[:-1]
    assert over.sum() > 20 and seen["truncated"].any() and seen["terminated"].any()
    assert not over[after].any() and not seen["rewards"][after].any()
    assert (seen["rewards"][~after] == 1).all()
    fresh, final = seen["obs"][1:][after], seen["obs"][1:][over & seen["terminated"]]
    assert np.abs(fresh).max() <= 0.05
    assert ((np.abs(final[:, 0]) > 2.4) | (np.abs(final[:, 2]) > 12 * np.pi / 180)).all()


def test_sync_backend_matches_gymnasiums_sync_vector_env() -> None:
    theirs = gym.vector.SyncVectorEnv([lambda: make_single(request(limit=20))] * 3)
    ours = SyncBackend().open(request(limit=20))
    assert np.array_equal(theirs.reset(seed=[10, 11, 12])[0], ours.reset(np.array([10, 11, 12])))
    for action in actions(ours, 3, 120):
        expected, got = theirs.step(action), ours.step(action, np.ones(3, np.bool_))
        for a, b in zip(expected[:4], got[:4], strict=True):
            assert np.array_equal(a, b)
    theirs.close()


@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake-v1", "Pendulum-v1"])
def test_async_backend_returns_the_same_as_the_sync_backend(env: str) -> None:
    what = request(env, rows=2, limit=12)
    apart, here = playing("async", 40, what), playing("sync", 40, what)
    for name, values in here.items():
        assert np.array_equal(values, apart[name]), name


def test_processes_of_the_async_backend_ignore_signals_that_their_parent_handles() -> None:
    envs: Any = AsyncBackend().open(request(rows=1))
    process = envs._envs.processes[0]
    envs.reset(np.array([1]))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        os.kill(process.pid, number)
    for _ in range(2):
        assert envs.step(np.array([1]), np.ones(1, np.bool_)).rewards.tolist() == [1.0]
    envs._broken = True  # such as after a second Ctrl-C
    envs.close()
    assert process.exitcode == -signal.SIGKILL


def test_an_async_backend_that_cannot_be_opened_kills_its_own_processes_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own: list[Any] = []
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))

    def fail(envs: Any) -> None:
        own.extend(envs.processes)
        other.start()  # as another thread may at any moment
        raise OSError("no memory")

    monkeypatch.setattr(gym.vector.AsyncVectorEnv, "_check_spaces", fail)
    with pytest.raises(EnvError, match="raised OSError: no memory in its constructor"):
        AsyncBackend().open(request(rows=1))
    [process] = own
    process.join(30.0)
    try:
        assert process.exitcode == -signal.SIGKILL
        other.join(0.2)
        assert other.exitcode is None
    finally:
        other.kill()
        other.join()


def test_a_process_of_the_async_backend_that_cannot_be_started_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(process: Any) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", fail)
    with pytest.raises(EnvError, match="raised BlockingIOError: no more processes in its constructor"):
        AsyncBackend().open(request(rows=1))


def test_a_row_that_is_not_live_is_not_stepped() -> None:
    envs: Any = SyncBackend().open(request("probe/Scripted-v0", rows=2))
    envs.reset(np.array([0, 1]))
    live = np.array([True, False])
    for _ in range(9):
        obs = envs.step(np.zeros(2, np.int64), live).obs
    assert obs[1].tolist() == [1, 0]


def test_a_row_paused_at_the_end_of_an_episode_resets_in_its_next_step() -> None:
    envs: Any = SyncBackend().open(request("probe/Scripted-v0", rows=2))
    envs.reset(np.array([0, 1]))  # episode 1 has two steps
    both, first = np.array([True, True]), np.array([True, False])
    step = [envs.step(np.zeros(2, np.int64), live) for live in (both, both, first, both)]
    assert step[1].truncated[1]
    assert step[3].obs[1].tolist() == [2, 0] and step[3].rewards[1] == 0


@pytest.mark.parametrize(
    ("observation", "size"), [("multi-discrete", 5), ("multi-binary", 4), ("tuple", 4), ("dict", 4), ("matrix", None)]
)
def test_composite_observations_are_flattened_and_others_are_not(observation: str, size: int | None) -> None:
    envs = SyncBackend().open(request("probe/AnySpaces-v0", rows=2, observation=observation))
    obs = envs.reset(np.array([1, 2]))
    assert obs.shape == ((2, size) if size else (2, 2, 3))
    assert envs.observation_space.contains(obs[0])
    plain: Any = gym.make("probe/AnySpaces-v0", observation=observation, disable_env_checker=True)
    raw, _ = plain.reset(seed=1)
    assert np.array_equal(obs[0].ravel(), gym.spaces.flatten(plain.observation_space, raw))


def test_a_custom_step_limit_replaces_that_of_the_environment() -> None:
    assert playing("sync", 7, request("Pendulum-v1", rows=1, limit=7))["truncated"].ravel().tolist() == [False] * 6 + [
        True
    ]
