"""`pgzoo plugins`: the plugins that were found, and whether each works. Each subcommand has a file of its own."""

from __future__ import annotations

from typing import Any

import click

from pgzoo.cli import common, tables
from pgzoo.cli.plugins_check import check
from pgzoo.cli.plugins_install import install, uninstall
from pgzoo.cli.plugins_new import new
from pgzoo.registry import KINDS, ComponentKind, PluginCatalog, PluginInfo
from pgzoo.registry.catalog import kind_label

__all__ = ["command"]

COLORS = {"ok": "green", "broken": "red", "blocked": "yellow"}


@click.group("plugins", invoke_without_command=True)
@common.plugin_options
@common.json_option
@common.progress_option
@click.pass_context
def command(ctx: click.Context, imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    """List, check, write, install or uninstall plugins."""
    if ctx.invoked_subcommand is None:
        _list(imports, blocked, as_json)


@command.command("list")
@common.plugin_options
@common.json_option
@common.progress_option
def list_(imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    """List the plugins: their components, or why they aren't loaded."""
    _list(imports, blocked, as_json)


for subcommand in (check, new, install, uninstall):
    command.add_command(subcommand)


def _list(imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    catalog = common.open_catalog(blocked=blocked, imports=imports)
    if as_json:
        common.print_json([_describe(plugin, catalog) for plugin in catalog.plugins])
        return
    rows = [
        (plugin.name, f"[{COLORS[plugin.status]}]{plugin.status}", plugin.error or _line(plugin, catalog))
        for plugin in catalog.plugins
    ]
    hint = "Details: pgzoo plugins --json   Load times: pgzoo doctor   Conformance checks: pgzoo plugins check NAME"
    tables.print_lines(("Name", "Status", "Offers"), rows, hint=hint)


def _describe(plugin: PluginInfo, catalog: PluginCatalog) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "summary": _summary(plugin, catalog),
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": plugin.status,
        "error": plugin.error or None,
        "source": plugin.source,
        "module": plugin.module,
        "seconds": round(plugin.seconds, 4),
        "offers": _offers(plugin, catalog),
        "hooks": plugin.hooks,
    }


def _offers(plugin: PluginInfo, catalog: PluginCatalog) -> dict[ComponentKind, list[str]]:
    """Return the names of a plugin's components by kind."""
    found = {
        kind: [entry.name for entry in catalog.entries(kind) if entry.plugin.name == plugin.name] for kind in KINDS
    }
    return {kind: names for kind, names in found.items() if names}


def _line(plugin: PluginInfo, catalog: PluginCatalog) -> str:
    """Return what a plugin offers, with its origin unless it is built in."""
    summary = _summary(plugin, catalog)
    return summary if plugin.source == "built-in" else f"{summary} ({plugin.origin})".strip()


def _summary(plugin: PluginInfo, catalog: PluginCatalog) -> str:
    offers = {kind_label(kind): names for kind, names in _offers(plugin, catalog).items()}
    events = [hook.removeprefix("pgzoo_") for hook in plugin.hooks if hook != "pgzoo_register"]
    parts = {**offers, "listens to": events} if events else offers
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items())
