"""What `pgzoo run` and `pgzoo resume` print at the end of a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from pgzoo.cli import common, tables
from pgzoo.errors import RunFailed, visible
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from rich.text import Text

    from pgzoo.runs.result import Result, SeedResult
    from pgzoo.tracking.diagnoses import Diagnosis
    from pgzoo.training.events import MemberStatus

__all__ = ["conclude"]

COLORS = {"finished": "green", "stopped": "yellow", "failed": "red", "interrupted": "yellow"}
IMPORTED = time.monotonic()
MAX_DIAGNOSED = 32
"""Most runs whose journals are read again for the summary."""
UNTRAINED = "No step was trained. Correct the error and start the run again; PGZOO_DEBUG=1 shows the traceback."
EXIT_CODES = {"failed": 1, "interrupted": 130}


def conclude(ctx: click.Context, result: Result, as_json: bool, progress: ProgressMode) -> None:
    """Print the result, wait a little for MLflow, print what to do next, and exit with the run's exit code.

    Of a run that failed before its first update, only the failure is printed.

    Raises:
        RunFailed: the error that ended the run.
    """
    untrained = result.error is not None and not result.env_steps
    if not as_json and not untrained:
        _print_result(result)
        if result.plan.config.profile:
            _print_profile(result)
    result = _ship(result, progress)
    if as_json:
        _print_json(result)
    elif untrained:
        _warn(result)
    else:
        _print_next_steps(result)
    if result.error and untrained:
        raise RunFailed(f"{result.error}\n{UNTRAINED}") from result.error.__cause__
    if result.error:
        raise result.error
    complete = result.verified and not result.pending.lost
    ctx.exit(EXIT_CODES.get(result.status, 0 if complete else 1))


def _print_json(result: Result) -> None:
    """Print the result as one line of JSON on stdout, and warnings on stderr."""
    _warn(result)
    refused = _refusals(result)
    answer = result.to_dict() | ({"refused_runs": refused} if refused else {})
    common.echo(json.dumps(answer, allow_nan=False))


def _refusals(result: Result) -> dict[str, str]:
    """Return why the store refuses runs, by run key; empty if it refuses none."""
    from pgzoo.tracking.ledger import Ledger

    if not result.pending.refused:
        return {}
    reasons = {run.run_key: Ledger.read(result.session.home.runs / run.run_key).refused for run in result.runs}
    return {key: reason for key, reason in reasons.items() if reason}


def _print_result(result: Result) -> None:
    """Print one row per seed and one with statistics over seeds; for a sweep, one row per setting."""
    config = result.plan.config
    played = [run for run in result.runs if run.returns.size]
    count = max((run.returns.size for run in played), default=0)
    episodes = "1 evaluation episode" if count == 1 else f"{count} evaluation episodes"
    judged = f"returns of the final policy in {episodes}" if count else "not evaluated"
    swept = list(config.sweep_axis)
    columns = (*swept, "seeds" if swept else "seed", "status", "steps", "mean", "std", "min", "max", "greedy mean")
    rows = _rows_of_settings(result) if swept else _rows_of_seeds(result)
    numbers = [k for k, name in enumerate(columns) if name != "status"]
    out = tables.table_console()
    out.print(f"\n[bold]{visible(config.algorithm)} on {visible(config.env)}[/]: {judged}\n")
    out.print(tables.fitted_table(columns, rows, out.width, numbers=numbers, right=numbers), crop=False)
    if swept:
        out.print("[dim]Statistics are over the mean returns of the seeds.[/]")
    elif len(result.runs) > 1:
        out.print("[dim]Statistics in the last row are over the mean returns of the seeds.[/]")
    for line in (*_format_cut(result), *_format_diagnoses(result)):
        out.print(line, markup=False, style="yellow")
    out.print()


def _format_cut(result: Result) -> list[str]:
    """Return a line for each kind of evaluation in which episodes were cut."""
    limit = result.plan.config.eval_max_steps
    modes = {
        "sampled": (sum(run.cut_episodes for run in result.runs), sum(run.returns.size for run in result.runs)),
        "greedy": (
            sum(run.greedy_cut_episodes for run in result.runs),
            sum(run.greedy_returns.size for run in result.runs),
        ),
    }
    return [
        f"{cut:,} of {count:,} evaluation episodes with {mode} actions were cut at {limit:,} steps (--eval-max-steps)."
        for mode, (cut, count) in modes.items()
        if cut
    ]


def _format_diagnoses(result: Result) -> list[str]:
    """Return a line for each kind of finding, with the seeds that have it; none for large groups, which take long."""
    if len(result.runs) > MAX_DIAGNOSED:
        return []
    found: dict[str, list[tuple[int, Diagnosis]]] = {}
    for run, diagnoses in zip(result.runs, result.diagnoses, strict=True):
        for diagnosis in diagnoses:
            found.setdefault(diagnosis.name, []).append((run.seed, diagnosis))
    lines = []
    for cases in found.values():
        seeds = list(dict.fromkeys(seed for seed, _ in cases))
        which = f"Seed {seeds[0]}" if len(seeds) == 1 else f"Seeds {', '.join(map(str, seeds))}"
        lines.append(f"{which if len(result.runs) > 1 else 'Note'}: {cases[0][1]}")
    return lines


def _rows_of_seeds(result: Result) -> list[list[Text]]:
    from rich.text import Text

    digits = _digits(result)
    rows = []
    for run in result.runs:
        numbers = [f"{run.env_steps:,}", *_statistics(run.returns, digits, ddof=0)]
        numbers.append(f"{run.greedy_returns.mean():.{digits}f}" if run.greedy_returns.size else "-")
        rows.append([Text(str(run.seed)), _colored(run.status), *map(Text, numbers)])
    if len(result.runs) > 1:
        cells = ["all", "", f"{result.env_steps:,}", *_statistics_over_seeds(result.runs, digits)]
        rows.append([Text(cell, style="bold") for cell in cells])
    return rows


def _rows_of_settings(result: Result) -> list[list[Text]]:
    from rich.text import Text

    from pgzoo.runs.result import BADNESS

    rows = []
    digits = _digits(result)
    settings = {tuple(run.settings.values()): run.settings for run in result.runs}
    for values, setting in sorted(settings.items()):
        runs = [run for run in result.runs if run.settings == setting]
        status = max((run.status for run in runs), key=BADNESS.index)
        steps = sum(run.env_steps for run in runs)
        before = [*(visible(str(value)) for value in values), str(len(runs))]
        after = [f"{steps:,}", *_statistics_over_seeds(runs, digits)]
        rows.append([*map(Text, before), _colored(status), *map(Text, after)])
    return rows


def _digits(result: Result) -> int:
    """Return the number of decimals of returns: one, and more if all of them are small."""
    from pgzoo.analysis.wording import decimals

    everything = [returns for run in result.runs for returns in (run.returns, run.greedy_returns) if returns.size]
    return decimals(max((float(np.abs(returns).max()) for returns in everything), default=0.0))


def _statistics_over_seeds(runs: Sequence[SeedResult], digits: int) -> list[str]:
    """Return statistics of the mean returns of these runs, and the mean of their greedy returns."""
    greedy = [run.greedy_returns.mean() for run in runs if run.greedy_returns.size]
    means = [run.returns.mean() for run in runs if run.returns.size]
    return [*_statistics(means, digits, ddof=1), f"{np.mean(greedy):.{digits}f}" if greedy else "-"]


def _colored(status: MemberStatus) -> Text:
    from rich.text import Text

    return Text(status, style=COLORS[status])


def _print_profile(result: Result) -> None:
    """Print how the time of training and evaluation was spent."""
    from rich.table import Table

    parts = result.ended.profile()
    total = sum(parts.values()) or 1.0
    table = Table(box=None, pad_edge=False, header_style="bold", title="Where the time went", title_justify="left")
    for name in ("phase", "seconds", "share"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase, seconds in parts.items():
        table.add_row(phase, f"{seconds:.2f}", f"{seconds / total:.1%}")
    tables.table_console().print(table)
    config = result.plan.config
    if config.backend == "compiled" and "collect/compiled" not in parts:
        common.echo(
            f'The policy "{config.policy.name}" acts outside of the compiled loop, because numba is not installed, or '
            "the policy or one of its settings has no compiled form (docs/backends.md)."
        )
    common.echo()


def _ship(result: Result, progress: ProgressMode) -> Result:
    """Wait a little until MLflow has the runs. Ctrl-C stops waiting."""
    hint = " (Ctrl-C: in the background)" if progress == "bar" else ""
    try:
        with Waiting(lambda: f"{result.format_shipping()}{hint}", progress):
            return result.settled()
    except KeyboardInterrupt:
        return result.settled(0)


def _print_next_steps(result: Result) -> None:
    """Print the speed, where the runs are, and the next commands."""
    from pgzoo.tracking import NO_STORE, display_uri

    config, wall = result.plan.config, result.timing["loop"]
    untracked = result.tracking_uri == NO_STORE
    where = f" --tracking-uri {display_uri(result.tracking_uri)}" if config.tracking_uri else ""
    settings = {tuple(run.settings.items()) for run in result.runs}
    which = result.group if len(result.runs) > 1 else result.runs[0].run_key
    out = tables.table_console()
    lines = [
        f"Trained   {result.env_steps - result.steps_before:,} steps in {wall:.1f} s ({result.speed:,.0f} steps/s)",
        f"Time      {_format_time(result)}",
        *(
            [f"MLflow    none: journals and checkpoints are in {result.session.home.runs}"]
            if untracked
            else [f"MLflow    {display_uri(result.tracking_uri)}", f"          experiment {result.experiment}"]
        ),
        f"          group {result.group}",
    ]
    commands = [] if untracked else [f"pgzoo ui{where}"]
    if result.pending.lost or any(run.status == "interrupted" for run in result.runs):
        commands.append(f"pgzoo resume {which}")
    trained = result.error is None or any(run.env_steps for run in result.runs)
    if trained and not result.pending.lost:  # the policy may be among what was lost
        commands.append(f"pgzoo {'compare' if len(settings) > 1 else 'evaluate'} {which}")
    lines += [f"{'' if row else 'Next':10}{command}" for row, command in enumerate(commands)]
    out.print(visible("\n".join(lines)), soft_wrap=True, markup=False)
    _warn(result)


def _format_time(result: Result) -> str:
    """Return how the time since the process started was spent. The parts add up to the whole, but for rounding.

    Imports include everything before training, the upload everything after it, such as plots and the video.
    """
    now, timing = time.monotonic(), result.timing
    parts = {name: timing.get(name, 0.0) for name in ("compile", "loop", "evaluate")}
    upload = now - result.over
    total = process_seconds()
    rest = total - sum(parts.values()) - upload
    seconds = {"imports": rest, "compile": parts["compile"], "train": parts["loop"], "evaluate": parts["evaluate"]}
    last = "video and upload" if result.plan.config.video else "upload"
    listed = " + ".join(f"{name} {value:.1f}" for name, value in {**seconds, last: upload}.items())
    return f"{total:.1f} s = {listed}"


def process_seconds() -> float:
    """Return the seconds since this process started; where the system doesn't say, since this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # the 22nd field: when the process started, in clock ticks since the machine did
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - IMPORTED


def _statistics(values: ArrayLike, digits: int, ddof: int) -> list[str]:
    """Return mean, standard deviation, minimum and maximum as text; "-" where there are too few values."""
    x = np.asarray(values, np.float64)
    if not x.size:
        return ["-"] * 4
    std = f"{x.std(ddof=ddof):.{digits}f}" if x.size > ddof else "-"
    return [f"{x.mean():.{digits}f}", std, f"{x.min():.{digits}f}", f"{x.max():.{digits}f}"]


def _warn(result: Result) -> None:
    """Print on stderr which seeds didn't finish, and what MLflow hasn't received yet."""
    from pgzoo.config.sweep import format_setting
    from pgzoo.tracking import display_uri, pending
    from pgzoo.tracking.ledger import plural

    for run in result.runs:
        if run.status != "finished" and result.error is None:
            of = f" ({format_setting(run.settings)})" if run.settings else ""
            common.echo(f"Seed {run.seed}{of} {run.status} after {run.env_steps:,} steps: {run.reason}", err=True)
    if equal := [str(one.seed) for one in result.verifications if one.outcome == "equal"]:
        seeds = f"seed{'s' * (len(equal) > 1)} {', '.join(equal)}"
        common.echo(f"Verified: a second worker computed the same results, bit for bit, for {seeds}.", err=True)
    if any(run.status == "interrupted" for run in result.runs):
        common.echo("Metrics and policies so far are saved.", err=True)
    if dropped := result.pending.dropped:
        were = "was" if dropped == 1 else "were"
        common.echo(f"Omitted from the curves: {plural(dropped, 'value')} that {were} NaN or infinite.", err=True)
    if lost := result.pending.lost:
        common.echo(
            f"Lost because the disk was full: {plural(lost, 'record')}. When there is space, pgzoo resume trains again "
            "from the last checkpoint and writes what is missing.",
            err=True,
        )
    reasons = list(_refusals(result).values())
    for reason in dict.fromkeys(reasons):
        runs = plural(reasons.count(reason), "run")
        common.echo(f"Warning: MLflow refused {runs}, kept on this machine only: {reason}.", err=True)
    if result.pending:
        common.echo(f"Not yet uploaded to MLflow: {result.pending}. The upload continues in the background.", err=True)
        if why := pending(result.session.home).errors.get(display_uri(result.tracking_uri)):
            common.echo(f"Last error: {why}", err=True)
        common.echo("To resume the upload: pgzoo sync", err=True)
    elif plots := result.pending.plots:
        common.echo(f"The plots of {plural(plots, 'run')} are being drawn in the background.", err=True)
