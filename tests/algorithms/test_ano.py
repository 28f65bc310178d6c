"""ANO: its smooth surrogate, checked against hand calculations."""

from __future__ import annotations

from math import log
from typing import Any

import pytest

PLAIN: dict[str, Any] = {"normalize_advantages": False, "value_coef": 0.0, "ratio_range": 0.2}
SCALE = 45 / 16 * 0.2 / log(2)
AT_ONE = 0.5 * log(1 / 5) - 2 / 3
F_AT_EDGE = 1 + SCALE * (0.5 * log(1 / 2) - 1 - AT_ONE)  # x = 0
F_BEYOND = 1 + SCALE * (0.5 * log(4 / 5) - 4 / 3 - AT_ONE)  # x = ln 2
SLOPE_BEYOND = 45 / 16 * (1 / 5 - 2 * 2 / 9)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),  # on-policy: the plain policy gradient
        (1.2, 2.0, 2 * F_AT_EDGE, 0.0),  # the maximum gain
        (1.4, 2.0, 2 * F_BEYOND, 2 * SLOPE_BEYOND),  # beyond the edge, the gradient points back
        (1.0, -2.0, -2.0, -2.0),
        (0.8, -2.0, -2 * (2 - F_AT_EDGE), 0.0),
        (0.6, -2.0, -2 * (2 - F_BEYOND), -2 * SLOPE_BEYOND),
    ],
)
def test_surrogate_of_a_row_peaks_at_the_edge_of_the_ratio_range(
    judge: Any, ratio: float, advantage: float, gain: float, slope: float
) -> None:
    rows = {"states": [0], "actions": [1], "advantages": [advantage], "ratios": [ratio]}
    found = judge("ano", rows, **PLAIN)
    assert found.loss.value.item() == pytest.approx(-gain, rel=1e-5)
    by_logit = -slope * ratio / 4  # dr / d logit of the action is r (1 - 3/4)
    assert found.gradients["logits"] == pytest.approx([-by_logit, by_logit, 0, 0], abs=1e-5)


def test_gradient_almost_vanishes_far_outside_the_ratio_range(judge: Any) -> None:
    rows = {"states": [0], "actions": [1], "advantages": [2.0], "ratios": [5.0]}
    found = judge("ano", rows, **PLAIN)
    assert 0 < found.gradients["logits"][1] < 1e-4  # SPO's gradient is 2 * (20 - 1) * 5 / 4
