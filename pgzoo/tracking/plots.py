"""Figures of one run, as pure functions: numbers in, a matplotlib `Figure` out, no global state.

`figure.savefig(path)` writes one; in a notebook the figure shows itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

__all__ = ["evaluation_histogram", "learning_curve", "moving_average"]

INK, MUTED, GRID = "#1f2933", "#5f6c7b", "#e4e8ee"
BLUE, ORANGE, PALE = "#2563a8", "#d9722e", "#7fa7d4"
DOTS = 5000


def moving_average(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Return the mean of the last `window` values at each, of fewer at the beginning; `[n]` as given."""
    totals = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    ends = np.arange(1, len(totals))
    begins = np.maximum(ends - window, 0)
    result: NDArray[np.float64] = (totals[ends] - totals[begins]) / (ends - begins)
    return result


def learning_curve(
    steps: ArrayLike,
    returns: ArrayLike,
    *,
    title: str = "",
    subtitle: str = "",
    window: int | None = None,
    threshold: float | None = None,
) -> Figure:
    """Draw each training episode's return, and their moving average, against environment steps.

    `steps` and `returns` are `[episodes]`, in the order in which the episodes ended. The average is over
    `window` episodes (default: 100, or a tenth of them when there are fewer than 1000). `threshold` draws the
    environment's reward threshold. No episodes give a figure that says so.
    """
    figure, (axes,) = canvas(title, subtitle)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return per episode")
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(returns, dtype=np.float64)
    if not len(y):
        return say(figure, axes, "no episode ended")
    window = window or min(100, max(1, len(y) // 10))
    thin = np.unique(np.linspace(0, len(y) - 1, min(len(y), DOTS)).astype(int))
    size = float(np.clip(3000 / len(thin), 5, 22))
    axes.scatter(x[thin], y[thin], s=size, color=PALE, alpha=0.5, linewidths=0, label="episode", rasterized=True)
    if window > 1:
        average = moving_average(y, window)
        axes.plot(x, average, color=BLUE, linewidth=2, label=f"mean of the last {window} episodes")
    if threshold is not None:
        axes.axhline(threshold, color=MUTED, linewidth=1, linestyle=(0, (5, 4)), label=f"threshold {threshold:g}")
    axes.set_xlim(left=0)
    legend(axes)
    return fit(figure)


def evaluation_histogram(
    sampled: Sequence[float],
    greedy: Sequence[float] = (),
    *,
    title: str = "",
    subtitle: str = "",
    bins: int = 31,
) -> Figure:
    """Draw how often each return came up in an evaluation, with sampled and with greedy actions.

    `sampled` and `greedy` are `[episodes]`; each has a panel, with the same bins, and a line marks its mean.
    """
    groups = [("sampled actions", sampled, BLUE), ("greedy actions", greedy, ORANGE)]
    groups = [(name, values, color) for name, values, color in groups if len(values)]
    figure, panels = canvas(title, subtitle, rows=max(1, len(groups)))
    panels[-1].set_xlabel("return per episode")
    if not groups:
        return say(figure, panels[0], "no evaluation")
    everything = np.concatenate([np.asarray(values, dtype=np.float64) for _, values, _ in groups])
    low, high = float(everything.min()), float(everything.max())
    if high - low < 1e-9 * max(1.0, abs(high)):  # every episode alike: one bar, not a wall
        pad = max(1.0, 0.05 * abs(high))
        low, high = low - pad, high + pad
    edges = np.linspace(low, high, bins + 1)
    # Panels of their own: greedy actions often give one return over and over, and its bar would dwarf the rest.
    for axes, (name, values, color) in zip(panels, groups, strict=True):
        axes.hist(values, bins=edges.tolist(), color=color, alpha=0.6, edgecolor="white", linewidth=0.6)
        mean = float(np.mean(values))
        label = f"{name}: mean {mean:,.{1 if abs(mean) >= 100 else 3}f}, {len(values):,} episodes"
        axes.axvline(mean, color=color, linewidth=1.8, linestyle=(0, (4, 3)), label=label)
        axes.set_ylabel("episodes")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.margins(y=0.12)
        legend(axes)
    return fit(figure)


def canvas(title: str, subtitle: str, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8, 4.5 if rows == 1 else 5.2), dpi=132, facecolor="white")
    # Fixed margins: a layout engine would draw everything twice, and there may be a hundred seeds.
    figure.subplots_adjust(left=0.1, right=0.975, bottom=0.12, top=0.855 if subtitle else 0.91, hspace=0.2)
    panels: list[Axes] = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    top = panels[0]
    heading = top.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=24 if subtitle else 12)
    heading.set_parse_math(False)  # a dollar sign in an environment's name isn't mathematics
    if subtitle:
        note = top.annotate(
            subtitle,
            (0, 1),
            (0, 8),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=9.5,
            color=MUTED,
        )
        note.set_parse_math(False)
    for axes in panels:
        dress(axes)
    return figure, panels


def dress(axes: Axes) -> None:
    """Give a panel the house's look."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b6c0cc")
    axes.tick_params(colors=MUTED, labelsize=9.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(thousands))  # short labels, which fit the margins
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def fit(figure: Figure) -> Figure:
    """Widen the left margin for long numbers."""
    longest = max(len(thousands(tick)) for axes in figure.axes for tick in axes.get_yticks())
    figure.subplots_adjust(left=max(0.1, 0.055 + 0.0105 * longest))
    return figure


def legend(axes: Axes) -> None:
    axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=9.5, labelcolor=INK, loc="best")


def say(figure: Figure, axes: Axes, text: str) -> Figure:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=12)
    return figure


def thousands(value: float, position: int | None = None) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
