"""`pgzoo doctor`: check the installation. Imports nothing heavy and changes nothing."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

import click

from pgzoo import extras
from pgzoo.cli import common, tables
from pgzoo.errors import StoreError
from pgzoo.registry import PluginCatalog, PluginInfo

__all__ = ["Finding", "command"]

NEEDED = (
    "torch",
    "gymnasium",
    "numpy",
    "mlflow",
    "pluggy",
    "click",
    "pydantic",
    "rich",
    "matplotlib",
    "safetensors",
)
SLOW_SECONDS = 0.2
State = Literal["ok", "note", "bad"]
_MARKS: dict[State, str] = {"ok": "[green]ok", "note": "[yellow]note", "bad": "[red]bad"}


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. Only the state "bad" makes the exit code 1."""

    section: str
    name: str
    state: State
    detail: str


@click.command()
@common.plugin_options
@common.json_option
@common.progress_option
@click.pass_context
def command(ctx: click.Context, imports: tuple[str, ...], blocked: tuple[str, ...], as_json: bool) -> None:
    """Check the installation, the plugins and the store.

    Exit code 1 if something is broken.
    """
    catalog = common.open_catalog(blocked=blocked, imports=imports)
    first = ctx.find_root().obj
    findings = [
        *_versions(),
        *_machine(),
        *_extras(),
        *_plugins(catalog, first if isinstance(first, PluginCatalog) else catalog),
        *_store(),
    ]
    bad = [finding for finding in findings if finding.state == "bad"]
    if as_json:
        common.print_json({"healthy": not bad, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [(_MARKS[f.state], f.section, f.name, f.detail) for f in findings]
        tables.print_table(("", "Part", "Name", "Found"), rows)
        names = ", ".join(finding.name for finding in bad)
        waiting = any(f.section == "tracking" and f.state == "note" for f in findings)
        good = "No problems found; see the notes on tracking." if waiting else "Everything is in order."
        click.secho(f"Broken: {names}." if bad else good, fg="red" if bad else "green")
    ctx.exit(1 if bad else 0)


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield Finding("versions", "pgzoo", "ok", metadata.version("pgzoo"))
    for name in NEEDED:
        try:
            yield Finding("versions", name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding("versions", name, "bad", f"not installed; run: pip install {name}")


def _machine() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("machine", "cpus", "ok", f"{usable} usable of {os.cpu_count()}; {platform.platform()}")
    threads = os.environ.get("OMP_NUM_THREADS")
    yield Finding("machine", "threads", "ok", f"OMP_NUM_THREADS={threads}" if threads else "OMP_NUM_THREADS not set")


def _extras() -> Iterator[Finding]:
    for name, extra in extras.EXTRAS.items():
        if extras.present(name):
            yield Finding("extras", name, "ok", f"installed, for {extra.purpose}")
        else:
            yield Finding("extras", name, "note", f"{extras.install_hint(extra.modules[0])} for {extra.purpose}")


def _plugins(catalog: PluginCatalog, first: PluginCatalog) -> Iterator[Finding]:
    """Yield a finding for each plugin. Load times come from `first`, in which the plugins were imported."""
    measured = {plugin.name: plugin for plugin in first.plugins if plugin.status == "ok"}
    for plugin in catalog.plugins:
        yield _plugin(plugin, measured.get(plugin.name, plugin))


def _plugin(plugin: PluginInfo, measured: PluginInfo) -> Finding:
    if plugin.status == "broken":
        return Finding("plugins", plugin.name, "bad", f"{plugin.origin}: {plugin.error}")
    if plugin.status == "blocked":
        return Finding("plugins", plugin.name, "note", f"{plugin.origin}: blocked")
    took = f"{plugin.origin}: loaded in {1000 * measured.seconds:.0f} ms"
    if plugin.source not in ("built-in", "entry point"):  # only these are loaded by every command
        return Finding("plugins", plugin.name, "ok", took)
    if measured.heavy:
        heavy = ", ".join(measured.heavy)
        return Finding(
            "plugins",
            plugin.name,
            "note",
            f'{took}, because it imports {heavy}; register components as strings, "pkg.module:attr"',
        )
    if measured.seconds > SLOW_SECONDS:
        return Finding("plugins", plugin.name, "note", f"{took}, which slows every command down")
    return Finding("plugins", plugin.name, "ok", took)


def _store() -> Iterator[Finding]:
    from pgzoo.tracking import Home, check_store, display_uri, pending, resolve_uri
    from pgzoo.tracking.home import broken_databases

    home = Home.find()
    uri = resolve_uri(None, home)
    try:
        check_store(uri, home)
    except StoreError as error:
        yield Finding("tracking", "store", "bad", str(error))
    else:
        unreached = _why_unreachable(uri)
        yield Finding("tracking", "store", "note" if unreached else "ok", f"{display_uri(uri)}{unreached}")
    yield Finding("tracking", "folder", "ok", str(home.root))
    left = pending(home)
    why = "".join(f"; {display_uri(store)}: {error}" for store, error in left.errors.items())
    if left:
        yield Finding("tracking", "not uploaded yet", "note", f"{left}{why}; run: pgzoo sync")
    elif why:
        yield Finding("tracking", "not uploaded yet", "note", f"runs that are still training{why}")
    else:
        yield Finding("tracking", "not uploaded yet", "ok", "nothing")
    for path in broken_databases(uri):
        detail = "an incomplete database without runs, replaced by a new one; you can delete it"
        yield Finding("tracking", path.name, "note", detail)
    for run, reason in left.refusals.items():
        yield Finding("tracking", run, "note", f"refused by its store: {reason}")


def _why_unreachable(uri: str) -> str:
    """Return why an MLflow server can't be reached, or "". Runs don't need it while they train, so this is a note."""
    if not uri.startswith(("http://", "https://")):
        return ""
    from urllib.request import urlopen

    try:
        with urlopen(f"{uri}/health", timeout=3):
            return ""
    except OSError as error:
        return (
            f": doesn't respond ({getattr(error, 'reason', error)}); you can train now and the runs are uploaded later"
        )
