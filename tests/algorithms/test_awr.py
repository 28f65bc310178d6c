"""AWR: the weights of actions, checked against hand calculations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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
    found = judge("awr", ROWS, beta=1.0, value_coef=1.0)
    counts = np.exp([1.0, 1.0, -1.0, -1.0])
    assert found.gradients["logits"] == pytest.approx((-SCORES * counts / 2).tolist(), rel=1e-5)
    assert found.gradients["values"] == pytest.approx([-3 / 2, -1 / 2])


def test_default_estimator_is_td_lambda(plan: Any) -> None:
    assert plan("awr").config.estimator.name == "td-lambda"
