"""Pieces of Markdown for the generated pages."""

from __future__ import annotations


def shown(value: object) -> str:
    """Return a value as it is shown in a table."""
    return {True: "yes", False: "no", None: "none"}[value] if isinstance(value, bool | None) else str(value)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def fill(page: str, name: str, text: str) -> str:
    """Return a page with `text` between the comment `<!-- name -->` and the next `<!-- end -->`."""
    before, _, rest = page.partition(f"<!-- {name} -->")
    return f"{before}<!-- {name} -->\n\n{text}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
