"""Tables of the commands: fitted to the terminal, or one plain line per row."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pgzoo.cli.common import echo
from pgzoo.cli.output import WIDTH
from pgzoo.errors import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["fitted_table", "plain_table", "print_lines", "print_pairs", "print_table", "table_console"]

NUMBER = re.compile(r"(-?[\d,]+(\.\d+)?(e[+-]\d+)?)?")
"""A cell of a column of numbers; it may be empty."""

FOLDED, SHORTEST = 12, 8
"""Widths to which texts in a table are folded, if need be: first to the one, then to the other."""

UNLIMITED = 10**6
"""The width of tables that aren't printed in a terminal."""


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


def plain_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Text]],
    width: int,
    *,
    numbers: Container[int],
    right: Container[int] = (),
) -> Table:
    """Return a `fitted_table` without lines."""
    return fitted_table(columns, rows, width, numbers=numbers, right=right, header_style="bold dim")


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
        console = Console(file=plain, width=int(given) if WIDTH.fullmatch(given) else UNLIMITED, color_system=None)
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
