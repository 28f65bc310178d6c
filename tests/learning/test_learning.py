"""Algorithms learn: first tasks with a known solution, then CartPole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.config import Layer
from pgzoo.registry import PluginCatalog
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import compose
from pgzoo.training.events import Evaluated, Event, RunEnded
from pgzoo.training.loop import train

Play = Callable[..., list[Event]]


def final(events: list[Event], mode: str = "sampled") -> list[float]:
    """Return the mean return of each seed's last evaluation."""
    (event,) = [e for e in events if isinstance(e, Evaluated) and e.final and e.mode == mode]
    return [float(returns.mean()) for returns in event.returns]


@pytest.mark.parametrize(("estimator", "baseline"), [("reward-to-go", "none"), ("total-return", "mean")])
def test_the_best_of_three_arms_is_found(play: Play, estimator: str, baseline: str) -> None:
    settings = {"env": "probe/Bandit-v0", "num_envs": 16, "seeds": 5, "policy": {"hidden": ()}}
    events = play(
        total_steps=3000, estimator=estimator, baseline=baseline, learning_rate=0.1, eval_episodes=5, **settings
    )
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    logits = sum(ended.state.params[f"policy.{name}"].reshape(5, 3) for name in ("weight.0", "bias.0"))
    assert isinstance(logits, torch.Tensor)
    assert torch.softmax(logits, -1)[:, 1].min() > 0.95
    assert final(events, "greedy") == [1.0] * 5


def test_the_shortest_path_through_a_corridor_is_found(play: Play) -> None:
    events = play(env="probe/Corridor-v0", seeds=5, total_steps=8000, learning_rate=0.05, eval_episodes=50)
    assert final(events, "greedy") == [-5.0] * 5
    assert min(final(events)) > -5.5


def test_training_on_windows_of_steps_finds_the_best_arm(play: Play) -> None:
    settings: dict[str, Any] = {"env": "probe/Bandit-v0", "num_envs": 4, "seeds": 3, "total_steps": 6000}
    events = play("windows", learning_rate=0.02, eval_episodes=5, **settings)
    assert final(events, "greedy") == [1.0] * 3


def test_the_mean_and_a_small_std_of_a_gaussian_are_learned(play: Play) -> None:
    settings = {"env": "probe/Target-v0", "num_envs": 16, "seeds": 5, "policy": {"hidden": ()}}
    events = play(total_steps=8000, learning_rate=0.03, eval_episodes=5, **settings)
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert min(final(events, "greedy")) > -0.01  # within 0.1 of the target
    assert ended.state.params["policy.log_std"].max() < -1


def test_cartpole_is_balanced_by_every_seed(play: Play) -> None:
    assert min(final(play(seeds=3, eval_episodes=100))) >= 400


def test_ppo_with_default_settings_solves_cartpole_in_80_000_steps(catalog: PluginCatalog) -> None:
    asked = {"algorithm": "ppo", "env": "CartPole-v1", "seeds": 5, "stop_at": 475.0, "eval_episodes": 20}
    events = list(train(make_plan(compose(Layer(asked, ".".join), catalog), catalog)))
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.statuses == ("stopped",) * 5  # the last 100 training episodes have that mean
    assert np.median(ended.env_steps) <= 80_000
    assert min(final(events, "greedy")) >= 475
