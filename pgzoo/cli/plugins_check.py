"""`pgzoo plugins check NAME`: run the conformance checks of a plugin, or of one component."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from pgzoo.cli import common, tables
from pgzoo.errors import UnknownName, did_you_mean
from pgzoo.registry import KINDS, ComponentKind, PluginCatalog
from pgzoo.registry.catalog import kind_label

__all__ = ["check"]

COLORS = {"ok": "[green]", "failed": "[red]", "exception": "[yellow]", "not run": "[yellow]"}

OF_ESTIMATORS = frozenset({"rewards", "values", "next_values", "log_rhos", "terminated", "truncated", "valid", "gamma"})
"""Arguments by which a function is known as an estimator, even if it takes as many positional ones as a policy."""

Task = tuple[str, str, Callable[[], None]]
"""The component or plugin that is checked, the name of the check, and the check."""


@click.command(short_help="Check a plugin or a component.")
@click.argument("name")
@common.plugin_options
@common.json_option
@common.progress_option
@click.pass_context
def check(ctx: click.Context, name: str, imports: Sequence[str], blocked: tuple[str, ...], as_json: bool) -> None:
    """Check plugin NAME and all that it registers, or the component NAME. The exit code is 1 if a check fails.

    FILE.py:NAME is an algorithm, a policy or an estimator in a file. If the failure of one check is probably the
    consequence of another, only the cause is reported as failed. A component's attribute known_exceptions = {CHECK:
    REASON} lists the checks that it fails on purpose.
    """
    if ".py:" in name:
        from pgzoo.registry.objects import names_of_references

        [name], imports = names_of_references([name], imports)
    catalog = common.open_catalog(blocked=blocked, imports=imports)
    with common.stdout_to_stderr():
        tasks = _tasks_of_object(name, catalog) if ":" in name else _tasks(name, catalog)
        found = [_run_check(*task) for task in tasks]
    failed = sum(not finding["ok"] for finding in found)
    if as_json:
        common.print_json(found)
    else:
        rows = [(f["component"], f["check"], COLORS[f["result"]] + f["result"], f["message"]) for f in found]
        tables.print_table(("Component", "Check", "Result", "Message"), rows)
        excepted = sum(finding["result"] == "exception" for finding in found)
        known = f", {excepted} known exceptions" if excepted else ""
        common.echo(f"{len(found)} checks, {failed or 'none'} failed{known}", err=True)
    ctx.exit(1 if failed else 0)


def _tasks(name: str, catalog: PluginCatalog) -> Iterator[Task]:
    """Yield the checks of the plugin or component NAME. Raises UnknownName if there is none of that name."""
    from pgzoo.testing.checks import check_component, check_plugin

    everything = [entry for kind in KINDS for entry in catalog.entries(kind)]
    plugins = [plugin for plugin in catalog.plugins if name in (plugin.name, plugin.distribution)]
    entries = [entry for entry in everything if entry.name == name]
    if not plugins and not entries:
        known = {*(plugin.name for plugin in catalog.plugins), *(entry.name for entry in everything)}
        raise UnknownName(f'No plugin or component "{name}".{did_you_mean(name, known)} See: pgzoo plugins')
    for plugin in plugins or {entry.plugin.name: entry.plugin for entry in entries}.values():
        yield from ((plugin.name, check_name, task) for check_name, task in check_plugin(plugin, catalog))
    for entry in [entry for entry in everything if entry.plugin in plugins or entry in entries]:
        yield from (
            (f"{kind_label(entry.kind)} {entry.name}", check_name, task)
            for check_name, task in check_component(entry, catalog)
        )


def _tasks_of_object(name: str, catalog: PluginCatalog) -> Iterator[Task]:
    """Yield the checks of the class or function `module:qualname`, as the first kind of component that it can be.

    Raises:
        ConfigError: it can't be one.
    """
    from pgzoo.errors import ConfigError
    from pgzoo.testing.checks import check_component

    kinds: tuple[ComponentKind, ...] = ("algorithm", "policy", "estimator")
    if _is_estimator(name, catalog):
        kinds = ("estimator",)
    errors = []
    for kind in kinds:
        try:
            entry = catalog.get(kind, name)
        except ConfigError as error:
            errors.append(error)
            continue
        for check_name, task in check_component(entry, catalog):
            yield f"{kind} {name}", check_name, task
        return
    raise errors[0]


def _is_estimator(name: str, catalog: PluginCatalog) -> bool:
    """Return whether `module:qualname` is a function that takes what only estimators take."""
    from pgzoo.errors import ConfigError, UnknownName

    try:
        function = catalog.get("estimator", name).load()
    except (ConfigError, UnknownName):
        return False
    return not OF_ESTIMATORS.isdisjoint(inspect.signature(function).parameters)


def _run_check(component: str, check_name: str, task: Callable[[], None]) -> dict[str, Any]:
    from pgzoo.testing.checks import CheckFailed, Consequence, KnownException, NotApplicable

    result, message = "ok", ""
    try:
        task()
    except KnownException as reason:
        result, message = "exception", str(reason)
    except Consequence as reason:
        result, message = "not run", str(reason)
    except NotApplicable as reason:
        message = f"nothing to check: {reason}"
    except CheckFailed as failure:
        result, message = "failed", str(failure)
    ok = result != "failed"
    return {"check": check_name, "component": component, "ok": ok, "result": result, "message": message}
