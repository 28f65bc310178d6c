"""What several commands share: options, opening the plugin catalog, and printing."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import pairwise
from typing import Any, TypeVar

import click

from pgzoo.errors import visible
from pgzoo.registry import Entry, PluginCatalog, discover
from pgzoo.runs.waiting import ProgressMode, progress_mode

__all__ = [
    "F",
    "command_line",
    "deterministic_option",
    "echo",
    "json_option",
    "open_catalog",
    "plugin_options",
    "print_json",
    "progress_mode_option",
    "progress_option",
    "refuse_repeated",
    "stdout_to_stderr",
    "summary_line",
    "warn_of_broken",
]

F = TypeVar("F", bound=Callable[..., Any])


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a line on stdout, or on stderr; characters that act on a terminal are made visible."""
    click.echo(visible(text), err=err, nl=nl)


def summary_line(entry: Entry) -> str:
    """Return a component's summary, with the plugin that it comes from unless it is built in."""
    return entry.summary if entry.plugin.source == "built-in" else f"{entry.summary} ({entry.plugin.origin})"


def json_option(command: F) -> F:
    """Add `--json` (`as_json`)."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def progress_option(command: F) -> F:
    """Add `--no-progress`, which every command accepts, even one without progress output."""
    return click.option("--no-progress", is_flag=True, expose_value=False, help="Show no progress.")(command)


def progress_mode_option(command: F) -> F:
    """Add `--no-progress` and pass on how to show progress (`progress`)."""

    def read(ctx: click.Context, param: click.Parameter, value: bool) -> ProgressMode:
        return progress_mode(not value)

    option = click.option("--no-progress", "progress", is_flag=True, callback=read, help="Show no progress.")
    return option(command)


def deterministic_option(command: F) -> F:
    """Add `--deterministic/--stochastic` (`deterministic`) to a command that plays with a trained policy."""
    return click.option(
        "--deterministic/--stochastic",
        default=False,
        help="Take greedy (most likely) actions, or sample.  [default: stochastic]",
    )(command)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send whatever is written to stdout to stderr, also by C code and child processes, so that JSON stays alone."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is no stdout
        yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        with suppress(Exception):
            ctypes.CDLL(None).fflush(None)  # what C code has printed and not yet written
        os.dup2(kept, 1)
        os.close(kept)


def plugin_options(command: F) -> F:
    """Add `--import` (`imports`) and `--no-plugin` (`blocked`)."""
    command = click.option(
        "--no-plugin",
        "blocked",
        multiple=True,
        metavar="NAME",
        help='Don\'t load this plugin; "local" is ./pgzoo_plugin.py.',
    )(command)
    return click.option(
        "--import", "imports", multiple=True, metavar="MODULE", help="Import a module or a .py file first."
    )(command)


def unparsed_values(args: Sequence[str], option: str) -> list[str]:
    """Return the values of an option in arguments before parsing, because the available options depend on plugins."""
    values = [following for arg, following in pairwise(args) if arg == option]
    return values + [arg.partition("=")[2] for arg in args if arg.startswith(f"{option}=")]


def refuse_repeated(ctx: click.Context, command: click.Command, args: Sequence[str]) -> None:
    """Raise UsageError if an option that takes one value is given twice: the first would be ignored."""
    params = {flag: p for p in command.get_params(ctx) for flag in (*p.opts, *p.secondary_opts)}
    seen: set[str] = set()
    left = iter(args)
    for arg in left:
        if arg == "--":
            return
        flag, equals, _ = arg.partition("=")
        param = params.get(flag) if flag.startswith("-") else None
        if not isinstance(param, click.Option):
            continue
        if not param.is_flag and not equals:
            next(left, None)
        if param.multiple or param.count or not param.name:
            continue
        if param.name in seen:
            raise click.UsageError(f"{flag} is given twice; give one value.", ctx)
        seen.add(param.name)


def open_catalog(*, blocked: Iterable[str] = (), imports: Iterable[str] = ()) -> PluginCatalog:
    """Discover all plugins and report the inline one and broken ones on stderr. Raises as `discover` does."""
    blocked = tuple(blocked)
    context = click.get_current_context(silent=True)
    first = None if blocked or context is None else context.find_root().obj
    base = first if isinstance(first, PluginCatalog) else None  # the program has loaded the installed plugins
    catalog = discover(blocked=blocked, imports=imports, base=base)
    for plugin in catalog.plugins:
        if plugin.source == "inline" and plugin.status == "ok":
            echo(f'Loaded {plugin.module} (inline plugin "{plugin.name}")', err=True)
    warn_of_broken(catalog, inline=True)
    return catalog


def warn_of_broken(catalog: PluginCatalog, *, inline: bool = False) -> None:
    """Report broken plugins on stderr: the inline one, or else all others."""
    for plugin in catalog.broken:
        if (plugin.source == "inline") == inline:
            echo(
                f"Warning: plugin {plugin} failed to load and is ignored: {plugin.error} (see: pgzoo plugins)",
                err=True,
            )


def command_line() -> str:
    """Return the command that the user typed, without passwords, for the log of a run."""
    from pgzoo.tracking import display_uri

    words = [word.partition("=") if word.startswith("-") else (word, "", "") for word in sys.argv[1:]]
    shown = [f"{name}{sign}{display_uri(value)}" if sign else display_uri(name) for name, sign, value in words]
    return f"pgzoo {shlex.join(shown)}"


def print_json(value: object) -> None:
    """Print a value as JSON on stdout."""
    echo(json.dumps(value, indent=2, default=str))
