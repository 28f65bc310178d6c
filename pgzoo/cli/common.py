"""What several commands share: options, opening the plugin catalog, tables and JSON."""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgzoo.errors import visible
from pgzoo.registry import Entry, PluginCatalog, discover
from pgzoo.runs.waiting import ProgressMode, progress_mode

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "F",
    "command_line",
    "deterministic_option",
    "echo",
    "fitted_table",
    "json_option",
    "open_catalog",
    "plugin_options",
    "print_json",
    "print_lines",
    "print_pairs",
    "print_table",
    "progress_mode_option",
    "progress_option",
    "refuse_repeated",
    "stdout_to_stderr",
    "summary_line",
    "table_console",
    "warn_of_broken",
]

F = TypeVar("F", bound=Callable[..., Any])

NUMBER = re.compile(r"(-?[\d,]+(\.\d+)?(e[+-]\d+)?)?")
"""A cell of a column of numbers; it may be empty."""

FOLDED, SHORTEST = 12, 8
"""Widths to which texts in a table are folded, if need be: first to the one, then to the other."""

UNLIMITED = 10**6
"""The width of tables that aren't printed in a terminal."""


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


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, hint: str = "") -> None:
    """Print a table: colored and wrapped in a terminal, otherwise one plain line per row.

    A cell may start with a color, such as "[green]yes"; all other text is printed literally.
    """
    _print_table(columns, rows, hint, heading=True)


def print_lines(columns: Sequence[str], rows: Iterable[Sequence[str]], *, hint: str = "") -> None:
    """Print a table with one line per row; the last column ends in an ellipsis where it doesn't fit.

    The width is the terminal's, or COLUMNS; without either rows are printed whole.
    """
    _print_table(columns, rows, hint, heading=True, one_line=True)


def print_pairs(rows: Iterable[Sequence[str]], *, hint: str = "") -> None:
    """Print pairs of a name and a value, one pair per row."""
    _print_table(("", ""), rows, hint, heading=False)


def table_console() -> Console:
    """Return a console for text and `fitted_table`s: as wide as the terminal, otherwise 200 columns."""
    from rich.console import Console

    return Console(highlight=False, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 200)


def fitted_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Text]],
    width: int,
    *,
    numbers: Container[int],
    right: Container[int] = (),
    lined: bool = False,
    heading: bool = True,
    header_style: str = "bold",
) -> Table:
    """Return a table of at most `width` columns of the terminal; print it with `crop=False`.

    `numbers` are the indices of columns that are shown whole, `right` those aligned to the right. All other columns are
    folded where the table is too wide. If even that isn't enough, nothing is folded and the lines are longer than
    `width`, because a terminal that wraps them shows every number.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table

    names = columns if heading else [""] * len(columns)
    words = [max(map(cell_len, name.split()), default=0) for name in names]
    cells = [0] * len(columns)
    for row in rows:
        cells = [max(size, *map(cell_len, str(cell).split("\n"))) for size, cell in zip(cells, row, strict=True)]
    natural = [max(cell_len(name), size) for name, size in zip(names, cells, strict=True)]
    gaps, edges = len(columns) - 1, 2 if lined else 0
    tight = sum(natural) + (3 if lined else 2) * gaps + edges > width
    least = [max(word, cells[k]) if k in numbers else word for k, word in enumerate(words)]
    widths = _folded(natural, least, numbers, width - gaps - edges) if tight else natural
    table = Table(
        box=box.SIMPLE_HEAD if lined else None,
        padding=((0, 0) if lined else (0, 1, 0, 0)) if tight else (0, 1),
        pad_edge=False,
        header_style=header_style,
        show_header=heading,
        width=sum(widths) + (1 if tight else 3 if lined else 2) * gaps + edges,
    )
    for index, (column, size) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold", width=size)
    for row in rows:
        table.add_row(*row)
    return table


def _folded(natural: Sequence[int], least: Sequence[int], numbers: Container[int], room: int) -> Sequence[int]:
    """Return the widths with which columns share the room; the natural widths if it isn't enough.

    The headings of numbers are folded first, then texts, the one in the first column last, because it is copied.
    """
    texts = [k for k in range(len(natural)) if k not in numbers]
    headings = [k for k in range(len(natural)) if k in numbers]
    steps: list[tuple[list[int], int]] = [
        (headings, 0),
        ([k for k in texts if k], FOLDED),
        ([k for k in texts if not k], FOLDED),
        (texts, SHORTEST),
    ]
    widths = list(natural)
    for chosen, shortest in steps:
        while sum(widths) > room and (wide := [k for k in chosen if widths[k] > max(least[k], shortest)]):
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths if sum(widths) <= room else natural


def _print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], hint: str, heading: bool, one_line: bool = False
) -> None:
    from rich.console import Console

    in_terminal = sys.stdout.isatty()
    plain = io.StringIO()
    if in_terminal:
        console = Console(width=shutil.get_terminal_size().columns)
    else:
        given = os.environ.get("COLUMNS", "") if one_line else ""
        width = int(given) if re.fullmatch("[1-9][0-9]{0,5}", given) else UNLIMITED
        console = Console(file=plain, width=width, color_system=None)
    rows = list(rows)
    if one_line:
        rows = list(_shortened(columns, rows, console.width))
    numbers = [k for k in range(len(columns)) if rows and all(NUMBER.fullmatch(row[k]) for row in rows)]
    numbers = [k for k in numbers if any(row[k] for row in rows)]
    cells = [[_cell(cell) for cell in row] for row in rows]
    for row in cells:
        row[0].style = row[0].style or "cyan"
    whole = range(len(columns)) if one_line else numbers
    table = fitted_table(
        columns, cells, console.width, numbers=whole, right=numbers, lined=in_terminal and heading, heading=heading
    )
    console.print(table, crop=False)
    if not in_terminal:
        echo("\n".join(line.rstrip() for line in plain.getvalue().strip("\n").splitlines()))
    elif hint:
        console.print(hint, style="dim", highlight=False)


def _shortened(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[Sequence[str]]:
    """Yield the rows with their last cell cut so that a row fits `width` columns of the terminal."""
    others = range(len(columns) - 1)
    taken = sum(max(len(columns[k]), *(len(_cell(row[k])) for row in rows)) for k in others) if rows else 0
    room = max(1, width - taken - 3 * len(others) - 2)  # padding between columns and at the edges
    for *cells, last in rows:
        yield *cells, last if len(last) <= room else f"{last[: room - 1].rstrip()}…"


def _cell(text: str) -> Text:
    from rich.text import Text

    text = visible(text)
    color = re.match(r"\[(green|yellow|red)\]", text)
    return Text(text[color.end() :], style=color[1]) if color else Text(text)
