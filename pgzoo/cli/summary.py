"""What the end of a run looks like."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from rich.console import Console

    from pgzoo.result import Result

__all__ = ["print_json", "print_profile", "print_result", "print_way_on", "ship"]

COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red", "interrupted": "yellow"}


def print_json(result: Result) -> None:
    """Print the result as one line of JSON on stdout; what a user must know as well goes to stderr."""
    _warn(result)
    click.echo(json.dumps(result.to_dict(), allow_nan=False))


def print_result(result: Result) -> None:
    """Print a row per seed and one over the seeds."""
    from rich.table import Table

    config = result.plan.config
    played = [run for run in result.runs if run.returns.size]
    count = max((run.returns.size for run in played), default=0)
    judged = f"returns of the last policy in {count} evaluation episodes" if count else "not evaluated"
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
    for name in ("seed", "status", "steps", "mean", "std", "min", "max", "greedy mean"):
        table.add_column(name, justify="left" if name == "status" else "right")
    for run in result.runs:
        table.add_row(
            str(run.seed),
            f"[{COLOURS[run.status]}]{run.status}[/]",
            f"{run.env_steps:,}",
            *_statistics(run.returns, ddof=0),
            f"{run.greedy_returns.mean():.1f}" if run.greedy_returns.size else "-",
        )
    if len(result.runs) > 1:
        means = np.array([run.returns.mean() for run in played])
        greedy = [run.greedy_returns.mean() for run in result.runs if run.greedy_returns.size]
        over = _statistics(means, ddof=1)
        last = f"{np.mean(greedy):.1f}" if greedy else "-"
        table.add_row("all", "", f"{result.env_steps:,}", *over, last, style="bold")
    out = _console()
    out.print(f"\n[bold]{config.algorithm} on {config.env}[/]: {judged}\n")
    out.print(table)
    if len(result.runs) > 1:
        out.print("[dim]The last row is over the means of the seeds.[/]")
    out.print()


def print_profile(result: Result) -> None:
    """Print where the time of training and evaluating went, by share."""
    from rich.table import Table

    parts = result.ended.profile()
    total = sum(parts.values()) or 1.0
    table = Table(box=None, pad_edge=False, header_style="bold", title="Where the time went", title_justify="left")
    for name in ("phase", "seconds", "share"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase, seconds in parts.items():
        table.add_row(phase, f"{seconds:.2f}", f"{seconds / total:.1%}")
    _console().print(table)
    click.echo()


def ship(result: Result) -> Result:
    """Wait a little while the runs are shipped. Ctrl-C goes on without."""
    from rich.console import Console

    try:
        if not sys.stderr.isatty():
            return result.settled()
        with Console(stderr=True).status("Shipping to MLflow ... (Ctrl-C: don't wait, it goes on in the background)"):
            return result.settled()
    except KeyboardInterrupt:
        return result.settled(0)


def print_way_on(result: Result) -> None:
    """Print the speed, where the runs are and what to type next."""
    from pgzoo.tracking import display_uri

    config, wall = result.plan.config, result.timing["loop"]
    where = f" --tracking-uri {display_uri(result.tracking_uri)}" if config.tracking_uri else ""
    which = result.group if len(result.runs) > 1 else result.runs[0].run_key
    out = _console()
    lines = [
        f"Trained   {result.env_steps - result.begun:,} steps in {wall:.1f} s ({result.speed:,.0f} steps/s)",
        f"MLflow    {display_uri(result.tracking_uri)}",
        f"          experiment {result.experiment}, group {result.group}",
        f"Next      pgzoo ui{where}",
        f"          pgzoo evaluate {which}",
    ]
    out.print("\n".join(lines), soft_wrap=True, markup=False)
    _warn(result)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _statistics(values: ArrayLike, ddof: int) -> list[str]:
    """Mean, standard deviation, least and greatest, as far as there are any."""
    x = np.asarray(values, np.float64)
    if not x.size:
        return ["-"] * 4
    std = f"{x.std(ddof=ddof):.1f}" if x.size > ddof else "-"
    return [f"{x.mean():.1f}", std, f"{x.min():.1f}", f"{x.max():.1f}"]


def _warn(result: Result) -> None:
    """Say on stderr which seeds came to another end than planned, and what is still under way."""
    from pgzoo.tracking import Home, display_uri, pending
    from pgzoo.tracking.ledger import plural

    for run in result.runs:
        if run.status != "finished" and result.error is None:
            click.echo(f"Seed {run.seed}, {run.status} after {run.env_steps:,} steps: {run.reason}", err=True)
    if any(run.status == "interrupted" for run in result.runs):
        click.echo("Metrics and policies so far are saved.", err=True)
    if dropped := result.pending.dropped:
        click.echo(f"Left out of the curves, as not finite (NaN or infinite): {plural(dropped, 'value')}.", err=True)
    if lost := result.pending.lost:
        click.echo(f"Lost, as the disk stayed full: {plural(lost, 'record')} of what the run had to say.", err=True)
    if result.pending:
        click.echo(f"Still to be shipped to MLflow: {result.pending}. It goes on in the background.", err=True)
        if why := pending(Home.find()).errors.get(display_uri(result.tracking_uri)):
            click.echo(f"So far: {why}", err=True)
        click.echo("Should it be cut off: pgzoo sync", err=True)
