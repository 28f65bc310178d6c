"""`pgzoo repro RUN_ID`: repeat a run and report the first difference."""

from __future__ import annotations

from dataclasses import asdict

import click

from pgzoo.cli.common import (
    command_line,
    echo,
    json_option,
    open_catalog,
    plugin_options,
    print_json,
    progress_mode_option,
    stdout_to_stderr,
)
from pgzoo.cli.completion import complete_run
from pgzoo.runs.waiting import ProgressMode, Waiting

__all__ = ["command"]


@click.command("repro")
@click.argument("run_id", shell_complete=complete_run)
@plugin_options
@json_option
@progress_mode_option
@click.pass_context
def command(
    ctx: click.Context,
    run_id: str,
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
    as_json: bool,
    progress: ProgressMode,
) -> None:
    """Repeat a run and report the first difference. RUN_ID is an MLflow run id, a run key, a group or a name.

    Differences in the installation, such as versions, are printed first. A run that was extended by `pgzoo resume` is
    repeated in the same stages. The metrics of the two runs are compared step by step; the repeated run isn't kept. The
    exit code is 1 if they differ.
    """
    from pgzoo.runs.reproduce import differences, reproduce
    from pgzoo.tracking import Home, find
    from pgzoo.tracking.missing_code import check_files

    found = find(run_id, Home.find())
    check_files(imports, found, command_line())
    catalog = open_catalog(blocked=blocked, imports=imports)
    unlike = list(dict.fromkeys(what for one in found for what in differences(one, catalog, command_line())))
    for what in unlike:
        echo(what, err=True)
    results = []
    for one in found:
        with stdout_to_stderr(), Waiting(f"Repeating {one.name} ({one.run_key})", progress):
            results.append(reproduce(one, catalog))
    if as_json:
        print_json([asdict(r) | {"equal": r.first is None, "unlike": unlike} for r in results])
    for result in [] if as_json else results:
        if result.first is None:
            upto = "" if result.until is None else f" up to step {result.until:,}"
            echo(f"{result.run_key}: all {result.compared:,} values{upto} are equal, bit for bit.")
        else:
            d = result.first
            then, now = ("nothing" if value is None else repr(value) for value in (d.then, d.now))
            echo(f"{result.run_key}: the first difference is at step {d.step:,}, {d.metric}: {then}, now {now}.")
    ctx.exit(int(any(result.first for result in results)))
