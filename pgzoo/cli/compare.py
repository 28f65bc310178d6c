"""`pgzoo compare SELECTOR SELECTOR ...`: compare runs, with confidence intervals over seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgzoo.cli import common, tables
from pgzoo.cli.completion import complete_run
from pgzoo.errors import visible
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pgzoo.analysis.blocks import Block, ScoreSummary
    from pgzoo.analysis.compare import Comparison
    from pgzoo.analysis.comparison import ComparisonData
    from pgzoo.analysis.sweeps import SweepAnalysis

__all__ = ["command"]


@click.command("compare", epilog="For example: pgzoo compare reinforce ppo --env CartPole-v1 --out report.html")
@click.argument("selectors", nargs=-1, metavar="SELECTOR SELECTOR ...", shell_complete=complete_run)
@click.option("--env", "envs", multiple=True, metavar="ID", help="Compare in this environment only (repeatable).")
@click.option("--metric", metavar="NAME", help="Metric of the curves.  [default: train/return_mean]")
@click.option(
    "--out",
    "files",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write FILE.html, .png, .pdf, .svg, .csv, .tex, .md or .json (repeatable).",
)
@click.option("--log", is_flag=True, help="Log the comparison to MLflow as a separate run.")
@click.option(
    "--sensitivity",
    "sensitivity",
    is_flag=True,
    help="Show the hyperparameter sensitivity of sweeps instead; each SELECTOR selects runs of --sweep-axis.",
)
@click.option("--tracking-uri", metavar="URI", help="MLflow store.  [default: MLFLOW_TRACKING_URI or ./mlflow.db]")
@common.json_option
@common.progress_mode_option
def command(
    selectors: tuple[str, ...],
    envs: tuple[str, ...],
    metric: str | None,
    files: tuple[Path, ...],
    log: bool,
    sensitivity: bool,
    tracking_uri: str | None,
    as_json: bool,
    progress: ProgressMode,
) -> None:
    """Compare runs with seeds as the unit of replication.

    Each SELECTOR selects one group of runs to compare: an algorithm, a group, a name, a run key, an MLflow run id, an
    experiment, tag:KEY=VALUE or param:KEY=VALUE. If the only SELECTOR is the group or name of a sweep, its settings are
    compared with each other. Prints final scores and areas under the learning curve with 95% intervals and, for
    each pair of groups, the probability that one scores higher, the difference of means, and how many more seeds
    are needed to detect that difference.

    With --sensitivity, each SELECTOR selects runs of a sweep (pgzoo run --sweep-axis). Prints, for each algorithm, how
    much its score depends on tuning it for each environment, and how many hyperparameters must be tuned. --out FILE.png
    draws the scores over the values of each hyperparameter.
    """
    from pgzoo.analysis import compare, report, sweeps
    from pgzoo.cli.sensitivity import show as show_sensitivity
    from pgzoo.errors import UsageError

    endings = sweeps.ENDINGS if sensitivity else report.ENDINGS
    for file in files:
        if file.suffix.lower() not in endings:
            what = " with --sensitivity" if sensitivity else ""
            raise UsageError(f"--out {file}: the extension must be one of {', '.join(endings)}{what}.")
        if not file.absolute().parent.is_dir():
            raise UsageError(f"--out {file}: the folder {file.parent} doesn't exist.")
    step = Step("Looking for runs")
    with Waiting(lambda: step.text, progress):
        analyze: Callable[..., Comparison | SweepAnalysis] = sweeps.sensitivity if sensitivity else compare.compare
        found = analyze(*selectors, env=envs or None, metric=metric, tracking_uri=tracking_uri, progress=step.report)
        written = []
        for file in files:
            step.text = f"Writing {file}"
            written.append(found.save(file))
        step.text = f"Logging the {'sensitivity' if sensitivity else 'comparison'} to MLflow"
        run_id = found.log(common.command_line()) if log else None
    if as_json:
        answer = found.to_dict() | {"files": [str(file) for file in written], "run_id": run_id}
        common.echo(json.dumps(answer, allow_nan=False))
    else:
        if isinstance(found, sweeps.SweepAnalysis):
            show_sensitivity(found)
        else:
            show(found.data)
        for file in written:
            common.echo(f"Written  {file}")
        if run_id:
            common.echo(f"Logged   run {run_id}")
    for warning in found.warnings:
        common.echo(f"Warning: {warning}", err=True)


def show(comparison: ComparisonData) -> None:
    """Print the comparison as tables."""
    from pgzoo.analysis.wording import differing_settings

    out = tables.table_console()
    for block in comparison.all_blocks:
        show_block(out, comparison, block)
    if differing := differing_settings(comparison.differences):
        out.print(f"\n{visible(differing)}", markup=False)
    out.print("\n[dim]Brackets are 95% intervals over seeds. IQM: interquartile mean.[/]\n")


def show_block(out: Console, comparison: ComparisonData, block: Block) -> None:
    """Print scores, areas and pairs in one environment, or over all environments."""
    from rich.text import Text

    from pgzoo.analysis.wording import interval, metric_in_words, percent, percent_interval, signed

    what = "normalized scores (0: start of training, 1: best run)"
    if block.env is not None:
        what = metric_in_words(comparison.score)
    title = Text(f"\n{visible(block.env or f'all {len(comparison.envs)} environments')}", style="bold")
    out.print(title.append(f"  {what}", style="dim"))
    out.print()
    rows = [("final score", block.final)] + ([("area under curve", block.area)] if block.area else [])
    for heading, summaries in rows:
        out.print(summary_table(comparison, heading, summaries, out.width), crop=False)
        out.print()
    columns = ("", "P(first higher)", "higher with same seed", "difference of means", "")
    cells = []
    for pair in block.pairs:
        paired = "-"
        if pair.paired:
            paired = f"{pair.paired.value * pair.matched:g} of {pair.matched}"
        row = [
            Text(visible(f"{pair.a} > {pair.b}")),
            Text(f"{percent(pair.improvement.value)} {percent_interval(pair.improvement)}".rstrip()),
            Text(paired),
            Text(f"{signed(pair.difference)} {interval(pair.difference)}".rstrip()),
            Text(pair.verdict, style="green" if pair.settled else "yellow"),
        ]
        cells.append(row)
    out.print(tables.plain_table(columns, cells, out.width, numbers=(1, 2, 3)), crop=False)


def summary_table(comparison: ComparisonData, heading: str, summaries: tuple[ScoreSummary, ...], width: int) -> Table:
    from rich.text import Text

    from pgzoo.analysis.wording import center, interval

    rows = []
    for label, summary in zip(comparison.labels, summaries, strict=True):
        cells = [
            Text(center(e), style="bold").append(f" {interval(e)}".rstrip(), style="not bold dim")
            for e in (summary.iqm, summary.mean, summary.median)
        ]
        rows.append([Text(visible(label), style="cyan"), Text(str(summary.seeds)), *cells])
    columns = (heading, "seeds", "IQM", "mean", "median")
    return tables.plain_table(columns, rows, width, numbers=(1, 2, 3, 4), right=(1,))


class Step:
    """What the command is doing."""

    def __init__(self, text: str) -> None:
        self.text = text

    def report(self, what: str, done: int, total: int | None) -> None:
        """Take note of what is being read, how many were read, and how many there are."""
        if done == total:
            self.text = "Computing intervals"
        else:
            self.text = f"{visible(what).capitalize()}: {done:,}" + ("" if total is None else f" of {total:,}")
