"""`pgzoo plugins install` and `pgzoo plugins uninstall`: run pip in this environment, and show what it changes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import click

from pgzoo.cli import common
from pgzoo.errors import PgzooError, UnknownName, UsageError, did_you_mean
from pgzoo.registry import PluginCatalog

__all__ = ["install", "uninstall"]

Rows = dict[str, Mapping[str, Any]]
"""The installed plugins as `pgzoo plugins --json` describes them, by name and distribution."""

yes_option = click.option("--yes", "-y", is_flag=True, help="Don't ask for confirmation.")


@click.command(short_help="Install a plugin with pip.")
@click.argument("what", metavar="NAME|PATH|URL")
@click.option("--editable", "-e", is_flag=True, help="Use the files in the folder PATH, so that changes take effect.")
@yes_option
@common.json_option
@common.progress_option
@click.pass_context
def install(ctx: click.Context, what: str, editable: bool, yes: bool, as_json: bool) -> None:
    """Install a plugin with pip into this environment, and show what it registers.

    The pip command is shown first, and run after confirmation.
    """
    _check_installable(what, editable)
    command = [*_pip(), "install", *(["--editable"] if editable else []), what]
    _confirm(command, "A plugin is code that runs with your permissions: install only what you trust.", yes)
    before = _installed()
    _run(command)
    _report(ctx, command, before, _installed(), as_json)


@click.command(short_help="Uninstall a plugin with pip.")
@click.argument("name")
@yes_option
@common.json_option
@common.progress_option
@click.pass_context
def uninstall(ctx: click.Context, name: str, yes: bool, as_json: bool) -> None:
    """Uninstall the plugin NAME, or the distribution NAME, with pip.

    The pip command is shown first, and run after confirmation.
    """
    catalog = ctx.find_root().obj
    assert isinstance(catalog, PluginCatalog)
    command = [*_pip(), "uninstall", "--yes", _distribution(name, catalog)]
    _confirm(command, "Runs that were trained with it can't be resumed until it is installed again.", yes)
    before = _installed()
    _run(command)
    _report(ctx, command, before, _installed(), as_json)


def _check_installable(what: str, editable: bool) -> None:
    """Raise UsageError for an option, a path that doesn't exist, or a folder that isn't a package."""
    if what.startswith("-"):
        raise UsageError(f"Expected a name, a path or a URL, not {what!r}.")
    path = Path(what)
    is_path = "://" not in what and " @ " not in what and (os.sep in what or what.startswith("."))
    if editable and not is_path:
        raise UsageError(f"--editable needs the path of a folder, such as ./{what}")
    if is_path and not path.exists():
        raise UsageError(f"There is no file or folder {what}.")
    if is_path and path.is_dir() and not any((path / name).is_file() for name in ("pyproject.toml", "setup.py")):
        raise UsageError(f"The folder {what} has no pyproject.toml, so it can't be installed.")


def _distribution(name: str, catalog: PluginCatalog) -> str:
    """Return the distribution that has the name, or that has the plugin of this name."""

    def normal(text: str | None) -> str:
        return re.sub(r"[-_.]+", "-", text or "").lower()

    installed = [plugin for plugin in catalog.plugins if plugin.source == "entry point" and plugin.distribution]
    found = next((p for p in installed if normal(name) in (normal(p.name), normal(p.distribution))), None)
    if found is not None:
        return str(found.distribution)
    if any(name in (plugin.name, plugin.distribution) for plugin in catalog.plugins):
        raise UsageError(f'The plugin "{name}" is built in and can\'t be uninstalled.')
    known = {text for plugin in installed for text in (plugin.name, plugin.distribution) if text}
    raise UnknownName(f'No plugin "{name}" is installed.{did_you_mean(name, known)} See: pgzoo plugins')


def _pip() -> list[str]:
    """Return the start of a pip command. Raises UsageError if this environment has no pip."""
    if PathFinder.find_spec("pip") is None:  # importlib.util.find_spec would ask setuptools, which warns
        raise UsageError(
            f"The environment {sys.prefix} has no pip. Add it ({shlex.quote(sys.executable)} -m ensurepip), or use "
            "another installer, such as uv pip install."
        )
    return [sys.executable, "-m", "pip"]


def _confirm(command: Sequence[str], note: str, yes: bool) -> None:
    """Show a command, and ask whether to run it. Raises UsageError if the answer isn't yes."""
    common.echo(f"This command will be run:\n  {shlex.join(command)}\n{note}", err=True)
    if yes:
        return
    try:
        agreed = click.confirm("Continue?", err=True)
    except click.Abort:
        raise UsageError("There was no answer, so nothing was changed. To run it without a question: --yes") from None
    if not agreed:
        raise UsageError("Nothing was changed.")


def _run(command: Sequence[str]) -> None:
    """Run pip; its output goes to stderr. Raises PgzooError if it fails."""
    sys.stderr.flush()
    try:
        code = subprocess.run(command, stdout=2, check=False).returncode
    except OSError as error:
        raise PgzooError(f"pip can't be started: {error.strerror}. The command was: {shlex.join(command)}") from error
    if code:
        raise PgzooError(f"pip failed with exit code {code}; its messages are above.")


def _installed() -> Rows:
    """Return the installed plugins, from a new process that has not imported any of them before."""
    command = [sys.executable, "-P", "-m", "pgzoo", "plugins", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PgzooError(f"The plugins can't be listed: {done.stderr.strip()}")
    rows: list[Mapping[str, Any]] = json.loads(done.stdout)
    return {f"{row['name']} {row['distribution']}": row for row in rows if row["source"] == "entry point"}


def _report(ctx: click.Context, command: Sequence[str], before: Rows, after: Rows, as_json: bool) -> None:
    """Show which plugins were added, changed and removed. The exit code is 1 if a new one is broken."""
    added = [after[key] for key in after.keys() - before.keys()]
    removed = [before[key] for key in before.keys() - after.keys()]
    facts = ("version", "status", "error", "offers", "hooks")
    changed = [
        after[key] for key in after.keys() & before.keys() if any(after[key][f] != before[key][f] for f in facts)
    ]
    if as_json:
        common.print_json({"command": list(command), "added": added, "changed": changed, "removed": removed})
    else:
        for title, rows in (("Added", added), ("Changed", changed), ("Removed", removed)):
            for row in rows:
                what = f"broken: {row['error']}" if row["status"] == "broken" else row["summary"]
                common.echo(f"{title} plugin {row['name']} ({row['distribution']} {row['version']}): {what}")
        if not added + changed + removed:
            common.echo("No plugin was added, changed or removed: is there an entry point in the group pgzoo?")
    ctx.exit(int(any(row["status"] == "broken" for row in added + changed)))
