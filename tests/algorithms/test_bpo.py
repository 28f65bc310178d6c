"""BPO: its losses, checked against hand calculations. The median network is one linear layer on one-hot states."""

from __future__ import annotations

from math import log
from typing import Any

import pytest

PLAIN: dict[str, Any] = {"normalize_advantages": False, "value_coef": 0.0, "median_coef": 0.0, "clip_range": 0.3}


def median(*values: float) -> dict[str, Any]:
    return {"bpo.median.weight.0": [[value] for value in values], "bpo.median.bias.0": [0.0]}


@pytest.mark.parametrize(
    ("ratio", "above_median", "loss", "slope"),
    [
        (1.0, 1.0, 2 * 0.3, -2.0),  # before the target, the gradient is that of the plain surrogate
        (1.5, 1.0, 2 * 0.2, 2.0),  # beyond the target, the gradient points back
        (1.0, -1.0, 2 * 0.3, 2.0),  # the sign is that of G - median, and the weight is |A|
        (0.5, -1.0, 2 * 0.2, -2.0),
    ],
)
def test_loss_pulls_the_ratio_to_its_target(
    judge: Any, ratio: float, above_median: float, loss: float, slope: float
) -> None:
    rows = {"states": [0], "actions": [1], "advantages": [-2.0], "returns": [5.0], "ratios": [ratio]}
    found = judge("bpo", rows, median(5.0 - above_median, 0.0), **PLAIN)
    assert found.loss.value.item() == pytest.approx(loss, rel=1e-5)
    by_logit = slope * ratio / 4  # dr / d logit of the action is r (1 - 3/4)
    assert found.gradients["logits"] == pytest.approx([-by_logit, by_logit, 0, 0], abs=1e-5)
    assert found.gradients["bpo.median.weight.0"] == [0, 0]


def test_target_ratio_is_closer_to_one_near_the_median(judge: Any) -> None:
    rows = {"states": [0], "actions": [1], "advantages": [1.0], "returns": [log(3)], "ratios": [1.0]}
    found = judge("bpo", rows, median(0.0, 0.0), **(PLAIN | {"temperature": 1.0}))
    assert found.loss.value.item() == pytest.approx(0.3 * 0.5)  # tanh(½ ln 3) = ½


def test_median_gradient_depends_only_on_the_sign_of_large_errors(judge: Any) -> None:
    rows = {"states": [0, 0, 0, 1], "actions": [1] * 4, "returns": [100.0, -50.0, 20.0, log(3)], "weights": [1] * 4}
    found = judge("bpo", rows, median(0.0, 0.0), **(PLAIN | {"median_coef": 4.0}))
    # the derivative of ln(1 + e^d) - d / 2 is σ(d) - ½, and d decreases as the median increases
    assert found.gradients["bpo.median.weight.0"] == pytest.approx([-0.5 + 0.5 - 0.5, -(3 / 4 - 1 / 2)], abs=1e-6)
    assert found.loss.metrics["loss/median"].item() == pytest.approx((50 + 25 + 10 + log(4) - log(3) / 2) / 4)


def test_advantages_are_scaled_but_not_centered(judge: Any) -> None:
    rows = {"states": [0, 0], "actions": [1, 1], "advantages": [1.0, 3.0], "returns": [5.0, 5.0], "ratios": [1.0, 1.0]}
    found = judge("bpo", rows, median(0.0, 0.0), **(PLAIN | {"normalize_advantages": True}))
    assert found.loss.value.item() == pytest.approx(0.3 * (1 + 3) / 2)  # the standard deviation of the advantages is 1
