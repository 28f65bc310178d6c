"""SPO: its penalized surrogate, checked against hand calculations."""

from __future__ import annotations

from typing import Any

import pytest

PLAIN: dict[str, Any] = {"normalize_advantages": False, "value_coef": 0.0, "ratio_range": 0.2}


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),  # on-policy: the plain policy gradient
        (1.1, 2.0, 2.2 - 5 * 0.01, 1.0),  # halfway to the edge
        (1.2, 2.0, 2.4 - 5 * 0.04, 0.0),  # the maximum gain
        (1.5, 2.0, 3.0 - 5 * 0.25, -3.0),  # beyond the edge, the gradient points back; PPO's would be 0
        (0.8, -2.0, -1.6 - 5 * 0.04, 0.0),
        (0.5, -2.0, -1.0 - 5 * 0.25, 3.0),
    ],
)
def test_surrogate_of_a_row_peaks_at_the_edge_of_the_ratio_range(
    judge: Any, ratio: float, advantage: float, gain: float, slope: float
) -> None:
    rows = {"states": [0], "actions": [1], "advantages": [advantage], "ratios": [ratio]}
    found = judge("spo", rows, **PLAIN)
    assert found.loss.value.item() == pytest.approx(-gain, rel=1e-5)
    by_logit = -slope * ratio / 4  # dr / d logit of the action is r (1 - 3/4)
    assert found.gradients["logits"] == pytest.approx([-by_logit, by_logit, 0, 0], abs=1e-5)


def test_value_loss_entropy_bonus_and_padding_match_a_hand_calculation(judge: Any) -> None:
    rows = {"states": [1, 0], "actions": [0, 0], "returns": [3.0, 99.0], "weights": [1, 0], "advantages": [0.0, 99.0]}
    found = judge("spo", rows, {"values": [0.0, 1.0]}, **(PLAIN | {"value_coef": 0.5, "entropy_coef": 0.1}))
    assert found.gradients["values"] == pytest.approx([0, 0.5 * (1 - 3)])
    assert found.loss.value.item() == pytest.approx(0.5 * 2.0 - 0.1 * 0.693147, rel=1e-5)
