"""`pgzoo resume RUN_ID`: continue a run that was interrupted, or train it for longer."""

from __future__ import annotations

import click

from pgzoo.cli.common import (
    command_line,
    json_option,
    open_catalog,
    plugin_options,
    progress_mode_option,
    stdout_to_stderr,
)
from pgzoo.cli.completion import complete_run
from pgzoo.runs.waiting import ProgressMode, Waiting

__all__ = ["command"]


@click.command("resume", context_settings={"ignore_unknown_options": True})
@click.argument("run_id", shell_complete=complete_run)
@click.option("--total-steps", metavar="N", help="Train up to this number of environment steps per seed.")
@click.option("--from-step", type=click.IntRange(min=0), metavar="N", help="Continue from the checkpoint at this step.")
@click.option("--launcher", metavar="NAME", help="Where to train: local, processes; default: as the run did.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Number of processes that a launcher starts.")
@click.option(
    "--rollout-workers", type=click.IntRange(min=0), metavar="N", help="Number of processes that step the environments."
)
@click.option("--tracking-uri", metavar="URI", help="MLflow store to ask if the run isn't known on this machine.")
@plugin_options
@json_option
@progress_mode_option
@click.argument("others", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.pass_context
def command(
    ctx: click.Context,
    run_id: str,
    total_steps: str | None,
    from_step: int | None,
    launcher: str | None,
    workers: int | None,
    rollout_workers: int | None,
    tracking_uri: str | None,
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
    as_json: bool,
    progress: ProgressMode,
    others: tuple[str, ...],
) -> None:
    """Continue a run. RUN_ID is an MLflow run id, a run key, a group or a name.

    It continues from its last checkpoint in the same MLflow run, as if it had never been interrupted. If training is
    complete, only missing steps such as the final evaluation are done.
    """
    from pgzoo.cli import summary
    from pgzoo.tracking import Home, find
    from pgzoo.tracking.missing_code import check_files

    if others:
        raise click.UsageError(
            f"{others[0]} can't be changed: a resumed run keeps its settings. Only --total-steps, --launcher, "
            "--workers and --rollout-workers may change. For other settings start a new run.",
            ctx,
        )
    found = find(run_id, Home.find(), tracking_uri)
    check_files(imports, found, command_line())
    catalog = open_catalog(blocked=blocked, imports=imports)
    steps = None if total_steps is None else _whole(ctx, total_steps)
    with stdout_to_stderr():
        with Waiting("Loading torch and gymnasium", progress):
            from pgzoo.runs.resume import resume
        result = resume(
            found,
            catalog,
            total_steps=steps,
            from_step=from_step,
            launcher=launcher,
            workers=workers,
            rollout_workers=rollout_workers,
            command=command_line(),
            progress=progress,
            own_process=True,
        )
    summary.conclude(ctx, result, as_json, progress)


def _whole(ctx: click.Context, text: str) -> int:
    """Read a number of steps such as 1e6."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number < 1 or not number.is_integer():
        raise click.UsageError(f"--total-steps: give a whole number of steps, at least 1 (got {text!r}).", ctx)
    return int(number)
