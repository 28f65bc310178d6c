"""`pgzoo export RUN_ID|FOLDER --to DIR`: write the policies of runs, or the policy in a folder, to other formats."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

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
from pgzoo.cli.completion import complete_run_or_folder
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from pgzoo.export.formats import Format
    from pgzoo.registry import PluginInfo

__all__ = ["command"]


@click.command("export")
@click.argument("what", metavar="RUN_ID|FOLDER", shell_complete=complete_run_or_folder)
@click.option(
    "--to",
    "folder",
    required=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to; with several runs, one subfolder per run.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["safetensors", "onnx", "mlflow"]),
    default="safetensors",
    show_default=True,
    help="pgzoo's own files, an ONNX graph (extra onnx), or a model for `mlflow models serve`.",
)
@click.option("--tracking-uri", metavar="URI", help="MLflow store to ask if the run isn't known on this machine.")
@progress_mode_option
@plugin_options
@json_option
def command(
    what: str,
    folder: Path,
    format_: Format,
    tracking_uri: str | None,
    progress: ProgressMode,
    as_json: bool,
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
) -> None:
    """Export the policy of a run or of a folder.

    A run is named by its MLflow run id, run key, group or name. An ONNX graph is compared with the policy before it
    is written.
    """
    with Waiting("Loading torch and gymnasium", progress):
        from pgzoo.export.formats import export
        from pgzoo.play.evaluation import find_policies
        from pgzoo.tracking import Home

    with stdout_to_stderr():
        catalog = open_catalog(blocked=blocked, imports=imports)
        found = find_policies(what, catalog, Home.find(), tracking_uri, command_line())
    made = []
    for number, one in enumerate(found, 1):
        to = folder if len(found) == 1 else folder / one.file_name
        with stdout_to_stderr(), Waiting(f"Exporting {one.name} as {format_}: {number} of {len(found)}", progress):
            plugin = catalog.get("policy", one.policy.component.name).plugin
            needed = dict.fromkeys(["pgzoo", *filter(None, [plugin.distribution])])
            path = export(one.policy, to, format_, distributions=list(needed))
        made.append({"name": one.name, "seed": one.seed, "format": format_, "folder": str(path)})
        if not as_json:
            echo(f"{one.name}  {path}")
        if format_ == "mlflow":
            _explain(path, plugin)
    if as_json:
        print_json(made)


def _explain(model: Path, plugin: PluginInfo) -> None:
    """Say on stderr what a server of the model needs, and how to start one."""
    lines = (model / "requirements.txt").read_text(encoding="utf-8").split()
    echo(f"requirements.txt: {', '.join(lines)}", err=True)
    if not plugin.distribution:
        echo(
            f"Note: the policy comes from {plugin.module}, which is in none of them; the server has to find it in its "
            "working directory.",
            err=True,
        )
    echo(f"Serve it: mlflow models serve -m {shlex.quote(str(model))} --env-manager local --port 5001", err=True)
