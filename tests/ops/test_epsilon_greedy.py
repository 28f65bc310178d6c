"""The epsilon-greedy distribution compared with values computed by hand, with and without an action mask."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from pgzoo.errors import UnfitError
from pgzoo.ops.distributions import EpsilonGreedy
from pgzoo.ops.families import family_for, masked
from pgzoo.ops.heads import ActionHead
from pgzoo.types import Spec

VALUES = torch.tensor([[[[1.0, 3.0, 2.0, 0.0]]]])
MASK = torch.tensor([[[[True, False, True, True]]]])


def dist(epsilon: float, *, mask: bool = False) -> EpsilonGreedy:
    return EpsilonGreedy(masked(VALUES, MASK) if mask else VALUES, torch.full((1, 1, 1, 1), epsilon))


@pytest.mark.parametrize(
    ("epsilon", "mask", "probabilities"),
    [
        (0.2, False, [0.05, 0.85, 0.05, 0.05]),
        (0.3, True, [0.1, 0.0, 0.8, 0.1]),
        (0.0, False, [0.0, 1.0, 0.0, 0.0]),
        (1.0, True, [1 / 3, 0.0, 1 / 3, 1 / 3]),
    ],
)
def test_probabilities_entropy_and_draws_match_values_computed_by_hand(
    epsilon: float, mask: bool, probabilities: list[float]
) -> None:
    one = dist(epsilon, mask=mask)
    found = [one.log_prob(torch.tensor([[[a]]])).exp().item() for a in range(4)]
    assert found == pytest.approx(probabilities)
    assert one.entropy().item() == pytest.approx(-sum(p * math.log(p) for p in probabilities if p))
    family = family_for(Discrete(4), "", distribution="epsilon-greedy")
    noise = np.random.default_rng(0).random((20_000, family.noise_size), np.float32)
    drawn = family.draw(one.values[0, 0].numpy(), one.epsilon[0, 0].numpy(), noise)
    assert np.bincount(drawn, minlength=4) / len(noise) == pytest.approx(probabilities, abs=0.015)
    edge = np.array([[0.0, np.nextafter(np.float32(1), np.float32(0))]], np.float32)
    assert probabilities[family.draw(one.values[0, 0].numpy(), one.epsilon[0, 0].numpy(), edge)[0]] > 0


def test_kl_divergence_action_values_and_mode_match_hand_computed_results() -> None:
    a, b = dist(0.2), dist(0.4)
    assert a.kl(b).item() == pytest.approx(0.85 * math.log(0.85 / 0.7) + 3 * 0.05 * math.log(0.05 / 0.1))
    assert dist(0.0).kl(a).item() == pytest.approx(-math.log(0.85))
    assert math.isinf(a.kl(dist(0.0)).item())
    assert a.state_value().item() == 3.0 and dist(0.2, mask=True).state_value().item() == 2.0
    assert a.value_of(torch.tensor([[[2]]])).item() == 2.0
    assert a.mode().item() == 1 and dist(0.2, mask=True).mode().item() == 2


def test_learning_action_values_requires_the_epsilon_greedy_distribution() -> None:
    space: Any = Discrete(4)

    class Config:
        state_std, rescale, log_std = False, False, 0.0

        def __init__(self, distribution: str) -> None:
            self.distribution = distribution

    needs = frozenset({"action_values"})
    with pytest.raises(UnfitError, match=r"Use --policy\.distribution epsilon-greedy, which needs Discrete actions"):
        ActionHead(Spec(space, space, space), Config("auto"), needs, 'policy "mine"')  # type: ignore[arg-type]
    head = ActionHead(Spec(space, space, space), Config("epsilon-greedy"), needs, "")  # type: ignore[arg-type]
    assert head.init()["epsilon"].tolist() == [1.0]
