"""Frequencies of drawn actions and noise, compared with their probabilities."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from pgzoo.ops.draws import draw_noise
from pgzoo.ops.families import Family, family_for

FAMILIES: dict[str, gym.Space[Any]] = {
    "multi-categorical": MultiDiscrete([2, 3]),
    "bernoulli": MultiBinary(3),
    "gaussian": Box(-1.0, 1.0, (3,)),
}


def family(name: str) -> Family:
    return family_for(FAMILIES[name], "this test")


def chi_square(counts: Any, probabilities: Any) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


def noise_for(one: Family, *shape: int) -> Any:
    return draw_noise(one.noise, np.random.default_rng(0), (*shape, one.noise_size))


@pytest.mark.parametrize("logits", [[0.0, 1.0, -1.0, 2.0], [0.0, 0.7], [3.0, -1.5]])
def test_action_frequencies_match_their_probabilities(logits: list[float]) -> None:
    outputs = np.array(logits, np.float32)
    one = family_for(Discrete(len(logits)), "")
    drawn = one.draw(outputs, None, noise_for(one, 100_000))
    counts = np.bincount(drawn, minlength=len(logits))
    likely = np.exp(outputs) / np.exp(outputs).sum()
    assert chi_square(counts, likely) < 20  # the 99.98th percentile for three degrees of freedom


def test_bernoulli_frequencies_match_their_probabilities() -> None:
    outputs = np.array([0.0, 2.0, -1.0], np.float32)
    one = family("bernoulli")
    share = one.draw(outputs, None, noise_for(one, 100_000)).mean(0)
    assert share == pytest.approx(1 / (1 + np.exp(-outputs)), abs=0.006)


def test_components_of_a_multi_discrete_action_are_drawn_independently() -> None:
    outputs = np.array([0.0, 1.0, 0.0, 1.0, 2.0], np.float32)
    one = family("multi-categorical")
    drawn = one.draw(outputs, None, noise_for(one, 100_000))
    table = np.zeros((2, 3))
    np.add.at(table, tuple(drawn.T), 1)
    first, second = (np.exp(part) / np.exp(part).sum() for part in (outputs[:2], outputs[2:]))
    assert chi_square(table.ravel(), np.outer(first, second).ravel()) < 25


def test_normal_noise_is_scaled_and_shifted() -> None:
    noise = np.array([[1.0, -1.0, 0.0]], np.float32)
    drawn = family("gaussian").draw(np.array([[1.0, 2.0, 3.0]], np.float32), np.log([[0.5, 2.0, 1.0]]), noise)
    assert drawn.tolist() == [[1.5, 0.0, 3.0]] and drawn.dtype == np.float32


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("gap", [50.0, 200.0])
def test_a_nearly_certain_action_is_drawn_without_a_warning(size: int, gap: float) -> None:
    one = family_for(Discrete(size), "")
    for best in range(size):
        logits = np.zeros((1000, size), np.float32)
        logits[:, best] = gap
        assert one.draw(logits, None, noise_for(one, 1000)).tolist() == [best] * 1000
        assert one.mode(logits).tolist() == [best] * 1000


def test_nearly_certain_bits_are_drawn_without_a_warning() -> None:
    one, logits = family("bernoulli"), np.array([[50.0, -200.0, 200.0]] * 1000, np.float32)
    assert one.draw(logits, None, noise_for(one, 1000)).tolist() == [[1, 0, 1]] * 1000


@pytest.mark.parametrize("kind", ["uniform", "normal", "logistic"])
def test_noise_follows_the_named_distribution(kind: Any) -> None:
    noise = np.sort(draw_noise(kind, np.random.default_rng(0), (100_000,)).astype(np.float64))
    cumulative = {
        "uniform": lambda x: x,
        "normal": lambda x: torch.special.ndtr(torch.from_numpy(x)).numpy(),
        "logistic": lambda x: 1 / (1 + np.exp(-x)),
    }[kind](noise)
    distance = np.abs(cumulative - np.arange(1, 100_001) / 100_000).max()
    assert distance < 1.95 / 100_000**0.5  # Kolmogorov-Smirnov at 0.1%


@pytest.mark.parametrize("kind", ["uniform", "logistic"])
def test_extreme_uniform_numbers_give_no_nan_and_no_warning(kind: Any) -> None:
    class Edges:
        def random(self, shape: Any, dtype: Any) -> Any:
            return np.array([0.0, 1 - 2**-24], dtype)

    assert not np.isnan(draw_noise(kind, Edges(), (2,))).any()  # type: ignore[arg-type]


def test_an_impossible_action_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf], np.float32)
    noise = np.array([[0.0], [1 - 2**-24]], np.float32)
    assert family_for(Discrete(3), "").draw(np.stack([logits, logits]), None, noise).tolist() == [1, 1]
