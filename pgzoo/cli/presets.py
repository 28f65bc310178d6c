"""`pgzoo presets`: settings under a name."""

from __future__ import annotations

from typing import Any

import click

from pgzoo.cli import common
from pgzoo.cli.listing import describe
from pgzoo.errors import UnknownName
from pgzoo.registry import Entry, PluginCatalog

__all__ = ["command"]


@click.group(invoke_without_command=True)
@common.plugin_options
@common.json_option
@common.progress_option
@click.pass_context
def command(ctx: click.Context, imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    """List presets, or show the settings of one."""
    if ctx.invoked_subcommand is not None:
        return
    entries = common.open_catalog(blocked=blocked, imports=imports).entries("preset")
    if as_json:
        common.print_json([_describe_preset(entry) for entry in entries])
        return
    rows = [
        (
            e.name,
            e.target.algorithm,
            e.target.env or "any",
            "auto" if e.target.auto else "",
            e.summary,
            e.plugin.origin,
        )
        for e in entries
    ]
    hint = "Settings of one: pgzoo presets show NAME   Use one: pgzoo run ALGO --preset NAME"
    common.print_table(("Name", "Algorithm", "Environment", "Applies", "Summary", "From"), rows, hint=hint)


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME | ALGO ENV")
@common.plugin_options
@common.json_option
@common.progress_option
def show(names: tuple[str, ...], imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    """Show the settings of preset NAME, or of the one that applies unasked to ALGO on ENV."""
    if len(names) > 2:
        raise click.UsageError("Give the name of a preset, or an algorithm and an environment.")
    catalog = common.open_catalog(blocked=blocked, imports=imports)
    entry = catalog.get("preset", names[0]) if len(names) == 1 else _automatic(catalog, *names)
    if as_json:
        common.print_json(_describe_preset(entry))
        return
    import yaml

    preset = entry.target
    click.echo(f"# {entry.name}: {entry.summary} (pgzoo run {preset.algorithm} --preset {entry.name})", err=True)
    settings = {
        "algorithm": preset.algorithm,
        **({"env": preset.env} if preset.env else {}),
        **preset.settings,
    }
    click.echo(yaml.safe_dump(settings, sort_keys=False), nl=False)


def _automatic(catalog: PluginCatalog, algorithm: str, env: str) -> Entry:
    catalog.get("algorithm", algorithm)
    entry = catalog.auto_preset(algorithm, env)
    if entry is None:
        fitting = [e.name for e in catalog.entries("preset") if e.target.algorithm == algorithm]
        others = f" By name there are: {', '.join(fitting)}." if fitting else ""
        raise UnknownName(f'No preset applies by itself to "{algorithm}" on {env}.{others} See: pgzoo presets')
    return entry


def _describe_preset(entry: Entry) -> dict[str, Any]:
    preset = entry.target
    settings = dict(preset.settings)
    return {
        **describe(entry),
        "algorithm": preset.algorithm,
        "env": preset.env,
        "auto": preset.auto,
        "settings": settings,
    }
