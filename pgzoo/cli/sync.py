"""`pgzoo sync`: send MLflow what it hasn't received yet."""

from __future__ import annotations

import click

from pgzoo.cli import common
from pgzoo.runs.waiting import ProgressMode, Waiting

__all__ = ["command"]


@click.command("sync")
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
def command(ctx: click.Context, wait: float, plots: bool, as_json: bool, progress: ProgressMode) -> None:
    """Send MLflow the runs that it hasn't received yet.

    Retries immediately, including runs that the store has refused. Exit code 1 if something is still pending.
    """
    import time

    from pgzoo import tracking
    from pgzoo.tracking.ledger import OMITTED, WANTED, Ledger, journal_folders, plural, read_json
    from pgzoo.tracking.session import ensure_uploader

    home = tracking.Home.find()
    uri = tracking.resolve_uri(None, home)
    before = left = tracking.pending(home)
    plots = plots and any(Ledger.read(folder).plots == OMITTED for folder in journal_folders(home))
    if before or before.refused or plots:
        home.retry_file.write_text(WANTED if plots else "")
        deadline, checked = time.monotonic() + wait, -10.0

        def text() -> str:
            total = before.records + before.files
            done = max(0, total - left.records - left.files)
            return f"{tracking.format_shipping(left, uri)}, {done:,} of {total:,} uploaded"

        with Waiting(text, progress):
            asked = home.retry_file.stat().st_mtime_ns
            while True:
                # Refused runs and omitted plots are counted only after the uploader has read the request.
                retried = not (before.refused or plots) or read_json(home.status_file).get("retried") == asked
                begin = time.monotonic()
                left = tracking.pending(home)
                if retried and plots:
                    before, plots = before or left, False
                if retried and not left:
                    break
                if time.monotonic() - checked > 3.0:
                    ensure_uploader(home)
                    checked = time.monotonic()
                if time.monotonic() >= deadline:
                    break
                time.sleep(max(0.2, 4 * (time.monotonic() - begin)))  # counting thousands of runs takes a while
    done = max(0, before.runs + before.refused - left.runs - left.refused)
    result = {
        "shipped_records": max(0, before.records - left.records),
        "shipped_runs": done,
        "pending_records": left.records,
        "pending_files": left.files,
        "pending_runs": left.runs,
        "refused_runs": dict(left.refusals),
        "errors": dict(left.errors),
    }
    if as_json:
        common.print_json(result)
    else:
        uploaded = f"Uploaded {plural(max(0, before.records - left.records), 'record')}, {plural(done, 'run')}."
        common.echo(uploaded if before or before.refused or plots else "Nothing to upload.")
        if left:
            common.echo(f"Pending: {left}. The upload continues in the background.")
        for uri, error in left.errors.items():
            common.echo(f"  {uri}: {error}")
        for run, reason in left.refusals.items():
            common.echo(f"Refused: run {run}: {reason}")
    ctx.exit(1 if left or left.refused else 0)
