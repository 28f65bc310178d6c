"""What the end of a run looks like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import numpy as np

if TYPE_CHECKING:
    from pgzoo.runner import Result

__all__ = ["print_result", "report"]


def report(result: Result) -> None:
    """Print the result as one line of JSON on stdout; warnings go to stderr."""
    _warn(result)
    click.echo(json.dumps(result.to_dict(), allow_nan=False))


def print_result(result: Result) -> None:
    """Print a row per seed, the aggregate, where to look, and what is still to be shipped."""
    from rich.console import Console
    from rich.table import Table

    from pgzoo.tracking import display_uri

    config, timing = result.plan.config, result.timing
    console = Console(highlight=False)
    episodes = max((run.returns.size for run in result.runs), default=0)
    table = Table(
        title=f"{config.algorithm} on {config.env}: the last policy in {episodes} evaluation episodes",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("seed", justify="right")
    table.add_column("status")
    for name in ("steps", "return", "std", "min", "max", "greedy"):
        table.add_column(name, justify="right")
    for run in result.runs:
        r, g = run.returns, run.greedy_returns
        numbers = [f"{x:.1f}" for x in (r.mean(), r.std(), r.min(), r.max())] if r.size else ["-"] * 4
        table.add_row(
            str(run.seed),
            _coloured(run.status),
            f"{run.env_steps:,}",
            *numbers,
            f"{g.mean():.1f}" if g.size else "-",
        )
    means = np.array([run.returns.mean() for run in result.runs if run.returns.size])
    greedy = np.array([run.greedy_returns.mean() for run in result.runs if run.greedy_returns.size])
    if len(result.runs) > 1 and means.size:
        table.add_section()
        spread = f"{means.std(ddof=1):.1f}" if means.size > 1 else "-"
        table.add_row(
            "all",
            "",
            f"{result.env_steps:,}",
            f"{means.mean():.1f}",
            spread,
            f"{means.min():.1f}",
            f"{means.max():.1f}",
            f"{greedy.mean():.1f}" if greedy.size else "-",
            style="bold",
        )
    console.print()
    console.print(table)
    if len(result.runs) > 1:
        console.print("[dim]The last row is over the seeds' means.[/]")
    wall = timing["loop"]
    speed = result.env_steps / wall if wall else 0.0
    console.print(
        f"{result.env_steps:,} steps in {wall:.1f} s ({speed:,.0f} steps/s), evaluation {timing['evaluate']:.1f} s"
    )
    console.print(
        f"MLflow      {display_uri(result.tracking_uri)}, experiment {result.experiment}, group {result.group}"
    )
    first = result.runs[0]
    console.print(f"Look        pgzoo ui        pgzoo evaluate {first.run_key}")
    _warn(result)


def _coloured(status: str) -> str:
    colour = {"finished": "green", "stopped": "yellow", "failed": "red", "interrupted": "yellow"}[status]
    return f"[{colour}]{status}[/]"


def _warn(result: Result) -> None:
    """Say on stderr what went wrong and what is still under way."""
    for run in result.runs:
        if run.status in ("failed", "interrupted", "stopped"):
            click.echo(f"Seed {run.seed} {run.status}: {run.reason}.", err=True)
    if result.pending:
        click.echo(
            f"Still shipping to MLflow: {result.pending}. It goes on in the background; if it can't, run: pgzoo sync",
            err=True,
        )
