"""`pgzoo algorithms | policies | estimators | diagnostics [NAME]`: one file, because one function makes the commands.

Without NAME each prints a line per component; with NAME it shows one: its settings, origin and supported spaces.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import click

from pgzoo.cli import common, tables
from pgzoo.cli.completion import complete_component
from pgzoo.registry import ComponentKind, Entry

__all__ = ["algorithms", "describe", "diagnostics", "estimators", "policies"]

FACTS = {"family": "family", "actions": "actions", "recurrent": "memory", "seeds": "seeds", "source": "source"}
"""Facts that a component may be registered with, and their labels."""


def describe(entry: Entry) -> dict[str, Any]:
    """Return a component as `--json` shows it in a listing."""
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


def _listing(kind: ComponentKind, plural: str, help_text: str, prefix: str, use: str) -> click.Command:
    """Make the command that lists components of one kind, or shows one. `prefix` is the prefix of its options."""

    @click.command(plural, help=help_text)
    @click.argument("name", required=False, metavar="[NAME]", shell_complete=complete_component(kind))
    @common.plugin_options
    @common.json_option
    @common.progress_option
    def command(name: str | None, imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
        catalog = common.open_catalog(blocked=blocked, imports=imports)
        if name is not None:
            entry = catalog.get(kind, name)
            settings = _settings(entry, prefix)
            if as_json:
                common.print_json({**describe(entry), "settings": settings})
            else:
                _show(entry, settings, use.replace("NAME", name))
            return
        entries = catalog.entries(kind)
        if as_json:
            common.print_json([describe(entry) for entry in entries])
            return
        rows = [(entry.name, common.summary_line(entry)) for entry in entries]
        tables.print_lines(("Name", "Summary"), rows, hint=f"Details: pgzoo {plural} NAME")

    return command


def _settings(entry: Entry, prefix: str) -> list[dict[str, Any]]:
    """Return the settings of a component: option, default and description of each."""
    model = entry.load_config()
    defaults = getattr(entry.load(), "defaults", {})
    fields = model.model_fields if model else {}
    return [
        {
            "option": f"--{prefix}{name.replace('_', '-')}",
            "default": defaults.get(name, field.get_default(call_default_factory=True)),
            "description": field.description or "",
        }
        for name, field in fields.items()
    ]


def _show(entry: Entry, settings: list[dict[str, Any]], use: str) -> None:
    from pgzoo.cli.options import format_value
    from pgzoo.config import AlgorithmConfig
    from pgzoo.runs.resolve import check_algorithm

    target = entry.load()
    known = {fact: _format_fact(entry.facts[fact]) for fact in FACTS if fact in entry.facts}
    if known.get("source") == "":
        known["source"] = _source_in(inspect.getdoc(target) or "")
    facts = [(FACTS[fact], text) for fact, text in known.items() if text]
    facts += [("from", entry.origin)]
    if entry.kind == "algorithm":
        check_algorithm(entry, entry.load_config() or AlgorithmConfig)
        of_run = {"estimator": target.estimator, **getattr(target, "defaults", {})}
        own = {setting["option"] for setting in settings}
        shown = {key: value for key, value in of_run.items() if f"--{key.replace('_', '-')}" not in own}
        facts.append(("defaults", ", ".join(f"{key} {_format_default(value)}" for key, value in shown.items())))
    tables.print_pairs([("name", entry.name), ("summary", entry.summary), *facts])
    if text := inspect.getdoc(target):
        common.echo(f"\n{text}")
    if settings:
        common.echo()
        rows = [(s["option"], format_value(s["default"]) or "none", s["description"]) for s in settings]
        tables.print_table(("Setting", "Default", "Description"), rows, hint=use)


def _source_in(doc: str) -> str:
    """Return the text after "Source:" in a docstring, up to the end of the paragraph, or an empty string."""
    found = re.search(r"^Source: *(.+?)(?:\n\s*\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _format_fact(fact: object) -> str:
    return {True: "yes", False: "no", None: ""}[fact] if isinstance(fact, bool | None) else str(fact)


def _format_default(value: Any) -> str:
    from pgzoo.cli.options import format_value

    if isinstance(value, dict):
        rest = [f"{key} {format_value(part)}" for key, part in value.items() if key != "name"]
        return f"{value.get('name', '')} ({', '.join(rest)})" if rest else str(value.get("name", ""))
    return format_value(value)


algorithms = _listing(
    "algorithm", "algorithms", "List the algorithms, or show one: its settings and source.", "",
    "Train with it: pgzoo run NAME --env ID",
)  # fmt: skip
policies = _listing(
    "policy", "policies", "List the policies, or show one: its settings and source.", "policy.",
    "Use it: pgzoo run ALGO --env ID --policy NAME",
)  # fmt: skip
estimators = _listing(
    "estimator", "estimators", "List the return estimators, or show one: its settings and source.", "estimator.",
    "Use it: pgzoo run ALGO --env ID --estimator NAME",
)  # fmt: skip
diagnostics = _listing(
    "diagnostic", "diagnostics", "List the diagnostics, which measure training without changing it, or show one.", "",
    "Use it: pgzoo run ALGO --env ID --diagnostics NAME",
)  # fmt: skip
