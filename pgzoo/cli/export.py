"""`pgzoo export RUN_ID|FOLDER --to DIR`: write the policies of runs, or the policy in a folder, to other formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgzoo.cli.common import json_option, open_catalog, plugin_options, print_json, progress_option

if TYPE_CHECKING:
    from pgzoo.export.formats import Format

__all__ = ["command"]


@click.command("export")
@click.argument("what", metavar="RUN_ID|FOLDER")
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
@progress_option
@plugin_options
@json_option
def command(
    what: str,
    folder: Path,
    format_: Format,
    tracking_uri: str | None,
    as_json: bool,
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
) -> None:
    """Export the policy of a run or of a folder.

    A run is named by its MLflow run id, run key, group or name. An ONNX graph is compared with the policy before it
    is written.
    """
    from pgzoo.export.formats import export
    from pgzoo.play.evaluation import find_policies
    from pgzoo.tracking import Home

    catalog = open_catalog(blocked=blocked, imports=imports)
    found = find_policies(what, catalog, Home.find(), tracking_uri)
    made = []
    for one in found:
        to = folder if len(found) == 1 else folder / f"s{one.seed}"
        path = export(one.policy, to, format_)
        made.append({"name": one.name, "seed": one.seed, "format": format_, "folder": str(path)})
        if not as_json:
            click.echo(f"{one.name}  {path}")
    if as_json:
        print_json(made)
