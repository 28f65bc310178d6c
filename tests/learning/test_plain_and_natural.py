"""Algorithms with plain and natural policy gradients solve tasks with a known solution, and CartPole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgzoo.training.events import Evaluated, Event, RunEnded

Play = Callable[..., list[Event]]
SETTINGS: dict[str, dict[str, Any]] = {
    "reinforce-baseline": {"num_envs": 16},
    "rloo": {"num_envs": 16},
    "vpg": {"rollout_steps": 32, "critic_steps": 5},
    "npg": {"rollout_steps": 32, "step_kl": 0.05, "cg_steps": 5, "critic_steps": 5},
    "trpo": {"rollout_steps": 32, "max_kl": 0.05, "cg_steps": 5, "critic_steps": 5},
}
ALGORITHMS = pytest.mark.parametrize("algorithm", SETTINGS)


def final(events: list[Event], mode: str) -> list[float]:
    (event,) = [e for e in events if isinstance(e, Evaluated) and e.final and e.mode == mode]
    return [float(returns.mean()) for returns in event.returns]


@pytest.mark.slow  # the corridor below is harder
@ALGORITHMS
def test_the_best_of_three_arms_is_found(play: Play, algorithm: str) -> None:
    settings = {"total_steps": 4000, "policy": {"hidden": ()}, "learning_rate": 0.1, "eval_episodes": 50}
    events = play(algorithm, env="probe/Bandit-v0", seeds=5, **SETTINGS[algorithm] | settings)
    assert final(events, "greedy") == [1.0] * 5
    assert min(final(events, "sampled")) > 0.95


@pytest.mark.parametrize(
    "algorithm",
    # the others are tested on CartPole below
    [name if name in ("rloo", "npg") else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS],
)
def test_the_shortest_path_through_a_corridor_is_found(play: Play, algorithm: str) -> None:
    settings = {"total_steps": 15_000, "learning_rate": 0.05, "eval_episodes": 50, "policy": {"hidden": ()}}
    events = play(algorithm, env="probe/Corridor-v0", seeds=5, **SETTINGS[algorithm] | settings)
    assert final(events, "greedy") == [-5.0] * 5
    assert min(final(events, "sampled")) > -5.6


@ALGORITHMS
def test_the_mean_and_a_small_std_of_a_gaussian_are_learned(play: Play, algorithm: str) -> None:
    steps = 12_000 if algorithm == "vpg" else 6000  # vpg takes smaller gradient steps
    settings = {"total_steps": steps, "policy": {"hidden": ()}, "learning_rate": 0.03, "eval_episodes": 5}
    events = play(algorithm, env="probe/Target-v0", seeds=5, **SETTINGS[algorithm] | settings)
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert min(final(events, "greedy")) > -0.01  # within 0.1 of the target
    assert ended.state.params["policy.log_std"].max() < -1


@pytest.mark.parametrize(
    "algorithm", ["reinforce-baseline", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rloo", "vpg"))]
)
def test_cartpole_is_balanced(play: Play, algorithm: str) -> None:
    assert min(final(play(algorithm, seeds=3, eval_episodes=50), "sampled")) >= 475


@pytest.mark.parametrize("algorithm", [pytest.param("npg", marks=pytest.mark.slow), "trpo"])
def test_cartpole_is_balanced_by_natural_gradients(play: Play, algorithm: str) -> None:
    """The network is smaller than the default, so that the test is faster."""
    settings = {"policy": {"hidden": (32,)}, "total_steps": 80_000}
    assert min(final(play(algorithm, seeds=2, eval_episodes=50, **settings), "sampled")) >= 450
