"""The tables of `pgzoo compare --sensitivity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pgzoo.cli import tables
from pgzoo.errors import visible

if TYPE_CHECKING:
    from pgzoo.analysis.sensitivity import Sensitivity
    from pgzoo.analysis.sweeps import SweepAnalysis

__all__ = ["show"]

EXPLANATION = """\
Scores are means over seeds, normalized in each environment: 0 is the 5th percentile over all settings, 1 the 95th.
tuned: best setting of each environment. shared: best single setting. sensitivity: tuned minus shared.
must be tuned: hyperparameters to tune for each environment to reach 95% of the tuned score; the others are shared."""


def show(analysis: SweepAnalysis) -> None:
    """Print the scores in each environment and, with several environments, the sensitivity of each algorithm."""
    from rich.text import Text

    from pgzoo.analysis.wording import metric_in_words, number

    out = tables.table_console()
    out.print(
        Text("\nScores of the settings", style="bold").append(f"  {metric_in_words(analysis.score)}", style="dim")
    )
    columns = ("", "environment", "settings", "worst", "5%", "median", "95%", "best", "best setting")
    rows = []
    for found in analysis.algorithms:
        for env in found.environments:
            scale = max(abs(env.worst), abs(env.best))
            numbers = [number(x, scale) for x in (env.worst, env.low, env.median, env.high, env.best)]
            cells = [visible(env.env), str(env.settings), *numbers, setting_text(env.best_setting)]
            rows.append([Text(visible(found.algorithm), style="cyan"), *map(Text, cells)])
    out.print()
    out.print(tables.plain_table(columns, rows, out.width, numbers=range(2, 8)), crop=False)
    measured = [found for found in analysis.algorithms if found.sensitivity is not None]
    if measured:
        out.print(Text("\nHyperparameter sensitivity", style="bold").append("  normalized scores", style="dim"))
        headings = ("", "environments", "tuned", "shared", "sensitivity", "must be tuned", "shared setting")
        rows = [
            [Text(visible(found.algorithm), style="cyan"), *map(Text, sensitivity_cells(found))] for found in measured
        ]
        out.print()
        out.print(tables.plain_table(headings, rows, out.width, numbers=range(1, 5)), crop=False)
        out.print(f"\n[dim]{EXPLANATION}[/]")
    for found in analysis.algorithms:
        for reason in found.missing:
            out.print(Text(f"{visible(found.algorithm)}: {visible(reason)}.", style="yellow"))
    out.print()


def sensitivity_cells(found: Sensitivity) -> list[str]:
    assert found.tuned is not None and found.shared is not None and found.sensitivity is not None
    needed = "-"
    if (enough := found.enough) is not None:
        names = f" ({', '.join(enough.axes)})" if enough.axes else ""
        needed = f"{len(enough.axes)} of {len(found.axes)}{names}"
    return [
        str(len(found.environments)),
        decimal(found.tuned),
        decimal(found.shared),
        decimal(found.sensitivity),
        needed,
        setting_text(found.shared_setting),
    ]


def decimal(score: float) -> str:
    return f"{score:.3f}".replace("-", "−")


def setting_text(setting: Mapping[str, float]) -> str:
    return visible(" ".join(f"{key}={value:g}" for key, value in setting.items()))
