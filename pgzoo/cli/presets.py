"""`pgzoo presets`: named collections of settings."""

from __future__ import annotations

from typing import Any

import click

from pgzoo.cli import common, tables
from pgzoo.cli.completion import complete_component
from pgzoo.cli.listing import describe
from pgzoo.errors import UnknownName, did_you_mean
from pgzoo.registry import Entry, PluginCatalog

__all__ = ["command"]


class PresetsGroup(click.Group):
    """A group that passes a first argument that isn't a subcommand to `show`: `presets ppo` is `presets show ppo`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


@click.group("presets", cls=PresetsGroup, invoke_without_command=True, subcommand_metavar="[NAME | ALGO [ENV]]")
@common.plugin_options
@common.json_option
@common.progress_option
@click.pass_context
def command(ctx: click.Context, imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    """List presets, or show the settings of one, or of all presets of an algorithm."""
    if ctx.invoked_subcommand is not None:
        return
    entries = common.open_catalog(blocked=blocked, imports=imports).entries("preset")
    if as_json:
        common.print_json([_describe_preset(entry) for entry in entries])
        return
    hint = "Settings: pgzoo presets NAME, or pgzoo presets ALGO   Use one: pgzoo run ALGO --preset NAME"
    tables.print_lines(("Name", "Summary"), [(entry.name, common.summary_line(entry)) for entry in entries], hint=hint)


@command.command()
@click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="NAME | ALGO [ENV]",
    shell_complete=complete_component("preset", "algorithm"),
)
@common.plugin_options
@common.json_option
@common.progress_option
def show(names: tuple[str, ...], imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    """Show the settings of preset NAME, of all presets of ALGO, or of the one that `--preset auto` chooses for ENV."""
    if len(names) > 2:
        raise click.UsageError("Give the name of a preset, or an algorithm and an environment.")
    catalog = common.open_catalog(blocked=blocked, imports=imports)
    found = [_automatic(catalog, *names)] if len(names) == 2 else _named(catalog, names[0])
    if as_json:
        described = [_describe_preset(entry) for entry in found]
        common.print_json(described[0] if len(found) == 1 else described)
        return
    import yaml

    for entry in found:
        preset = entry.target
        settings = {
            "algorithm": preset.algorithm,
            **({"env": preset.env} if preset.env else {}),
            **preset.settings,
        }
        if len(found) > 1:
            common.echo("---")
        common.echo(f"# {entry.name}: {common.summary_line(entry)}")
        common.echo(f"# pgzoo run {preset.algorithm} --preset {entry.name}")
        common.echo(yaml.safe_dump(settings, sort_keys=False), nl=False)


def _named(catalog: PluginCatalog, name: str) -> list[Entry]:
    """Return the preset of this name, or else the presets of the algorithm of this name."""
    entries = catalog.entries("preset")
    if found := [entry for entry in entries if entry.name == name]:
        return found
    if found := [entry for entry in entries if entry.target.algorithm == name]:
        return found
    if name in catalog.names("algorithm"):
        raise UnknownName(f'There is no preset for algorithm "{name}". See: pgzoo presets')
    known = [*catalog.names("preset"), *catalog.names("algorithm")]
    lines = [f'No preset or algorithm "{name}".{did_you_mean(name, known)} See: pgzoo presets']
    raise UnknownName("\n".join([*lines, *catalog.absent_plugins()]))


def _automatic(catalog: PluginCatalog, algorithm: str, env: str) -> Entry:
    """Return the preset that a run of `algorithm` in `env` uses by default. Raises UnknownName if there is none."""
    catalog.get("algorithm", algorithm)
    entry = catalog.auto_preset(algorithm, env)
    if entry is None:
        fitting = [e.name for e in catalog.entries("preset") if e.target.algorithm == algorithm]
        others = f" Presets that you can name: {', '.join(fitting)}." if fitting else ""
        raise UnknownName(f'No preset is applied automatically to "{algorithm}" on {env}.{others} See: pgzoo presets')
    return entry


def _describe_preset(entry: Entry) -> dict[str, Any]:
    preset = entry.target
    return {
        **describe(entry),
        "algorithm": preset.algorithm,
        "env": preset.env,
        "auto": preset.auto,
        "settings": dict(preset.settings),
    }
