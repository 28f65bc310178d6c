"""V-MPO: the better half of the rows, its weights and both dual variables, checked against hand calculations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.ops.elementwise import softplus
from pgzoo.training.engine import Engine

# the better half of the first four rows is the first and the fourth; the fifth is padding
ROWS: dict[str, Any] = {
    "states": [0, 1, 0, 1, 0],
    "actions": [1, 0, 0, 1, 0],
    "advantages": [2.0, -1.0, 0.0, 1.0, 99.0],
    "weights": [1, 1, 1, 1, 0],
    "old_logits": [[0.0, 0.0]] * 5,
}
PLAIN: dict[str, Any] = {"normalize_advantages": False, "value_coef": 0.0}


def inverse(y: float) -> float:
    return float(np.log(np.expm1(y)))


DUALS = {"vmpo.eta": inverse(0.5), "vmpo.alpha": inverse(2.0)}
SLOPE = {y: 1 - np.exp(-y) for y in (0.5, 2.0)}
"""The derivative of softplus where its value is y."""
KL = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
"""KL(old || new) in state 0, where the old policy is uniform; in state 1 both policies are the same."""


def test_the_better_half_is_weighted_by_the_softmax_of_its_advantages(judge: Any) -> None:
    found = judge("vmpo", ROWS, DUALS, **PLAIN)
    psi = np.exp([4.0, 2.0]) / np.exp([4.0, 2.0]).sum()
    likelihood = -np.array([-psi[0] / 4, psi[0] / 4, -psi[1] / 2, psi[1] / 2])
    towards_old = 2.0 * np.array([0.25 - 0.5, 0.75 - 0.5, 0, 0]) * 2 / 4  # state 0 in two rows of four
    assert found.gradients["logits"] == pytest.approx((likelihood + towards_old).tolist(), rel=1e-5)
    assert found.loss.metrics["policy/kl"].item() == pytest.approx(KL / 2, rel=1e-5)
    assert found.loss.metrics["loss/policy"].item() == pytest.approx(-(psi @ np.log([3 / 4, 1 / 2])), rel=1e-5)


def test_temperature_gradient_is_the_derivative_of_the_dual(judge: Any) -> None:
    def dual(eta: float) -> float:
        return float(eta * 0.1 + eta * np.log(np.mean(np.exp(np.array([2.0, 1.0]) / eta))))

    found = judge("vmpo", ROWS, DUALS, eps_eta=0.1, **PLAIN)
    slope = (dual(0.5 + 1e-5) - dual(0.5 - 1e-5)) / 2e-5
    assert found.gradients["vmpo.eta"] == pytest.approx([slope * SLOPE[0.5]], rel=1e-3)


@pytest.mark.parametrize("aim", [0.01, 0.5])
def test_multiplier_grows_only_if_the_kl_exceeds_its_bound(judge: Any, aim: float) -> None:
    found = judge("vmpo", ROWS, DUALS, eps_alpha=aim, **PLAIN)
    assert found.gradients["vmpo.alpha"] == pytest.approx([(aim - KL / 2) * SLOPE[2.0]], rel=1e-5)


def test_loss_is_the_sum_of_its_parts(judge: Any) -> None:
    found = judge("vmpo", ROWS, DUALS, eps_eta=0.1, eps_alpha=0.3, **PLAIN)
    metrics = found.loss.metrics
    eta_loss = 0.5 * 0.1 + 0.5 * np.log(np.mean(np.exp([4.0, 2.0])))
    total = metrics["loss/policy"].item() + eta_loss + 2.0 * (0.3 - KL / 2) + 2.0 * KL / 2
    assert found.loss.value.item() == pytest.approx(total, rel=1e-5)


def test_better_half_includes_the_middle_row_and_breaks_ties_by_position(judge: Any) -> None:
    odd = {name: value[:3] for name, value in ROWS.items()}
    alike = odd | {"advantages": [1.0, 1.0, 1.0]}
    for rows, chosen in ((odd, [3 / 4, 1 / 4]), (alike, [3 / 4, 1 / 2])):
        advantages = np.sort(rows["advantages"])[::-1][:2] / 0.5
        psi = np.exp(advantages) / np.exp(advantages).sum()
        found = judge("vmpo", rows, DUALS, **PLAIN)
        assert found.loss.metrics["loss/policy"].item() == pytest.approx(-(psi @ np.log(chosen)), rel=1e-5)


def test_large_advantages_do_not_overflow(judge: Any) -> None:
    found = judge("vmpo", ROWS | {"advantages": [2e4, -1e4, 0.0, 1e4, 1e9]}, DUALS, **PLAIN)
    assert torch.isfinite(found.loss.value).all()
    assert np.isfinite(found.gradients["logits"] + found.gradients["vmpo.eta"]).all()


def test_a_minibatch_without_rows_has_zero_loss_and_zero_gradients(judge: Any) -> None:
    found = judge("vmpo", ROWS | {"weights": [0] * 5}, DUALS)
    assert found.loss.value.item() == 0
    assert not np.any(np.concatenate(list(found.gradients.values())))


def test_dual_variables_of_each_member_start_at_their_configured_values(engine: Any) -> None:
    ctx: Engine = engine("vmpo", seeds=3, eta_init=0.5, alpha_init=7.0)
    for name, first in (("eta", 0.5), ("alpha", 7.0)):
        assert softplus(ctx.state.params[f"vmpo.{name}"]).tolist() == pytest.approx([first] * 3)
