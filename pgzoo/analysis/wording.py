"""How numbers and their intervals are written, in the terminal and in the report alike."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pgzoo.analysis.statistics import Estimate

__all__ = ["interval", "number", "percent", "percent_interval", "plural", "ranges"]


def number(value: float, scale: float | None = None) -> str:
    """Write a number with one, two or three digits behind the point, as one of size `scale` deserves."""
    size = abs(value if scale is None else scale)
    digits = 1 if size >= 9.95 else 2 if size >= 0.995 else 3
    if 0 < size < 0.01:
        return f"{value:.2e}"
    return f"{value:,.{digits}f}".replace("-", "−")


def interval(estimate: Estimate) -> str:
    """Write `[450.2, 499.9]`, or nothing where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    scale = max(abs(estimate.value), abs(estimate.low), abs(estimate.high))
    return f"[{number(estimate.low, scale)}, {number(estimate.high, scale)}]"


def center(estimate: Estimate) -> str:
    """Write the value, with as many digits as its interval."""
    ends = [abs(x) for x in (estimate.low, estimate.high, estimate.value) if x is not None and math.isfinite(x)]
    return number(estimate.value, max(ends, default=0.0))


def percent(value: float) -> str:
    """Write `83 %`."""
    return f"{100 * value:.0f} %"


def percent_interval(estimate: Estimate) -> str:
    """Write `[56, 98]`, in per cent, or nothing where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def ranges(numbers: Iterable[int]) -> str:
    """Write `0-4, 7`."""
    parts: list[list[int]] = []
    for n in sorted(set(numbers)):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in parts)


def plural(count: int, noun: str) -> str:
    """Write `1 run`, `2 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
