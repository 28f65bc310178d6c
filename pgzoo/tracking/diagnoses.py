"""What the metrics of a run say about why it learned little: findings in words, each with what to try.

A finding is reported only where the numbers are clear. `benchmarks/diagnoses.py` lists what is found in finished runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgzoo.tracking.report import History

__all__ = ["Diagnosis", "diagnose"]

FEWEST_POINTS = 10
"""Shorter runs aren't judged."""
WORSE_THAN_A_CONSTANT = -0.1
"""An explained variance below this is worse than that of a constant by more than the noise of a short window."""
COLLAPSED_ENTROPY = 0.01
"""An entropy below this share of the first one is a collapse, if it stays there."""
EARLY = 0.25
"""A collapse within this share of the training steps is early."""
MOST_ROWS = 0.5
"""A clip fraction above this leaves most rows without a gradient."""


@dataclass(frozen=True)
class Diagnosis:
    """A finding about a run, and what to try."""

    name: str
    """One of `critic`, `entropy`, `clipping`, `gradient`."""
    finding: str
    advice: str

    def __str__(self) -> str:
        return f"{self.finding} {self.advice}"


def diagnose(history: History) -> list[Diagnosis]:
    """Return the findings about a run, none if its metrics look healthy or are too few.

    Judged are medians over the second half of training, so that the start and single updates don't count.
    """
    found = (_critic(history), _entropy(history), _clipping(history), _gradient(history))
    return [diagnosis for diagnosis in found if diagnosis]


def _critic(history: History) -> Diagnosis | None:
    """The critic is worse than a constant, although there is something to predict.

    Where most episodes have the best return, as in a solved CartPole, values differ by too little to be explained.
    """
    explained = _second_half(_series(history.metrics, "value/explained_variance"))
    returns = _second_half(history.returns)
    if not explained or not returns or statistics.median(explained) >= WORSE_THAN_A_CONSTANT:
        return None
    if statistics.median(returns) >= max(returns) or _solved(history):
        return None
    return Diagnosis(
        "critic",
        "The critic predicts returns worse than a constant would "
        f"(explained variance {statistics.median(explained):.2f}).",
        "Try --normalize-reward, a larger --value-coef, or a larger network.",
    )


def _entropy(history: History) -> Diagnosis | None:
    """The policy became deterministic early and stayed so.

    The entropy of a density, which may be negative, isn't judged.
    """
    points = sorted((step, m["policy/entropy"]) for step, m in history.metrics.items() if "policy/entropy" in m)
    if len(points) < FEWEST_POINTS or min(entropy for _, entropy in points) < 0 or points[0][1] == 0:
        return None
    collapsed = None
    for step, entropy in reversed(points):
        if entropy >= COLLAPSED_ENTROPY * points[0][1]:
            break
        collapsed = step
    if collapsed is None or collapsed > EARLY * points[-1][0]:
        return None
    return Diagnosis(
        "entropy",
        f"The policy stopped exploring at step {collapsed:,}: its entropy fell below 1% of its first value.",
        "Try a smaller --learning-rate or a larger --entropy-coef.",
    )


def _clipping(history: History) -> Diagnosis | None:
    """Most rows were outside of the clip range and had no gradient."""
    clipped = _second_half(_series(history.metrics, "policy/clip_fraction"))
    if not clipped or statistics.median(clipped) <= MOST_ROWS:
        return None
    return Diagnosis(
        "clipping",
        f"The probability ratio was clipped in {statistics.median(clipped):.0%} of rows, which then have no gradient.",
        "Try a smaller --learning-rate, fewer --epochs, or --target-kl 0.02.",
    )


def _gradient(history: History) -> Diagnosis | None:
    """The gradient was exactly 0."""
    norms = _second_half(_series(history.metrics, "optim/grad_norm"))
    if not norms or max(norms) > 0:
        return None
    return Diagnosis(
        "gradient",
        "The gradient was 0, so nothing was learned.",
        "Did every episode have the same return? Then the environment gave no reward to learn from: explore longer "
        "(--entropy-coef, more --num-envs), or give intermediate rewards.",
    )


def _solved(history: History) -> bool:
    """Whether the last training episodes, or the final evaluation, reach the environment's reward threshold."""
    judged = (history.returns[-100:], history.final_returns("sampled"), history.final_returns("greedy"))
    threshold = history.threshold
    return threshold is not None and any(returns and statistics.fmean(returns) >= threshold for returns in judged)


def _series(metrics: Mapping[int, Mapping[str, float]], name: str) -> list[float]:
    """Return the values of a metric in the order of steps."""
    return [metrics[step][name] for step in sorted(metrics) if name in metrics[step]]


def _second_half(values: Sequence[float]) -> Sequence[float]:
    """Return the second half of the values; nothing if they are too few to judge."""
    return values[len(values) // 2 :] if len(values) >= FEWEST_POINTS else []
