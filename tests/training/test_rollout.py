"""Collecting trajectories from scripted environments, of which every observation and reward is known.

Episode k of the script has observations `[k, t]` and rewards 10 k + t at step t = 1, 2, .... Episodes have, in turn,
3 steps (terminated), 2 (truncated), 1 (both) and 4 (terminated).
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest

from pgzoo.envs.sync import SyncBackend
from pgzoo.errors import RunFailed
from pgzoo.training.behavior import Behavior, Greedy, Noise
from pgzoo.training.rollout import collect, reset_all
from pgzoo.training.tape import FinishedEpisodes
from pgzoo.types import Collector, EnvRequest, Trajectory


class Counting:
    """A policy whose action is the number of its previous calls, modulo 2; it asks for uniform noise."""

    noise, noise_size = "uniform", 3

    def __init__(self) -> None:
        self.members: list[int] = []
        """The number of members in each call."""

    def __call__(self, seen: Any, noise: Any) -> Any:
        self.members.append(len(seen.obs))
        return np.full(seen.obs.shape[:2], (len(self.members) - 1) % 2), None

    def actor(self, params: Any) -> Any:
        return self

    def to_env(self, actions: Any) -> Any:
        return actions


class Scene:
    """Scripted environments, N for each of S members, which begin with the given episodes."""

    def __init__(self, episodes: list[list[int]]) -> None:
        first = np.array(episodes)
        self.envs = SyncBackend().open(EnvRequest("probe/Scripted-v0", {}, None, first.size))
        self.at = reset_all(self.envs, Counting(), first)
        self.policy: Any = Counting()

    def collect(
        self, quota: int | list[list[int]], window: int | None
    ) -> tuple[Trajectory, FinishedEpisodes, Collector]:
        per_row = np.broadcast_to(np.array(quota), self.at.ended.shape)
        trajectory, finished, self.at = collect(
            self.envs, Behavior(self.policy, {}, Greedy()), self.at, per_row, window
        )
        return trajectory, finished, self.at


def row(leaf: Any, member: int = 0, env: int = 0) -> Any:
    return leaf[member, :, env].tolist()


def flags(text: str) -> list[bool]:
    return [letter == "x" for letter in text]


# whole episodes


def test_an_episode_is_recorded_as_the_environment_returned_it() -> None:
    seen, finished, _ = Scene([[0]]).collect(1, None)
    assert row(seen.obs) == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert row(seen.rewards) == [1, 2, 3]
    assert row(seen.actions) == [0, 1, 0]
    assert row(seen.terminated) == flags("..x")
    assert row(seen.truncated) == flags("...")
    assert row(seen.valid) == flags("xxx")
    assert row(seen.starts) == flags("x...")
    assert row(seen.timestep) == [0, 1, 2]
    assert finished.returns[0].tolist() == [6] and finished.lengths[0].tolist() == [3]


def test_shorter_episodes_are_padded_until_the_longest_one_ends() -> None:
    seen, finished, _ = Scene([[0, 1, 2, 3]]).collect(1, None)
    assert [row(seen.valid, env=env) for env in range(4)] == [flags(v) for v in ("xxx.", "xx..", "x...", "xxxx")]
    assert [row(seen.terminated, env=env) for env in range(4)] == [flags(v) for v in ("..x.", "....", "x...", "...x")]
    assert [row(seen.truncated, env=env) for env in range(4)] == [flags(v) for v in ("....", ".x..", "x...", "....")]
    assert row(seen.rewards, env=1) == [11, 12, 0, 0]
    assert row(seen.timestep, env=1) == [0, 1, 0, 0]
    assert row(seen.starts, env=1) == flags("x....")
    # in the order in which they ended
    assert finished.lengths[0].tolist() == [1, 2, 3, 4]
    assert finished.returns[0].tolist() == [21, 23, 6, 130 - 0]


def test_two_episodes_of_an_environment_are_separated_by_one_reset_step() -> None:
    seen, finished, _ = Scene([[0]]).collect(2, None)
    assert row(seen.obs) == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1], [1, 2]]
    assert row(seen.rewards) == [1, 2, 3, 0, 11, 12]
    assert row(seen.valid) == flags("xxx.xx")
    assert row(seen.starts) == flags("x...x..")
    assert row(seen.timestep) == [0, 1, 2, 0, 0, 1]
    assert finished.returns[0].tolist() == [6, 23] and finished.lengths[0].tolist() == [3, 2]


def test_finished_episodes_are_listed_separately_for_each_member() -> None:
    _, finished, _ = Scene([[0, 1], [2, 3]]).collect(1, None)
    assert [lengths.tolist() for lengths in finished.lengths] == [[2, 3], [1, 4]]


def test_a_frozen_member_collects_nothing() -> None:
    scene = Scene([[0, 1], [2, 3]])
    seen, finished, _ = scene.collect([[1, 1], [0, 0]], None)
    assert not seen.valid[1].any() and not seen.rewards[1].any() and not seen.terminated[1].any()
    assert finished.returns[1].size == 0


def test_a_member_collects_the_same_alone_and_after_other_members_are_dropped() -> None:
    scene = Scene([[0], [1], [2], [3]])
    together, finished, _ = scene.collect(1, None)
    assert scene.policy.members == [4, 4, 2, 1]
    assert [lengths.tolist() for lengths in finished.lengths] == [[3], [2], [1], [4]]
    for member, episode in enumerate(range(4)):
        alone, _, _ = Scene([[episode]]).collect(1, None)
        steps = alone.valid.shape[1]
        assert row(together.obs, member)[: steps + 1] == row(alone.obs)  # including the final observation
        for name in ("rewards", "terminated", "truncated", "valid", "starts", "timestep"):
            assert row(getattr(together, name), member)[:steps] == row(getattr(alone, name))[:steps], name
        assert not together.valid[member, steps:].any()


def test_collecting_without_an_active_member_is_an_error() -> None:
    with pytest.raises(ValueError, match="no member is active"):
        Scene([[0]]).collect(0, None)


def test_an_episode_that_does_not_end_raises_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgzoo.training.rollout.EPISODE_LIMIT", 2)
    with pytest.raises(RunFailed, match=r"not ended after 2 steps.*--max-episode-steps"):
        Scene([[0]]).collect(1, None)


def test_the_tape_grows_for_a_long_episode() -> None:
    envs = SyncBackend().open(EnvRequest("Pendulum-v1", {}, 1300, 1))
    policy: Any = Counting()
    policy.to_env = lambda actions: np.zeros((1, 1), np.float32)
    at = reset_all(envs, policy, np.zeros((1, 1), np.int64))
    seen, finished, _ = collect(envs, Behavior(policy, {}, Greedy()), at, np.ones((1, 1)), None)
    assert seen.rewards.shape == (1, 1300, 1) and finished.lengths[0].tolist() == [1300]
    assert row(seen.actions) == [0, 1] * 650


# windows


def test_episodes_continue_across_the_boundaries_of_windows() -> None:
    """Windows of 2 steps: episode 0 (3 steps), reset, episode 1 (2), reset, episode 2 (1), reset, episode 3 (4)."""
    scene = Scene([[0]])
    seen = [scene.collect(99, 2) for _ in range(7)]

    def told(name: str) -> list[Any]:
        return [row(getattr(trajectory, name)) for trajectory, _, _ in seen]

    assert told("rewards") == [[1, 2], [3, 0], [11, 12], [0, 21], [0, 31], [32, 33], [34, 0]]
    assert told("valid") == [flags(v) for v in ("xx", "x.", "xx", ".x", ".x", "xx", "x.")]
    assert told("terminated") == [flags(v) for v in ("..", "x.", "..", ".x", "..", "..", "x.")]
    assert told("truncated") == [flags(v) for v in ("..", "..", ".x", ".x", "..", "..", "..")]
    assert told("timestep") == [[0, 1], [2, 0], [0, 1], [0, 0], [0, 0], [1, 2], [3, 0]]
    # the last column is the first step of the next window
    assert told("starts") == [flags(v) for v in ("x..", "..x", "x..", ".x.", ".x.", "...", "..x")]
    assert [row(t.obs)[-1] for t, _, _ in seen] == [[0, 2], [1, 0], [1, 2], [2, 1], [3, 1], [3, 3], [4, 0]]
    assert [finished.returns[0].tolist() for _, finished, _ in seen] == [[], [6], [23], [21], [], [], [130]]
    assert [finished.lengths[0].tolist() for _, finished, _ in seen] == [[], [3], [2], [1], [], [], [4]]
    assert [at.returns.item() for _, _, at in seen] == [3, 0, 0, 0, 31, 96, 0]


@pytest.mark.parametrize("window", [3, 5, 30])
def test_observations_rewards_and_ends_do_not_depend_on_the_window_length(window: int) -> None:
    def story(length: int) -> Any:
        scene = Scene([[0, 2], [1, 5]])
        seen = [scene.collect(99, length) for _ in range(30 // length)]
        columns = zip(*(trajectory[:8] for trajectory, _, _ in seen), strict=True)
        leaves = [np.concatenate([leaf[:, :length].numpy() for leaf in column], 1) for column in columns]
        returns, lengths = ([[f[k][m].tolist() for _, f, _ in seen] for m in (0, 1)] for k in (0, 1))
        return leaves, [list(chain(*each)) for each in returns], [list(chain(*each)) for each in lengths]

    (leaves, *rest), (expected, *others) = story(window), story(1)
    assert rest == others
    names = [name for name in Trajectory._fields if name != "actions"]
    for name, a, b in zip(Trajectory._fields[:8], leaves, expected, strict=True):
        assert name not in names or np.array_equal(a, b), name


def test_a_frozen_member_keeps_its_observation_while_others_continue() -> None:
    scene = Scene([[0], [3]])
    scene.collect(99, 2)
    seen, _, at = scene.collect([[99], [0]], 3)
    assert row(seen.obs, member=1) == [[3, 2]] * 4
    assert not seen.valid[1].any()
    assert at.obs[1].tolist() == [[3, 2]]


# noise


class Fixed:
    noise, noise_size = "uniform", 3


def test_noise_depends_on_the_member_and_the_step_but_not_on_other_members() -> None:
    policy: Any = Fixed()

    def noise(*seeds: int) -> Any:
        block = Noise(policy, [np.random.default_rng(seed) for seed in seeds], 2)
        return np.stack([block[t] for t in range(150)])

    alone, among = noise(7), noise(3, 7, 9)
    assert alone.shape == (150, 1, 2, 3)
    assert np.array_equal(alone[:, 0], among[:, 1])
    assert len(np.unique(alone)) > 890  # no step repeats the noise of another
