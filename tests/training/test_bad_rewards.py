"""A non-finite reward fails its seed with a reason that names the rewards, even if the algorithm ignores them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from pgzoo.registry import PluginCatalog
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home
from pgzoo.training import checkpoint
from pgzoo.training.events import EpisodesFinished, RunEnded
from pgzoo.training.failures import bad_rewards


class Burst(gym.Env[Any, Any]):
    """Episodes of five steps with reward 1; in a fraction `share` of them, the third step has the reward `value`."""

    observation_space, action_space = Box(-1.0, 1.0, (1,)), Discrete(2)

    def __init__(self, value: str = "inf", share: float = 0.01) -> None:
        self.value, self.share = float(value), share

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.bad = 0, self.np_random.random() < self.share
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(1, np.float32), self.value if self.bad and self.t == 3 else 1.0, self.t == 5, False, {}


BEYOND = "infinite or beyond single precision (3.4e38)"
gym.register("probe/Burst-v0", Burst)


def test_bad_rewards_returns_each_affected_member_with_the_reason() -> None:
    rewards = torch.ones(3, 2, 2)
    assert bad_rewards(rewards) == {}
    rewards[1, 0, 1], rewards[2, 1, 0], rewards[2, 1, 1] = -math.inf, math.nan, math.inf
    assert bad_rewards(rewards) == {1: "rewards: infinite or beyond single precision (3.4e38)", 2: "rewards: NaN"}


@pytest.mark.parametrize(("value", "why"), [("inf", BEYOND), ("-inf", BEYOND), ("nan", "NaN")])
@pytest.mark.parametrize("algorithm", ["reinforce", "cem", "ars", "random"])
def test_exactly_the_seeds_that_received_a_non_finite_reward_fail(
    play: Callable[..., Any], algorithm: str, value: str, why: str
) -> None:
    settings = {"env_kwargs": {"value": value}, "num_envs": 4, "total_steps": 600, "eval_episodes": 1}
    *events, ended = play(algorithm, "probe/Burst-v0", seeds=4, **settings)
    assert isinstance(ended, RunEnded)
    returns = [
        np.concatenate(r) for r in zip(*(e.returns for e in events if isinstance(e, EpisodesFinished)), strict=True)
    ]
    saw = [not np.isfinite(r).all() for r in returns]
    assert any(saw) and not all(saw)
    assert [status == "failed" for status in ended.statuses] == saw
    assert {reason for reason, bad in zip(ended.reasons, saw, strict=True) if bad} == {f"rewards: {why}"}


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo", "cem", "random"])
def test_every_seed_fails_if_every_episode_has_a_nan_reward(play: Callable[..., Any], algorithm: str) -> None:
    settings = {"env_kwargs": {"value": "nan", "share": 2.0}, "num_envs": 4, "total_steps": 600}
    ended = play(algorithm, "probe/Burst-v0", seeds=2, **settings)[-1]
    assert (ended.statuses, ended.reasons) == (("failed",) * 2, ("rewards: NaN",) * 2)


def test_other_seeds_finish_and_each_checkpoint_has_the_status_of_its_seed(
    configure: Callable[..., Any], catalog: PluginCatalog, home: Home
) -> None:
    result = run_config(
        configure("reinforce", "probe/Burst-v0", seeds=4, num_envs=4, total_steps=600, checkpoint_every=100), catalog
    )
    assert result.error is None
    statuses = [one.status for one in result.runs]
    assert {"finished", "failed"} == set(statuses)
    assert json.dumps(result.to_dict(), allow_nan=False)
    for one in result.runs:
        kept = checkpoint.latest(home.runs / one.run_key / checkpoint.FOLDER_NAME)
        assert kept.about["status"] == one.status


def test_a_checkpoint_preserves_infinities_and_nan(last_state: Callable[..., Any], tmp_path: Any) -> None:
    state = last_state("windows", total_steps=64, num_envs=2)
    about = {"grid": {"m": [math.inf, -math.inf, 1.5]}, "x": math.nan, "float": 2.0, "text": "nan"}
    path = checkpoint.save(tmp_path, state, about)
    json.loads((path / "state.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    found = checkpoint.load(path).about
    assert found["grid"] == about["grid"] and math.isnan(found["x"])
    assert (found["float"], found["text"]) == (2.0, "nan")


def test_the_reason_for_a_too_large_finite_reward_mentions_single_precision(play: Callable[..., Any]) -> None:
    *_, ended = play("reinforce", "probe/Burst-v0", env_kwargs={"value": "1e300", "share": 1.0}, total_steps=40)
    assert (ended.statuses, ended.reasons) == (("failed",), (f"rewards: {BEYOND}",))
