"""Figures of a comparison, as pure functions: `ComparisonData` in, a matplotlib `Figure` out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, NullFormatter

from pgzoo.analysis.blocks import Block, Curve, Profile
from pgzoo.analysis.comparison import ComparisonData
from pgzoo.analysis.statistics import Estimate
from pgzoo.analysis.wording import center, interval, metric_in_words, plural
from pgzoo.tracking.plots import COLORS, GRID, INK, MUTED, style_axes, with_notebook_display

__all__ = ["colors", "curves_and_scores"]

STROKES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


def colors(count: int) -> list[str]:
    """Return a color for each side. From the eighth side on they repeat, with another line style."""
    return list(islice(cycle(COLORS), count))


def curves_and_scores(comparison: ComparisonData, block: Block | None = None) -> Figure:
    """Draw one row per environment: learning curves with bands on the left, final scores with intervals on the right.

    With several environments, the last row shows the performance profile and the IQM over all of them. With `block`,
    only the row of that block is drawn, without a title.
    """
    shown = [block] if block else comparison.all_blocks
    height = max(3.7, 1.6 + 0.52 * len(comparison.labels)) - (0.3 if block else 0.0)
    figure = Figure(
        figsize=(11, len(shown) * height),
        dpi=132,
        facecolor="white",
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12),
    )
    panels = figure.subplots(len(shown), 2, width_ratios=(1.75, 1), squeeze=False)
    for (left, right), one in zip(panels, shown, strict=True):
        style_axes(left)
        style_axes(right)
        name = "" if block else one.env or f"{len(comparison.envs)} environments"
        if one.env is None and comparison.profile:
            performance_profile(left, comparison.profile, comparison.labels)
            heading(left, name, "performance profile, 95% band")
        else:
            sample_efficiency(left, one.curves, comparison.labels, comparison.metric)
            heading(left, name, "learning curves: IQM over seeds, 95% band")
        forest(right, one, comparison.labels)
        right.set_xlabel(metric_in_words(comparison.score) if one.env else "normalized final score")
        heading(right, "", "final scores: IQM, 95% interval, one dot per seed")
    return with_notebook_display(figure)


def sample_efficiency(axes: Axes, curves: Sequence[Curve], labels: Sequence[str], metric: str) -> None:
    """Draw each side's curve with its band. Without a band (fewer than three seeds), draw each seed as a thin line."""
    axes.set_xlabel("environment steps")
    axes.set_ylabel(metric_in_words(metric))
    if not curves:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no curve: one point per run", transform=axes.transAxes, ha="center", color=MUTED)
        return
    for place, (curve, label, color) in enumerate(zip(curves, labels, colors(len(labels)), strict=True)):
        stroke = STROKES[place // len(COLORS) % len(STROKES)]
        if curve.band.method == "none" and len(curve.seeds) > 1:
            axes.plot(curve.steps, curve.seeds.T, color=color, linewidth=0.8, alpha=0.35)
        axes.fill_between(curve.steps, curve.band.low, curve.band.high, color=color, alpha=0.14, linewidth=0)
        name = f"{label} ({plural(len(curve.seeds), 'seed')})"
        axes.plot(curve.steps, curve.band.value, color=color, linewidth=2, linestyle=stroke, label=name)
    # the band of few seeds may reach far beyond all values: scale the axis to the values
    low = min(float(curve.seeds.min()) for curve in curves)
    high = max(float(curve.seeds.max()) for curve in curves)
    pad = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - pad, high + pad)
    axes.set_xlim(0, curves[0].steps[-1])
    legend(axes)


def performance_profile(axes: Axes, profile: Profile, labels: Sequence[str]) -> None:
    """Draw the fraction of runs above each normalized score."""
    axes.set_xlabel("normalized score τ (0: start of training, 1: best run)")
    axes.set_ylabel("fraction of runs above τ")
    for place, (band, label, color) in enumerate(zip(profile.bands, labels, colors(len(labels)), strict=True)):
        stroke = STROKES[place // len(COLORS) % len(STROKES)]
        axes.fill_between(profile.thresholds, band.low, band.high, color=color, alpha=0.14, linewidth=0)
        axes.plot(profile.thresholds, band.value, color=color, linewidth=2, linestyle=stroke, label=label)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(profile.thresholds[0], 1.0)
    legend(axes)


def forest(axes: Axes, block: Block, labels: Sequence[str]) -> None:
    """Draw each side's IQM with its interval, and the score of each seed as a dot."""
    estimates: list[Estimate] = [summary.iqm for summary in block.final]
    for place, (label, estimate, color) in enumerate(zip(labels, estimates, colors(len(labels)), strict=True)):
        scores = np.concatenate([of.values for of in block.scores[place]])
        spread = np.linspace(-0.09, 0.09, len(scores)) if len(scores) > 1 else np.zeros(1)
        axes.scatter(scores, place + 0.02 + spread, s=17, color=color, alpha=0.32, linewidths=0, zorder=2)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [place, place], color=color, linewidth=2.4, zorder=3)
        axes.scatter([estimate.value], [place], s=58, color=color, edgecolor="white", linewidth=1.2, zorder=4)
        axes.annotate(
            label, (0, place), (2, 15), xycoords=("axes fraction", "data"), textcoords="offset points",
            fontsize=9.5, color=INK, fontweight="bold",
        ).set_parse_math(False)  # fmt: skip
        axes.annotate(
            f"{center(estimate)}  {interval(estimate)}".rstrip(), (1, place), (-2, 15),
            xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=9, color=MUTED, ha="right",
        )  # fmt: skip
    axes.set_ylim(len(labels) - 0.55, -0.75)
    axes.set_yticks([])
    axes.yaxis.set_major_formatter(NullFormatter())
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.margins(x=0.06)


def heading(axes: Axes, title: str, subtitle: str) -> None:
    if title:
        axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=22).set_parse_math(False)
    axes.annotate(
        subtitle, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=9.5, color=MUTED
    ).set_parse_math(False)


def legend(axes: Axes) -> None:
    found = axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=9.5, labelcolor=INK, loc="best")
    for text in found.get_texts():
        text.set_parse_math(False)
