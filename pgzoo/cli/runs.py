"""`pgzoo runs`: list runs, newest first. `pgzoo runs delete SELECTOR ...`: delete runs."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import common, tables
from pgzoo.cli.completion import complete_component, complete_env, complete_run
from pgzoo.errors import StoreError, UnknownName, UsageError, visible
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from pgzoo.analysis.listing import ListedRun, Listing
    from pgzoo.tracking import Found

__all__ = ["command"]

STATUSES = ("finished", "stopped", "failed", "interrupted", "killed", "running")
COLORS = {"finished": "green", "stopped": "green", "failed": "red", "interrupted": "yellow", "killed": "red"}
UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
MAX_SHOWN = 10
"""Number of runs that are named before they are deleted."""


@click.group("runs", invoke_without_command=True)
@click.option("--algorithm", metavar="NAME", default="", shell_complete=complete_component("algorithm"),
              help="Only runs of this algorithm.")  # fmt: skip
@click.option("--env", metavar="ID", default="", shell_complete=complete_env, help="Only runs in this environment.")
@click.option("--status", type=click.Choice(STATUSES), help="Only runs with this status.")
@click.option("--name", metavar="NAME", default="", help="Only runs with this name, with or without the seed.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only runs with this tag (repeatable).")
@click.option("--since", metavar="AGE", help="Only runs that started within this time: 30m, 12h, 2d or 1w.")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, metavar="N",
              help="Maximum number of rows; 0 for all.")  # fmt: skip
@click.option("--seeds", is_flag=True, help="One row per run, instead of one per group.")
@click.option("--tracking-uri", metavar="URI", help="List the runs of this MLflow store instead of this machine's.")
@common.json_option
@common.progress_mode_option
@click.pass_context
def command(
    ctx: click.Context,
    algorithm: str,
    env: str,
    status: str | None,
    name: str,
    tags: tuple[str, ...],
    since: str | None,
    limit: int,
    seeds: bool,
    tracking_uri: str | None,
    as_json: bool,
    progress: ProgressMode,
) -> None:
    """List runs, newest first, one row per group (the runs of one command).

    The runs are those of this machine's journals, or of the store that --tracking-uri names. Commands such as compare,
    evaluate and resume take the text of the first column, and the name, which means the newest runs with this name. If
    only some runs of a group match the filters, its row covers only these. Return is the mean return of the final
    evaluation, averaged over the runs of the row.
    """
    if ctx.invoked_subcommand is not None:
        return
    from pgzoo.analysis.listing import RunFilter, list_local, list_store
    from pgzoo.tracking import Home, check_store, resolve_uri
    from pgzoo.tracking.home import NO_STORE, sqlite_path

    begin = int(1000 * (time.time() - seconds(since))) if since else 0
    wanted = RunFilter(algorithm, env, status or "", name, dict(map(key_and_value, tags)), begin)
    home, searched = Home.find(), 0

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal searched
        searched = done

    with Waiting(lambda: f"Looking for runs: {searched:,}", progress):
        if tracking_uri:
            uri = resolve_uri(tracking_uri, home)
            if uri == NO_STORE:
                raise UsageError("--tracking-uri none names no store. Without the option, local runs are listed.")
            check_store(uri, home)
            if (database := sqlite_path(uri)) is not None and not database.exists():
                raise StoreError(f"There is no tracking store {database}. Correct --tracking-uri.")
            found = list_store(uri, wanted, limit, not seeds, report)
        else:
            found = list_local(home, wanted, limit, not seeds, report)
    if as_json:
        common.print_json([run_facts(row[0]) if seeds else group_facts(row) for row in found.rows])
    else:
        show(found, seeds, "" if searched else f"No runs in {(tracking_uri and 'the store') or home.root}.")


@command.command("delete", short_help="Delete runs that have ended.")
@click.argument("selectors", nargs=-1, required=True, metavar="SELECTOR ...", shell_complete=complete_run)
@click.option("--yes", "-y", is_flag=True, help="Don't ask for confirmation.")
@click.option("--tracking-uri", metavar="URI", help="Also delete runs that are only in this MLflow store.")
@click.option("--storage", metavar="URL", envvar="PGZOO_STORAGE", show_envvar=True,
              help="Optuna storage of a study, if it isn't in pgzoo's folder.")  # fmt: skip
@common.json_option
@common.progress_mode_option
def delete(
    selectors: tuple[str, ...],
    yes: bool,
    tracking_uri: str | None,
    storage: str | None,
    as_json: bool,
    progress: ProgressMode,
) -> None:
    """Delete runs that have ended. SELECTOR is an MLflow run id, a run key, a group, a name or a study.

    A name means the newest runs with this name. Deletes their folders on this machine (journals, checkpoints, policies)
    and marks the runs as deleted in MLflow, which keeps them until `mlflow gc`. A run that is being written isn't
    deleted. A study of `pgzoo sweep` is deleted with its trials, their runs, and its plots.
    """
    from pgzoo.tracking import Home
    from pgzoo.tracking.deletion import delete_runs, refuse_in_training
    from pgzoo.tracking.ledger import plural

    home, found = Home.find(), 0

    def count_found(count: int) -> None:
        nonlocal found
        found = count

    with Waiting(lambda: f"Looking for runs: {found:,}", progress):
        runs, studies = select(selectors, home, tracking_uri, count_found)
    refuse_in_training(runs)
    if studies:
        from pgzoo.search.deletion import delete_study, refuse_while_training

        for study in studies:
            refuse_while_training(study, home, storage)
    confirm(runs, studies, yes)
    deleted = 0

    def report(count: int) -> None:
        nonlocal deleted
        deleted = count

    with Waiting(lambda: f"Deleting {plural(len(runs), 'run')}: {deleted:,} folders and entries", progress):
        result = delete_runs(runs, home, report)
        for study in studies:
            delete_study(study, home, storage)
    for warning in result.warnings:
        common.echo(f"Warning: {warning}", err=True)
    if as_json:
        facts = {"deleted_folders": result.folders, "marked_in_mlflow": result.marked}
        common.print_json({**facts, "studies": studies, "runs": [run.run_key or run.run_id for run in runs]})
    else:
        folders = plural(result.folders, "folder")
        common.echo(f"Deleted {folders}; marked {plural(result.marked, 'run')} as deleted in MLflow.")


def select(
    selectors: Sequence[str], home: Any, tracking_uri: str | None, report: Callable[[int], None]
) -> tuple[list[Found], list[str]]:
    """Return the runs that the selectors name, each once, and the names of the studies among them.

    `report` is called with the number of a study's runs so far.

    Raises UnknownName, and UsageError for a run that is only in a store which --tracking-uri doesn't name.
    """
    from pgzoo.tracking.lookup import LocalRuns, find, find_study, stored_study

    local = LocalRuns(home)
    runs: dict[str, Found] = {}
    studies: list[str] = []
    for selector in selectors:
        if study := find_study(selector, home, local):
            studies.append(study[0])
            found = study[1] + (stored_study(study[0], home, tracking_uri, report) if tracking_uri else [])
        else:
            try:
                found = find(selector, home, tracking_uri, local)
            except UnknownName:
                found = stored_study(selector, home, tracking_uri, report) if tracking_uri else []
                if not found:
                    raise
                studies.append(selector)
        for run in found:
            if run.path is None and not tracking_uri:
                raise UsageError(
                    f'"{selector}" is not on this machine, only in the tracking store. To delete it there, name the '
                    "store with --tracking-uri."
                )
            runs.setdefault(run.run_key or str(run.run_id), run)  # the one on this machine comes first
    return list(runs.values()), distinct(studies)


def confirm(runs: Sequence[Found], studies: Sequence[str], yes: bool) -> None:
    """Show which runs will be deleted, and ask. Raises UsageError if the answer isn't yes."""
    from pgzoo.tracking.ledger import pending_of, plural

    for study in studies:
        common.echo(f"  study {study}, with its trials and their runs:", err=True)
    for run in runs[:MAX_SHOWN]:
        where = "" if run.path else " (in the store only)"
        common.echo(f"  {run.run_key or run.run_id}  {run.name}  {run.algorithm} on {run.env}{where}", err=True)
    if len(runs) > MAX_SHOWN:
        common.echo(f"  and {len(runs) - MAX_SHOWN:,} more", err=True)
    left = pending_of(run.path for run in runs if run.path is not None)
    if left:
        common.echo(f"Not yet uploaded to MLflow: {left}.", err=True)
    if yes:
        return
    try:
        agreed = click.confirm(f"Delete {plural(len(runs), 'run')}?", err=True)
    except click.Abort:
        raise UsageError("There was no answer, so nothing was deleted. To delete without a question: --yes") from None
    if not agreed:
        raise UsageError("Nothing was deleted.")


def seconds(age: str) -> float:
    """Return the seconds of an age such as `2d`. Raises UsageError if it isn't one."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", age.strip())
    if not found:
        raise UsageError(
            f'--since "{age}": give a number of minutes, hours, days or weeks, such as 30m, 12h, 2d or 1w.'
        )
    return float(found[1]) * UNITS[found[2]]


def key_and_value(tag: str) -> tuple[str, str]:
    """Split `KEY=VALUE`. Raises UsageError without an equals sign."""
    key, equals, value = tag.partition("=")
    if not key or not equals:
        raise UsageError(f'--tag "{tag}": write KEY=VALUE.')
    return key, value


def run_facts(run: ListedRun) -> dict[str, Any]:
    """Return one run as `--seeds --json` prints it."""
    names = ("run_key", "run_id", "name", "group", "algorithm", "env", "seed", "status", "steps")
    facts = {name: getattr(run, name) for name in names}
    return {**facts, "return_final": run.final_return, "started": timestamp(run.started)}


def group_facts(runs: Sequence[ListedRun]) -> dict[str, Any]:
    """Return the runs of one group as `--json` prints them."""
    return {
        "group": runs[0].group,
        "names": distinct(run.title for run in runs),
        "algorithms": distinct(run.algorithm for run in runs),
        "envs": distinct(run.env for run in runs),
        "seeds": sorted({run.seed for run in runs}),
        "runs": len(runs),
        "statuses": dict(Counter(run.status for run in runs)),
        "steps": max((run.steps for run in runs if run.steps is not None), default=None),
        "return_final": mean_return(runs),
        "started": timestamp(max(run.started for run in runs)),
    }


def show(found: Listing, seeds: bool, nothing: str) -> None:
    """Print the table; `nothing` is the message if no runs were searched."""
    if not found.rows:
        hint = "" if not nothing else " Train one: pgzoo run reinforce --env CartPole-v1"
        common.echo(f"{nothing or 'No run matches these filters.'}{hint}", err=True)
        return
    rows = [row_of(runs, seeds) for runs in found.rows]
    columns = ("Run key" if seeds else "Group", "Name", "Algorithm", "Env", "Seed" if seeds else "Seeds")
    tables.print_table((*columns, "Status", "Steps", "Return", "Age"), rows)
    if found.more:
        common.echo(f"Only the newest {len(rows)} are shown; for all: --limit 0", err=True)


def row_of(runs: Sequence[ListedRun], seeds: bool) -> tuple[str, ...]:
    """Return the cells of one row."""
    first, returned = runs[0], mean_return(runs)
    steps = max((run.steps for run in runs if run.steps is not None), default=None)
    statuses = Counter(run.status for run in runs)
    status = ", ".join(f"{n} {name}" for name, n in statuses.items()) if len(statuses) > 1 else first.status
    color = COLORS.get(first.status, "") if len(statuses) == 1 else "yellow"
    return (
        first.run_key if seeds else first.group,
        first.name if seeds else shortened(run.title for run in runs),
        shortened(run.algorithm for run in runs),
        shortened(run.env for run in runs),
        str(first.seed if seeds else len({run.seed for run in runs})),
        f"[{color}]{status}" if color else status,
        "" if steps is None else f"{steps:,}",
        "" if returned is None else f"{returned:.4g}",
        age(max(run.started for run in runs)),
    )


def mean_return(runs: Iterable[ListedRun]) -> float | None:
    """Return the mean of the final returns, None if no run has one."""
    returns = [run.final_return for run in runs if run.final_return is not None]
    return sum(returns) / len(returns) if returns else None


def distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def shortened(names: Iterable[str]) -> str:
    """Return the first of different names, and how many more there are."""
    first, *others = distinct(names)
    return visible(f"{first} and {len(others)} more" if others else first)


def timestamp(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def age(milliseconds: int, now: Callable[[], float] = time.time) -> str:
    """Return how long ago a moment was, in its largest whole unit: `45s`, `12m`, `3h`, `5d`."""
    passed = max(0, int(now() - milliseconds / 1000))
    for unit, size in (("d", UNITS["d"]), ("h", UNITS["h"]), ("m", UNITS["m"])):
        if passed >= size:
            return f"{passed // size}{unit}"
    return f"{passed}s"
