"""A2C: its gradient, checked against hand calculations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

# action 1 in state 0 (p = 3/4), action 0 in state 1 (p = 1/2), and a row of padding
ROWS: dict[str, Any] = {
    "states": [0, 1, 0],
    "actions": [1, 0, 0],
    "advantages": [2.0, -1.0, 99.0],
    "returns": [3.0, 1.0, 99.0],
    "weights": [1, 1, 0],
}
SCORES = [-1 / 4, 1 / 4, 1 / 2, -1 / 2]
"""d log p / d logits of the first two rows, each for the logits of its own state."""


def test_policy_gradient_is_the_score_weighted_by_the_advantage(judge: Any) -> None:
    found = judge("a2c", ROWS).gradients["logits"]
    expected = -np.array(SCORES) * [2, 2, -1, -1] / 2
    assert found == pytest.approx(expected.tolist(), abs=1e-6)


def test_value_loss_is_half_the_weighted_mean_squared_error(judge: Any) -> None:
    found = judge("a2c", ROWS, {"values": [1.0, 2.0]}, value_coef=0.25)
    assert found.gradients["values"] == pytest.approx([0.25 * (1 - 3) / 2, 0.25 * (2 - 1) / 2])
    assert found.loss.metrics["loss/value"].item() == pytest.approx((4 + 1) / 2 / 2)


def test_entropy_bonus_pushes_the_policy_toward_uniform(judge: Any) -> None:
    bonus = np.subtract(*(judge("a2c", ROWS, entropy_coef=c).gradients["logits"] for c in (0.5, 0.0)))
    p = np.array([1 / 4, 3 / 4])
    slope = -p * (np.log(p) - p @ np.log(p))
    assert bonus.tolist() == pytest.approx([*(-0.5 * slope / 2), 0, 0], abs=1e-6)


def test_advantages_are_standardized_if_requested(judge: Any) -> None:
    found = judge("a2c", ROWS, normalize_advantages=True).gradients["logits"]
    expected = -np.array(SCORES) * [1, 1, -1, -1] / 2  # (2, -1) has mean 1/2 and standard deviation 3/2
    assert found == pytest.approx(expected.tolist(), abs=1e-6)
