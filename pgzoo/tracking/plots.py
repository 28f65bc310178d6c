"""Figures of a run, as pure functions: numbers in, a matplotlib `Figure` out, no global state.

`figure.savefig(path)` writes a figure to a file. A notebook displays it, also without pyplot.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

__all__ = ["evaluation_histogram", "learning_curve", "learning_curves", "moving_average", "with_notebook_display"]

INK, MUTED, GRID = "#1f2933", "#5f6c7b", "#e4e8ee"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe & Ito's palette for color-blind readers, without its yellow, which is hard to see on white."""
BLUE, ORANGE, PALE = COLORS[0], COLORS[1], "#7fb2d6"
DOTS = 5000
"""Largest number of episodes that are drawn."""


def moving_average(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Return the trailing moving average, `[n]`: at each value, the mean of it and the `window - 1` values before."""
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
    """Draw the return of each training episode, and their moving average, against environment steps.

    `steps` and `returns` are `[episodes]`, in the order in which the episodes ended. The average is over `window`
    episodes (default: 100, or a tenth of all episodes if there are fewer than 1000). `threshold` is drawn as a
    horizontal line: the environment's reward threshold. Without episodes, the figure has a note instead.
    """
    figure, (axes,) = new_figure(title, subtitle)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of training episodes")
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(returns, dtype=np.float64)
    if not len(y):
        return empty(figure, axes, "no episode ended")
    window = window or min(100, max(1, len(y) // 10))
    thin = np.unique(np.linspace(0, len(y) - 1, min(len(y), DOTS)).astype(int))
    size = float(np.clip(3000 / len(thin), 5, 22))
    axes.scatter(x[thin], y[thin], s=size, color=PALE, alpha=0.5, linewidths=0, label="episode", rasterized=True)
    if window > 1:
        average = moving_average(y, window)
        axes.plot(x, average, color=BLUE, linewidth=2, label=f"mean of the last {window} episodes")
    if threshold is not None:
        axes.axhline(
            threshold, color=MUTED, linewidth=1, linestyle=(0, (5, 4)), label=f"threshold {minus(f'{threshold:g}')}"
        )
    axes.set_xlim(left=0)
    legend(axes)
    return fit_margins(figure)


def learning_curves(
    curves: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]],
    *,
    title: str = "",
    subtitle: str = "",
    ylabel: str = "mean return of training episodes",
) -> Figure:
    """Draw the curves of several seeds as thin lines, and their mean as a thick line.

    `curves` maps a label (of a setting, say) to one pair of steps `[points]` and values `[points]` per seed. The mean
    is drawn over the steps that all seeds of the label reached.
    """
    figure, (axes,) = new_figure(title, subtitle)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(ylabel)
    known = {
        label: [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in seeds if len(np.asarray(x))]
        for label, seeds in curves.items()
    }
    if not any(known.values()):
        return empty(figure, axes, "no curve")
    for place, (label, seeds) in enumerate(known.items()):
        if not seeds:
            continue
        color = COLORS[place % len(COLORS)]
        for x, y in seeds:
            axes.plot(x, y, color=color, linewidth=0.8, alpha=0.4)
        begin, end = max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds)
        grid = np.unique(np.concatenate([x for x, _ in seeds]))
        grid = grid[(grid >= begin) & (grid <= end)]
        mean = np.mean([np.interp(grid, x, y) for x, y in seeds], axis=0)
        name = f"{label}: mean of {len(seeds)} seeds" if label else f"mean of {len(seeds)} seeds"
        axes.plot(grid, mean, color=color, linewidth=2, label=name if len(seeds) > 1 else label or "1 seed")
    axes.set_xlim(left=0)
    legend(axes)
    return fit_margins(figure)


def evaluation_histogram(
    sampled: Sequence[float],
    greedy: Sequence[float] = (),
    *,
    title: str = "",
    subtitle: str = "",
    bins: int = 31,
) -> Figure:
    """Draw histograms of the returns of an evaluation with sampled actions and one with greedy actions.

    `sampled` and `greedy` are `[episodes]`. Each has a panel with the same bins, and a line marks its mean.
    """
    groups = [("sampled actions", sampled, BLUE), ("greedy actions", greedy, ORANGE)]
    groups = [(name, values, color) for name, values, color in groups if len(values)]
    figure, panels = new_figure(title, subtitle, rows=max(1, len(groups)))
    panels[-1].set_xlabel("return of evaluation episodes")
    if not groups:
        return empty(figure, panels[0], "no evaluation")
    everything = np.concatenate([np.asarray(values, dtype=np.float64) for _, values, _ in groups])
    low, high = float(everything.min()), float(everything.max())
    if high - low < 1e-9 * max(1.0, abs(high)):  # all returns are equal: draw one narrow bar
        pad = max(1.0, 0.05 * abs(high))
        low, high = low - pad, high + pad
    edges = np.linspace(low, high, bins + 1)
    # Separate panels: greedy episodes often all have the same return, and that bar would dwarf the others.
    for axes, (name, values, color) in zip(panels, groups, strict=True):
        counts, _ = np.histogram(values, edges)
        bars = counts > 0  # the others would be invisible, and take most of the time
        axes.bar(
            edges[:-1][bars],
            counts[bars],
            np.diff(edges)[bars],
            align="edge",
            color=color,
            alpha=0.6,
            edgecolor="white",
            linewidth=0.6,
        )
        axes.update_datalim([(low, 0.0), (high, 0.0)])
        mean = float(np.mean(values))
        shown = minus(f"{mean:,.{1 if abs(mean) >= 100 else 3}f}")
        label = f"{name}: mean {shown}, {len(values):,} episodes"
        axes.axvline(mean, color=color, linewidth=1.8, linestyle=(0, (4, 3)), label=label)
        axes.set_ylabel("episodes")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.margins(y=0.12)
        legend(axes)
    return fit_margins(figure)


def new_figure(title: str, subtitle: str, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8, 4.5 if rows == 1 else 5.2), dpi=132, facecolor="white")
    # Fixed margins: a layout engine draws everything twice, which is slow with a hundred seeds.
    figure.subplots_adjust(left=0.1, right=0.975, bottom=0.12, top=0.855 if subtitle else 0.91, hspace=0.2)
    panels: list[Axes] = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    top = panels[0]
    # With a fixed y, matplotlib doesn't measure all labels to find the place of the title.
    heading = top.set_title(
        title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=24 if subtitle else 12, y=1.0
    )
    heading.set_parse_math(False)  # don't interpret a dollar sign in an environment name as math
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
        style_axes(axes)
    return figure, panels


def style_axes(axes: Axes) -> None:
    """Set the grid, spines, ticks and label colors of a panel."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b6c0cc")
    axes.tick_params(colors=MUTED, labelsize=9.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(thousands))  # short labels that fit the fixed margins
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def fit_margins(figure: Figure) -> Figure:
    """Widen the left margin for long tick labels."""
    longest = max(len(thousands(tick)) for axes in figure.axes for tick in axes.get_yticks())
    figure.subplots_adjust(left=max(0.1, 0.055 + 0.0105 * longest))
    return with_notebook_display(figure)


def legend(axes: Axes) -> None:
    axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=9.5, labelcolor=INK, loc="best")


def empty(figure: Figure, axes: Axes, text: str) -> Figure:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=12)
    return with_notebook_display(figure)


def thousands(value: float, position: int | None = None) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return minus(f"{value / unit:g}{letter}")
    return minus(f"{value:g}")


def minus(text: str) -> str:
    """Return the text with minus signs (U+2212) in place of hyphens."""
    return text.replace("-", "−")


def with_notebook_display(figure: Figure) -> Figure:
    """Make IPython display the figure as an image.

    IPython does so by itself only after pyplot was imported, and these figures don't use pyplot.
    """
    figure._repr_png_ = partial(png_bytes, figure)  # type: ignore[attr-defined]
    return figure


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", pil_kwargs={"compress_level": 1})  # a fifth larger, in two thirds of the time
    return data.getvalue()
