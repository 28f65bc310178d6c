"""AWR: the weights of actions, checked against hand calculations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.ops.returns import td_lambda

ROWS: dict[str, Any] = {
    "states": [0, 1, 0],
    "actions": [1, 0, 0],
    "advantages": [2.0, -1.0, 99.0],
    "returns": [3.0, 1.0, 99.0],
    "weights": [1, 1, 0],
}
SCORES = np.array([-1 / 4, 1 / 4, 1 / 2, -1 / 2])
PLAIN: dict[str, Any] = {"normalize_advantages": False, "value_coef": 0.0}


def test_actions_are_weighted_by_the_exponential_of_their_advantage(judge: Any) -> None:
    found = judge("awr", ROWS, beta=0.5, max_weight=1000.0, **PLAIN)
    counts = np.exp([4.0, 4.0, -2.0, -2.0])
    assert found.gradients["logits"] == pytest.approx((-SCORES * counts / 2).tolist(), rel=1e-5)
    assert found.gradients["values"] == [0, 0]


def test_action_weights_are_capped_at_max_weight(judge: Any) -> None:
    found = judge("awr", ROWS, beta=0.5, max_weight=5.0, **PLAIN)
    counts = np.array([5, 5, np.exp(-2), np.exp(-2)])
    assert found.gradients["logits"] == pytest.approx((-SCORES * counts / 2).tolist(), rel=1e-5)


def test_weights_use_standardized_advantages_by_default(judge: Any) -> None:
    found = judge("awr", ROWS, beta=0.5, value_coef=1.0)
    counts = np.exp([2.0, 2.0, -2.0, -2.0])
    assert found.gradients["logits"] == pytest.approx((-SCORES * counts / 2).tolist(), rel=1e-5)
    assert found.gradients["values"] == pytest.approx([-3 / 2, -1 / 2])


def test_the_default_targets_are_lambda_returns_and_their_differences_from_the_values(engine: Any) -> None:
    ctx = engine("awr", num_envs=2, rollout_steps=8, gamma=0.9, estimator={"lam": 0.5})
    state, seen = ctx.collect(ctx.state)
    evaluated = ctx.evaluate_policy(state, seen)
    targets = ctx.estimate(state, seen, evaluated)
    flags = {name: getattr(seen, name) for name in ("rewards", "terminated", "truncated", "valid")}
    expected = td_lambda(**flags, next_values=evaluated.values[:, 1:], gamma=0.9, lam=0.5)
    torch.testing.assert_close(targets.returns, expected)
    torch.testing.assert_close(targets.advantages, expected - evaluated.values[:, :-1] * seen.valid)
