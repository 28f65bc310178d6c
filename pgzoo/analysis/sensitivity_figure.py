"""The figure of a sensitivity analysis: scores over the values of each hyperparameter, and what tuning gains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from pgzoo.analysis.figures import colors, heading, legend
from pgzoo.analysis.sensitivity import NEAR_PEAK, Grid, Sensitivity
from pgzoo.analysis.wording import metric_in_words, plural
from pgzoo.tracking.plots import MUTED, style_axes, with_notebook_display

__all__ = ["sensitivity_figure"]


def sensitivity_figure(grids: Sequence[Grid], results: Sequence[Sensitivity], score: str) -> Figure:
    """Draw one row per environment and one column per hyperparameter, with a line per algorithm.

    If a sensitivity was computed, the last row shows it beside the score of the shared setting, and the score by the
    number of hyperparameters that are tuned for each environment. `results` are those of `grids`, in the same order.
    """
    envs = list(dict.fromkeys(env for grid in grids for env in grid.scores))
    axes_names = list(dict.fromkeys(name for grid in grids for name in grid.axes))
    measured = any(found.sensitivity is not None for found in results)
    figure = Figure(
        figsize=(max(9.0, 4.4 * len(axes_names)), 3.6 * (len(envs) + measured)),
        dpi=132,
        facecolor="white",
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12),
    )
    parts = figure.add_gridspec(len(envs) + measured, 1)
    for row, env in enumerate(envs):
        inner = parts[row].subgridspec(1, len(axes_names))
        panels: list[Axes] = []
        for column in range(len(axes_names)):
            panels.append(figure.add_subplot(inner[column], sharey=panels[0] if panels else None))
        for column, (panel, name) in enumerate(zip(panels, axes_names, strict=True)):
            over_values(panel, grids, env, name)
            heading(panel, env if column == 0 else "", "line: best; dashed: mean; one dot per setting")
        panels[0].set_ylabel(metric_in_words(score))
    if measured:
        inner = parts[len(envs)].subgridspec(1, 2)
        left, right = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
        plane(left, results)
        heading(left, plural(len(envs), "environment"), "lower right is better: high score, little to gain from tuning")
        by_number_tuned(right, results)
        heading(right, "", f"dashed: {100 * NEAR_PEAK:g}% of the tuned score; ring: effective dimensionality")
    return with_notebook_display(figure)


def over_values(axes: Axes, grids: Sequence[Grid], env: str, name: str) -> None:
    """Draw the scores in one environment over the values of one hyperparameter."""
    style_axes(axes)
    axes.set_xlabel(name)
    with_it = [grid for grid in grids if name in grid.axes and env in grid.scores]
    place_of = {grid.algorithm: grid.axes.index(name) for grid in with_it}
    values = sorted({key[place_of[grid.algorithm]] for grid in with_it for key in grid.scores[env]})
    for grid, color in zip(grids, colors(len(grids)), strict=True):
        if grid not in with_it:
            continue
        by_value: dict[float, list[float]] = {}
        for setting, score in grid.scores[env].items():
            by_value.setdefault(setting[place_of[grid.algorithm]], []).append(score)
        known = sorted(by_value)
        places = [values.index(value) for value in known]
        for place, value in zip(places, known, strict=True):
            axes.scatter([place] * len(by_value[value]), by_value[value], s=17, color=color, alpha=0.32, linewidths=0)
        best = [max(by_value[value]) for value in known]
        mean = [float(np.mean(by_value[value])) for value in known]
        axes.plot(places, mean, color=color, linewidth=1.4, linestyle=(0, (5, 2)))
        axes.plot(places, best, color=color, linewidth=2, marker="o", markersize=5, label=grid.algorithm)
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axes.margins(x=0.08)
    if with_it:
        legend(axes)
    else:
        axes.text(0.5, 0.5, "not swept", transform=axes.transAxes, ha="center", color=MUTED)


def plane(axes: Axes, results: Sequence[Sensitivity]) -> None:
    """Draw each algorithm as a point: the score of its best single setting, and what tuning adds to it."""
    style_axes(axes)
    axes.set_xlabel("score of the shared setting (normalized)")
    axes.set_ylabel("sensitivity")
    for found, color in zip(results, colors(len(results)), strict=True):
        if found.sensitivity is not None and found.shared is not None:
            axes.scatter(
                [found.shared], [found.sensitivity], s=80, color=color, edgecolor="white", label=found.algorithm
            )
    low, high = axes.get_xlim()
    axes.set_xlim(min(0.0, low), max(1.1, high))
    axes.set_ylim(min(-0.02, axes.get_ylim()[0]), max(0.3, 1.15 * axes.get_ylim()[1]))
    legend(axes)


def by_number_tuned(axes: Axes, results: Sequence[Sensitivity]) -> None:
    """Draw the score over the number of hyperparameters that are tuned for each environment."""
    style_axes(axes)
    axes.set_xlabel("hyperparameters tuned for each environment")
    axes.set_ylabel("score (normalized)")
    for found, color in zip(results, colors(len(results)), strict=True):
        if not found.subsets or found.tuned is None:
            continue
        counts = [len(subset.axes) for subset in found.subsets]
        axes.plot(
            counts, [subset.score for subset in found.subsets], color=color, linewidth=2, marker="o", markersize=5,
            label=found.algorithm,
        )  # fmt: skip
        axes.axhline(NEAR_PEAK * found.tuned, color=color, linewidth=1, linestyle=(0, (5, 4)))
        if (enough := found.enough) is not None:
            axes.scatter([len(enough.axes)], [enough.score], s=170, facecolor="none", edgecolor=color, linewidth=1.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        legend(axes)
    else:
        axes.text(0.5, 0.5, "needs a full grid", transform=axes.transAxes, ha="center", color=MUTED)
