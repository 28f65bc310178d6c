"""envpool's environments do what pgzoo requires of a backend, and agree with gymnasium's."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pgzoo_envpool.backend import EnvpoolBackend, EnvpoolEnvs

from pgzoo.envs.single import make_single
from pgzoo.envs.sync import SyncBackend
from pgzoo.errors import UsageError
from pgzoo.types import EnvRequest, StepResult

BACKEND = EnvpoolBackend()


def request(env: str = "CartPole-v1", rows: int = 3, limit: int | None = None, **kwargs: Any) -> EnvRequest:
    return EnvRequest(env, kwargs, limit, rows)


def opened(env: str = "CartPole-v1", rows: int = 3, limit: int | None = None, **kwargs: Any) -> EnvpoolEnvs:
    return BACKEND.open(request(env, rows, limit, **kwargs))


def everybody(envs: EnvpoolEnvs, actions: Any) -> StepResult:
    return envs.step(np.asarray(actions), np.ones(len(actions), np.bool_))


def actions(space: gym.Space[Any], rows: int, steps: int) -> Any:
    """Return random actions; those of a row don't depend on the number of rows."""
    each = []
    for row in range(rows):
        space.seed(row)
        each.append([space.sample() for _ in range(steps)])
    return np.stack([np.array(one) for one in each], axis=1)


def playing(steps: int, what: EnvRequest) -> dict[str, Any]:
    envs = BACKEND.open(what)
    seen: dict[str, list[Any]] = {"obs": [envs.reset(np.arange(what.rows) + 10)]}
    for action in actions(envs.action_space, what.rows, steps):
        for name, value in everybody(envs, action)._asdict().items():
            if value is not None:  # info
                seen.setdefault(name, []).append(value)
    envs.close()
    return {name: np.stack(values) for name, values in seen.items()}


@pytest.mark.parametrize("env", ["CartPole-v1", "LunarLander-v3", "Pendulum-v1", "HalfCheetah-v5"])
def test_a_row_depends_only_on_its_own_seed_and_actions(env: str) -> None:
    few, many = (playing(80, request(env, rows, limit=25)) for rows in (2, 11))
    assert few["truncated"].any()
    for name, values in few.items():
        assert np.array_equal(values, many[name][:, :2]), name


def test_the_number_of_threads_does_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = playing(60, request("LunarLander-v3", 5))
    monkeypatch.setenv("PGZOO_ENVPOOL_THREADS", "3")
    for name, values in playing(60, request("LunarLander-v3", 5)).items():
        assert np.array_equal(values, alone[name]), name


@pytest.mark.parametrize("said", ["0", "two", "-1", ""])
def test_an_invalid_number_of_threads_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGZOO_ENVPOOL_THREADS", said)
    with pytest.raises(UsageError, match=f"PGZOO_ENVPOOL_THREADS={said}: give a number of threads, at least 1"):
        opened()


def test_all_32_bits_of_a_seed_are_used() -> None:
    envs = opened(rows=5)
    starts = envs.reset(np.array([1, 1 + 2**31, 2**32 - 1, 2, 1]))
    assert len(np.unique(starts, axis=0)) == 4
    assert np.array_equal(starts[0], starts[4])


@pytest.mark.parametrize(("env", "length"), [("LunarLander-v3", 40), ("CartPole-v1", 7)])
def test_a_reset_with_the_same_seeds_reproduces_the_observations(env: str, length: int) -> None:
    envs, seeds = opened(env), np.array([4, 5, 6])
    moves = actions(envs.action_space, 3, length)
    first = [envs.reset(seeds), *(everybody(envs, move).obs for move in moves)]
    for again in range(2):
        got = [envs.reset(seeds), *(everybody(envs, move).obs for move in moves)]
        assert np.array_equal(np.stack(first), np.stack(got)), again
    assert not np.array_equal(envs.reset(seeds + 3)[0], first[0][0])


def test_returned_arrays_are_not_overwritten_later() -> None:
    envs = opened(limit=4)
    seen = [envs.reset(np.arange(3))]
    kept = [seen[0].copy()]
    for t in range(40):
        step = envs.step(np.full(3, t % 2), np.array([True, t % 3 > 0, True]))
        seen += [step.obs, step.truncated]
        kept += [step.obs.copy(), step.truncated.copy()]
    envs.reset(np.arange(3))
    assert all(np.array_equal(a, b) for a, b in zip(seen, kept, strict=True))


# termination and truncation


def balanced_until(limit: int | None) -> tuple[int, bool, bool]:
    """Push the cart right until the episode ends; return its length, and whether it was terminated and truncated."""
    envs = opened(rows=1, limit=limit)
    envs.reset(np.zeros(1, np.int64))
    for step in range(1, 100):
        result = everybody(envs, [1])
        if result.terminated[0] or result.truncated[0]:
            return step, bool(result.terminated[0]), bool(result.truncated[0])
    raise AssertionError("no end")


def test_an_episode_that_terminates_at_its_time_limit_is_also_truncated() -> None:
    length, terminated, truncated = balanced_until(None)
    assert (terminated, truncated) == (True, False)
    assert balanced_until(length + 1) == (length, True, False)
    assert balanced_until(length) == (length, True, True)
    assert balanced_until(length - 1) == (length - 1, False, True)


def test_the_step_after_the_end_of_an_episode_only_resets() -> None:
    seen = playing(200, request(rows=4, limit=20))
    over = seen["terminated"] | seen["truncated"]
    after = np.zeros_like(over)
    after[1:] = over[:-1]
    assert over.sum() > 20 and seen["truncated"].any() and seen["terminated"].any()
    assert not over[after].any() and not seen["rewards"][after].any()
    assert (seen["rewards"][~after] == 1).all()
    fresh, final = seen["obs"][1:][after], seen["obs"][1:][over & seen["terminated"]]
    assert np.abs(fresh).max() <= 0.05
    assert ((np.abs(final[:, 0]) > 2.4) | (np.abs(final[:, 2]) > 12 * np.pi / 180)).all()


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "LunarLander-v3", "MountainCar-v0", "FrozenLake-v1"])
def test_the_default_time_limit_is_that_of_gymnasium(env: str) -> None:
    limit = gym.spec(env).max_episode_steps
    assert opened(env)._limit == limit
    assert opened(env, limit=3)._limit == 3


def test_an_environment_without_a_time_limit_is_not_truncated() -> None:
    assert not playing(300, request("CliffWalking-v1", 2))["truncated"].any()


# rows that are not live, and selected rows


def test_a_row_that_is_not_live_is_not_stepped() -> None:
    envs, other = opened(rows=2), opened(rows=2)
    starts = envs.reset(np.array([0, 1]))
    other.reset(np.array([0, 1]))
    for _ in range(5):
        step = envs.step(np.array([1, 1]), np.array([True, False]))
        assert np.array_equal(step.obs[1], starts[1]) and not step.rewards[1]
    late = envs.step(np.array([0, 1]), np.array([True, True]))
    assert np.array_equal(late.obs[1], everybody(other, [1, 1]).obs[1])


@pytest.mark.parametrize("limit", [2, None])
def test_a_row_that_was_not_live_after_its_episode_ended_resets_when_live_again(limit: int | None) -> None:
    envs = opened(rows=2, limit=limit)
    envs.reset(np.array([0, 1]))
    ended = np.zeros(1, np.bool_)
    while not ended.any():
        step = envs.step(np.array([1, 1]), np.array([False, True]))
        ended = (step.terminated | step.truncated)[1:]
    for _ in range(3):
        envs.step(np.array([1, 1]), np.array([True, False]))
    fresh = everybody(envs, [1, 1])
    assert np.abs(fresh.obs[1]).max() <= 0.05 and fresh.rewards[1] == 0
    assert everybody(envs, [1, 1]).rewards[1] == 1


def test_rows_that_are_selected_twice_continue_as_among_all_rows() -> None:
    whole, envs = opened(rows=6, limit=9), opened(rows=6, limit=9)
    moves = actions(whole.action_space, 6, 40)
    whole.reset(np.arange(6))
    envs.reset(np.arange(6))
    rows = np.arange(6)
    for t, move in enumerate(moves):
        if t in (7, 19):
            part = np.array([1, 3, 5])[: len(rows) // 2]
            envs, rows = envs.select(part), rows[part]
        expected, got = everybody(whole, move), everybody(envs, move[rows])
        for a, b in zip(expected[:4], got[:4], strict=True):
            assert np.array_equal(a[rows], b), t


# agreement with gymnasium


def test_pendulum_has_the_same_dynamics_as_in_gymnasium() -> None:
    envs, theirs = opened("Pendulum-v1", rows=1), make_single(request("Pendulum-v1"))
    cosine, sine, speed = (float(x) for x in envs.reset(np.array([3]))[0])
    theirs.reset(seed=0)
    plain: Any = theirs.unwrapped
    plain.state = np.array([np.arctan2(sine, cosine), speed])
    rng = np.random.default_rng(1)
    for _ in range(200):
        push = rng.uniform(-2, 2, 1).astype(np.float32)
        ours = everybody(envs, [push])
        obs, reward, terminated, truncated, _ = theirs.step(push)
        np.testing.assert_allclose(ours.obs[0], obs, atol=2e-3)
        assert ours.rewards[0] == pytest.approx(float(reward), abs=2e-3)
        assert (ours.terminated[0], ours.truncated[0]) == (terminated, truncated)
    assert truncated


@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1", "FrozenLake-v1", "Pendulum-v1", "LunarLander-v3"])
def test_spaces_shapes_and_dtypes_are_those_of_gymnasium(env: str) -> None:
    ours, theirs = opened(env), SyncBackend().open(request(env))
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    first, other = ours.reset(np.arange(3)), theirs.reset(np.arange(3))
    assert (first.shape, first.dtype) == (other.shape, other.dtype)
    assert all(ours.observation_space.contains(obs) for obs in first)
    move = actions(ours.action_space, 3, 1)[0]
    for a, b in zip(everybody(ours, move)[:4], theirs.step(move, np.ones(3, np.bool_))[:4], strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("env", ["LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3"])
def test_a_random_policy_has_the_same_mean_return_and_length_as_in_gymnasium(env: str) -> None:
    """Means over some hundred episodes differ by less than four standard errors. `auto` selects envpool for these."""
    found = []
    for envs in (BACKEND.open(request(env, 64)), SyncBackend().open(request(env, 64))):
        rng, space = np.random.default_rng(0), envs.action_space
        envs.reset(np.arange(64))
        left, ended = np.full(64, 6), np.zeros(64, np.bool_)
        now, episodes = np.zeros((64, 2)), []
        while left.any():
            live = left > 0
            shape = (64, *(space.shape or ()))
            move = rng.integers(space.n, size=64) if isinstance(space, Discrete) else rng.uniform(-1, 1, shape)
            step = envs.step(move.astype(space.dtype), live)
            now[live & ~ended] += np.stack([step.rewards, np.ones(64)], 1)[live & ~ended]
            ended = (step.terminated | step.truncated) & live & ~ended
            episodes += now[ended].tolist()
            now[ended] = 0
            left = left - ended
        found.append(np.array(episodes))
    ours, theirs = found
    error = np.sqrt((ours.var(0) + theirs.var(0)) / len(ours))
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error + 1e-9).all(), (ours.mean(0), theirs.mean(0), error)


# supported environments


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (request("Nowhere-v0"), "has no such environment"),
        (request("Taxi-v4"), "has no such environment"),
        (request("pgzoo/AnySpaces-v0"), "has no such environment"),
        (request("LunarLander-v3", gravity=-5.0), "it takes no environment keyword gravity"),
        (request("HalfCheetah-v5", num_envs=3), "takes no environment keyword num_envs; it takes ctrl_cost_weight, "),
        (request("HalfCheetah-v5", frame_skip="many"), "envpool doesn't take these keywords"),
        (request("Blackjack-v1"), "show Box(0, 31, (3,), int32), gymnasium's Tuple("),
    ],
)
def test_fits_says_why_a_request_is_not_supported(what: EnvRequest, reason: str) -> None:
    assert reason in BACKEND.fits(what)


@pytest.mark.parametrize(
    ("env", "shown", "taken"),
    [
        ("LunarLander-v2", Box(-np.inf, np.inf, (8,)), Discrete(4)),
        ("Taxi-v3", Discrete(500), Discrete(6)),
        ("HalfCheetah-v3", Box(-np.inf, np.inf, (17,), np.float64), Box(-1.0, 1.0, (6,))),
    ],
)
def test_envpool_runs_environments_that_gymnasium_no_longer_supports(
    env: str, shown: gym.Space[Any], taken: gym.Space[Any]
) -> None:
    assert BACKEND.fits(request(env)) == ""
    envs = opened(env, rows=2)
    assert (envs.observation_space, envs.action_space) == (shown, taken)
    obs = envs.reset(np.arange(2))
    assert obs.dtype == shown.dtype and all(shown.contains(one) for one in obs)
    step = everybody(envs, actions(taken, 2, 1)[0])
    assert (step.obs.dtype, step.rewards.dtype) == (shown.dtype, np.float64)


def test_environment_keywords_are_passed_to_envpool() -> None:
    free, usual = (playing(20, request("HalfCheetah-v5", 2, **k)) for k in ({"ctrl_cost_weight": 0.0}, {}))
    assert np.array_equal(free["obs"], usual["obs"])
    assert (free["rewards"] > usual["rewards"]).all()
    assert opened("HalfCheetah-v5", exclude_current_positions_from_observation=False).observation_space.shape == (18,)


def test_envpool_is_preferred_for_box2d_with_eight_or_more_environments() -> None:
    assert [BACKEND.preferred(request("LunarLander-v3", rows)) for rows in (1, 7, 8, 4096)] == [
        False,
        False,
        True,
        True,
    ]
    assert not any(BACKEND.preferred(request(env, 64)) for env in ("CartPole-v1", "HalfCheetah-v5", "LunarLander-v2"))
