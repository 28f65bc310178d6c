"""`pgzoo algorithms | policies | estimators | plugins [list]`: what is there, and from which plugin."""

from __future__ import annotations

from typing import Any

import click

from pgzoo.cli import common
from pgzoo.cli.check import check
from pgzoo.registry import KINDS, ComponentKind, Entry, PluginCatalog, PluginInfo

__all__ = ["algorithms", "describe", "estimators", "plugins", "policies"]


def describe(entry: Entry) -> dict[str, Any]:
    """An entry as the listings show it in JSON."""
    plugin = entry.plugin
    return {
        "name": entry.name,
        "summary": entry.summary,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "plugin": plugin.name,
        "source": plugin.source,
        **({"facts": dict(entry.facts)} if entry.facts else {}),
    }


def _listing(kind: ComponentKind, about: str, hint: str) -> click.Command:
    """Make the command that lists one kind."""

    @click.command(help=about)
    @common.plugin_options
    @common.json_option
    @common.progress_option
    def command(imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
        entries = common.open_catalog(blocked=blocked, imports=imports).entries(kind)
        if as_json:
            common.print_json([describe(entry) for entry in entries])
            return
        facts = [fact for fact in FACTS if any(entry.facts.get(fact) for entry in entries)]
        rows = [
            (entry.name, entry.summary, *(_said(entry.facts.get(fact)) for fact in facts), entry.plugin.origin)
            for entry in entries
        ]
        common.print_table(("Name", "Summary", *(FACTS[fact] for fact in facts), "From"), rows, hint=hint)

    return command


PLUGIN_HINT = "More: pgzoo doctor   Whether one keeps to its contract: pgzoo plugins check NAME"
FACTS = {"family": "Family", "actions": "Actions", "recurrent": "Memory", "seeds": "Seeds", "source": "Source"}


def _said(fact: object) -> str:
    return {True: "yes", False: "no", None: ""}[fact] if isinstance(fact, bool | None) else str(fact)


algorithms = _listing("algorithm", "List the algorithms.", "Options of one: pgzoo run NAME --help")
policies = _listing("policy", "List the policies.", "Use one: pgzoo run ALGO --policy NAME")
estimators = _listing("estimator", "List the return estimators.", "Use one: pgzoo run ALGO --estimator NAME")


@click.group(invoke_without_command=True)
@common.plugin_options
@common.json_option
@common.progress_option
@click.pass_context
def plugins(ctx: click.Context, imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    """List the plugins, or check one."""
    if ctx.invoked_subcommand is None:
        _list_plugins(imports, blocked, as_json)


@plugins.command("list")
@common.plugin_options
@common.json_option
@common.progress_option
def list_(imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    """List the plugins: what each offers, and why it isn't in use."""
    _list_plugins(imports, blocked, as_json)


plugins.add_command(check)


def _list_plugins(imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    catalog = common.open_catalog(blocked=blocked, imports=imports)
    if as_json:
        common.print_json([_describe_plugin(plugin, catalog) for plugin in catalog.plugins])
        return
    rows = [
        (
            plugin.name,
            _status(plugin),
            plugin.source,
            plugin.origin,
            plugin.error or _summary(plugin, catalog),
        )
        for plugin in catalog.plugins
    ]
    common.print_table(
        ("Name", "Status", "Source", "From", "Offers"),
        rows,
        hint=PLUGIN_HINT,
    )


def _describe_plugin(plugin: PluginInfo, catalog: PluginCatalog) -> dict[str, Any]:
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


def _offers(plugin: PluginInfo, catalog: PluginCatalog) -> dict[str, list[str]]:
    found = {
        kind: [entry.name for entry in catalog.entries(kind) if entry.plugin.name == plugin.name] for kind in KINDS
    }
    return {kind: names for kind, names in found.items() if names}


def _summary(plugin: PluginInfo, catalog: PluginCatalog) -> str:
    offers = {kind.replace("_", " "): names for kind, names in _offers(plugin, catalog).items()}
    events = [hook.removeprefix("pgzoo_") for hook in plugin.hooks if hook != "pgzoo_register"]
    parts = {**offers, "hears": events} if events else offers
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items())


def _status(plugin: PluginInfo) -> str:
    color = {"ok": "green", "broken": "red", "blocked": "yellow"}[plugin.status]
    return f"[{color}]{plugin.status}"
