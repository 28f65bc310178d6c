"""`pgzoo sync [FOLDER]`: send MLflow what it hasn't received yet, also from a folder of another machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgzoo.cli import common
from pgzoo.errors import UsageError
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from pgzoo.tracking import Home, ShippingSummary
    from pgzoo.tracking.transfer import Imported

__all__ = ["command"]


@click.command("sync")
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow store for the runs in FOLDER.  [default: MLFLOW_TRACKING_URI or ./mlflow.db]",
)
@click.option(
    "--wait",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Longest time to wait, in seconds.",
)
@click.option(
    "--plots", is_flag=True, help="Also draw the plots that were omitted because their group has more than 50 runs."
)
@common.json_option
@common.progress_mode_option
@click.pass_context
def command(
    ctx: click.Context,
    folder: Path | None,
    tracking_uri: str | None,
    wait: float,
    plots: bool,
    as_json: bool,
    progress: ProgressMode,
) -> None:
    """Send MLflow the runs that it hasn't received yet.

    Retries immediately, including runs that the store has refused. Exit code 1 if something is still pending.

    FOLDER contains runs that were copied from another machine, such as one without a network: a .pgzoo folder, or the
    folder that contains it. They are first copied into this machine's .pgzoo folder, then uploaded. Running the
    command again adds what is new in FOLDER, and nothing twice.
    """
    import time

    from pgzoo import tracking
    from pgzoo.tracking.journal import count_lines
    from pgzoo.tracking.ledger import (
        OMITTED,
        WANTED,
        Ledger,
        is_retried,
        journal_folders,
        pending_stores,
        plural,
        retry_time,
    )
    from pgzoo.tracking.session import ask_to_retry, ensure_uploader

    home = tracking.Home.find()
    uri = tracking.resolve_uri(tracking_uri, home)
    if folder is None and tracking_uri:
        raise UsageError(
            "--tracking-uri needs a FOLDER: runs of this machine are uploaded to the store that they were started with."
        )
    imported = None if folder is None else copy_runs(folder, home, uri, bool(tracking_uri), progress)

    def unsent(state: ShippingSummary) -> int:
        """Return the number of records that the store doesn't have, those of refused runs among them."""
        refused = (home.runs / run for run in state.refusals)
        return state.records + sum(count_lines(folder, Ledger.read(folder).offset) for folder in refused)

    before = left = tracking.pending(home)
    unsent_before = unsent(before)
    plots = plots and any(Ledger.read(folder).plots == OMITTED for folder in journal_folders(home))
    if before or before.refused or plots:
        stores = pending_stores(home)
        asked_before = retry_time(home)
        ask_to_retry(home, WANTED if plots else "")
        deadline, checked = time.monotonic() + wait, -10.0

        def text() -> str:
            total = before.records + before.files
            done = max(0, total - left.records - left.files)
            return f"{tracking.format_shipping(left, *stores)}, {done:,} of {total:,} uploaded"

        with Waiting(text, progress):
            while True:
                # Refused runs and omitted plots are counted only after the uploader has read the request.
                heeded = retry_time(home) != asked_before and is_retried(home)
                retried = not (before.refused or plots) or heeded
                begin = time.monotonic()
                left = tracking.pending(home)
                if retried and plots:
                    before, plots = before or left, False
                if retried and not left:
                    break
                if time.monotonic() - checked > 0.5:  # an uploader may crash
                    ensure_uploader(home)
                    checked = time.monotonic()
                if time.monotonic() >= deadline:
                    break
                time.sleep(max(0.2, 4 * (time.monotonic() - begin)))  # counting thousands of runs takes a while
    done = max(0, before.runs + before.refused - left.runs - left.refused)
    records = max(0, unsent_before - unsent(left))
    result = {
        "shipped_records": records,
        "shipped_runs": done,
        "pending_records": left.records,
        "pending_files": left.files,
        "pending_runs": left.runs,
        "refused_runs": dict(left.refusals),
        "errors": dict(left.errors),
    }
    if imported is not None:
        counts = asdict(imported)
        result["not_copied"] = counts.pop("refused")
        result["copied"] = counts
    if as_json:
        common.print_json(result)
    else:
        if imported is not None:
            report_copied(imported)
        uploaded = f"Uploaded {plural(records, 'record')}, {plural(done, 'run')}."
        common.echo(uploaded if before or before.refused or plots else "Nothing to upload.")
        if left:
            common.echo(f"Pending: {left}. The upload continues in the background.")
        for uri, error in left.errors.items():
            common.echo(f"  {uri}: {error}")
        for run, reason in left.refusals.items():
            common.echo(f"Refused: run {run}: {reason}")
    ctx.exit(1 if left or left.refused or (imported is not None and imported.refused) else 0)


def copy_runs(folder: Path, home: Home, uri: str, move: bool, progress: ProgressMode) -> Imported:
    """Copy the runs in a folder of another machine into this home. Raises UsageError and StoreError."""
    from pgzoo.tracking import NO_STORE, check_store
    from pgzoo.tracking.transfer import import_runs

    if uri == NO_STORE:
        raise UsageError("The tracking store is none: name the one to upload to with --tracking-uri.")
    check_store(uri, home)
    copied = 0

    def report(count: int) -> None:
        nonlocal copied
        copied = count

    with Waiting(lambda: f"Copying runs from {folder}: {copied:,}", progress):
        return import_runs(folder, home, uri, move, report)


def report_copied(imported: Imported) -> None:
    """Print what was copied."""
    from pgzoo.tracking.ledger import plural

    parts = [plural(imported.new, "new run"), f"{imported.grown:,} with new records"]
    parts += [f"{imported.moved:,} moved to another store"] if imported.moved else []
    common.echo(f"Copied from the folder: {', '.join(parts)}, {imported.unchanged:,} unchanged.")
    for key, reason in imported.refused.items():
        common.echo(f"Not copied: run {key}: {reason}")
