"""Text for numbers, intervals and metric names, the same in the terminal, the report and the figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from pgzoo.analysis.statistics import Estimate
from pgzoo.tracking.ledger import plural

__all__ = [
    "center",
    "decimals",
    "differing_settings",
    "interval",
    "metric_in_words",
    "number",
    "percent",
    "percent_interval",
    "plural",
    "ranges",
    "signed",
]

MAX_SETTINGS = 6
"""Most settings that a line on differing settings names."""

METRICS = {
    "train/return_mean": "mean return of training episodes",
    "train/length_mean": "mean length of training episodes (steps)",
    "eval/return_mean": "mean return of evaluation episodes, sampled actions",
    "eval/greedy_return_mean": "mean return of evaluation episodes, greedy actions",
    "eval/return_std": "standard deviation of evaluation returns",
    "eval/length_mean": "mean length of evaluation episodes (steps)",
    "summary/return_final": "mean return of the final evaluation",
    "loss/policy": "policy loss",
    "loss/value": "value loss",
    "loss/total": "total loss",
    "policy/entropy": "policy entropy (nats)",
    "policy/kl": "KL divergence from the old policy (nats)",
    "policy/clip_fraction": "fraction of clipped probability ratios",
    "value/explained_variance": "explained variance of the critic",
    "time/steps_per_second": "environment steps per second",
}


def metric_in_words(name: str) -> str:
    """Return a description of a metric for an axis label; the name itself if pgzoo doesn't know it."""
    return METRICS.get(name, name)


def decimals(size: float) -> int:
    """Return the number of decimals, one to three, for numbers of this magnitude."""
    return 1 if size >= 9.95 else 2 if size >= 0.995 else 3


def number(value: float, scale: float | None = None) -> str:
    """Format a number with one to three decimals, chosen by the magnitude of `scale` (default: of `value`)."""
    size = abs(value if scale is None else scale)
    digits = decimals(size)
    text = f"{value:.2e}" if 0 < size < 0.01 else f"{value:,.{digits}f}"
    return text.replace("-", "−")


def interval(estimate: Estimate) -> str:
    """Format the interval as `[450.2, 499.9]`; an empty string if there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    scale = max(abs(estimate.value), abs(estimate.low), abs(estimate.high))
    return f"[{number(estimate.low, scale)}, {number(estimate.high, scale)}]"


def center(estimate: Estimate) -> str:
    """Format the value with as many decimals as its interval."""
    ends = [abs(x) for x in (estimate.low, estimate.high, estimate.value) if x is not None and math.isfinite(x)]
    return number(estimate.value, max(ends, default=0.0))


def signed(estimate: Estimate) -> str:
    """Format the value of a difference, with `+` if it is positive."""
    return f"+{center(estimate)}" if estimate.value > 0 else center(estimate)


def percent(value: float) -> str:
    """Format a fraction as `83%`."""
    return f"{100 * value:.0f}%"


def percent_interval(estimate: Estimate) -> str:
    """Format the interval of a fraction as `[56, 98]`, in percent; an empty string if there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def ranges(numbers: Iterable[int]) -> str:
    """Format a set of integers as `0-4, 7`."""
    parts: list[list[int]] = []
    for n in sorted(set(numbers)):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in parts)


def differing_settings(differences: Mapping[str, Sequence[str]]) -> str:
    """Return in a line or two the settings in which the sides differ, an empty string if there are none.

    `differences` are the values of each side, by name of the setting (see `ComparisonData.differences`).
    """
    if not differences:
        return ""
    shown = list(differences.items())[:MAX_SETTINGS]
    listed = [
        f"{key} {' | '.join(value if len(value) <= 20 else value[:17] + '...' for value in values)}"
        for key, values in shown
    ]
    more = f"; {rest} more" if (rest := len(differences) - len(shown)) else ""
    return f"Settings that differ: {'; '.join(listed)}{more} (all: --out FILE.html)."
