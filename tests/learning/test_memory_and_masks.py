"""Tasks that can't be solved without memory, or without obeying the action mask."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import cloudpickle  # gymnasium uses it to send environments to its processes
import gymnasium as gym
import numpy as np
import pytest
import torch

from pgzoo.training.events import EpisodesFinished, Evaluated, Event, RunEnded
from pgzoo.types import Inputs

Play = Callable[..., list[Event]]
RECALL = {"env": "probe/Recall-v0", "seeds": 4, "total_steps": 16_000, "num_envs": 16, "eval_episodes": 200}
RECALL |= {"algorithm": "a2c", "rollout_steps": 16, "learning_rate": 3e-3}


def evaluated(events: list[Event]) -> tuple[Evaluated, Evaluated]:
    sampled, greedy = events[-3:-1]
    assert isinstance(sampled, Evaluated) and isinstance(greedy, Evaluated)
    return sampled, greedy


@pytest.mark.parametrize(
    "policy",
    [
        {"name": "gru", "hidden": (), "memory": 16},
        {"name": "lstm", "hidden": (), "memory": 16},
        {"name": "gtrxl", "width": 16, "memory": 4},
    ],
    ids=lambda policy: str(policy["name"]),
)
def test_policies_with_memory_recall_an_earlier_observation(play: Play, policy: dict[str, Any]) -> None:
    sampled, greedy = evaluated(play(**RECALL, policy=policy))
    assert min(returns.mean() for returns in sampled.returns) > 0.9
    assert all((returns == 1).all() for returns in greedy.returns)


def test_a_policy_without_memory_performs_at_chance(play: Play, plan: Callable[..., Any]) -> None:
    """The observation before the last action is always the same, so the action can't depend on the sign."""
    settings = {**RECALL, "policy": {"name": "mlp", "hidden": (16,)}}
    events = play(**settings)
    last = events[-1]
    assert isinstance(last, RunEnded)
    sampled, _ = evaluated(events)
    error = 1 / np.sqrt(200)
    assert max(abs(returns.mean()) for returns in sampled.returns) < 4 * error
    made, dists = plan(**settings), []
    for seed in (0, 1):  # the two signs
        env = gym.make("probe/Recall-v0")
        env.reset(seed=seed)
        seen = [env.step(0)[0] for _ in range(3)][-1]
        inputs = Inputs(torch.from_numpy(seen).expand(4, 1, 1, 2))
        dists.append((env.unwrapped.sign, made.policy.apply(made.policy_params(last.state), inputs).dist.logits))  # type: ignore[attr-defined]
    assert {sign for sign, _ in dists} == {0, 1}
    assert torch.equal(dists[0][1], dists[1][1])


@pytest.mark.parametrize(
    ("tells", "backend"),
    [
        ("info", "sync"),
        ("method", "sync"),
        ("method", "async"),
        pytest.param("info", "async", marks=pytest.mark.slow),
    ],
)
def test_masked_actions_are_never_taken_and_the_task_is_learned(play: Play, tells: str, backend: str) -> None:
    module = sys.modules[type(gym.make("probe/Trap-v0").unwrapped).__module__]
    cloudpickle.register_pickle_by_value(module)  # other processes can't import the tests
    try:
        # processes start slowly, so there are few
        few = {"num_envs": 4, "total_steps": 2500, "rollout_steps": 8, "eval_episodes": 3, "learning_rate": 0.05}
        asked = {"env_kwargs": {"tells": tells}, "backend": backend, "policy": "tabular"}
        events = play("a2c", "probe/Trap-v0", **asked, **few)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    trained = np.concatenate([r for e in events if isinstance(e, EpisodesFinished) for r in e.returns])
    sampled, greedy = evaluated(events)
    assert len(trained) > 350
    assert min(trained.min(), sampled.returns[0].min(), greedy.returns[0].min()) >= 0  # a trap costs 10
    assert sampled.returns[0].mean() >= 4
    assert (greedy.returns[0] == 5).all()


def test_without_the_mask_the_forbidden_action_is_taken(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy does step into the trap, so it is the mask that prevents this in the other tests."""
    trap: Any = type(gym.make("probe/Trap-v0").unwrapped)
    monkeypatch.setattr(trap, "_mask", lambda self: np.ones(3, np.int8))
    events = play("a2c", "probe/Trap-v0", num_envs=8, total_steps=400, eval_episodes=10, policy="tabular")
    assert min(min(e.returns[0], default=0) for e in events if isinstance(e, EpisodesFinished)) <= -10


def test_environments_that_provide_action_masks_are_detected(plan: Callable[..., Any]) -> None:
    assert plan("a2c", "Taxi-v4", policy="tabular").spec.masked
    assert plan("a2c", "probe/Trap-v0", env_kwargs={"tells": "method"}).spec.masked
    assert not plan("a2c", "CartPole-v1").spec.masked
