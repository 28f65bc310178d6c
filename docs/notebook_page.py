"""The tutorial notebook as a page: its text and code, and the outputs of executing it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import nbformat

DOCS = Path(__file__).resolve().parent
NOTEBOOK = DOCS / "tutorial" / "reinforce-cartpole.ipynb"
PAGE = NOTEBOOK.with_suffix(".md")
IMAGES = DOCS / "images" / "notebook"
SOURCE = "https://github.com/pgzoo/pgzoo/blob/main/docs/tutorial/reinforce-cartpole.ipynb"
OUTPUT = re.compile(r"<!-- output -->\n.*?<!-- end -->", re.DOTALL)


def notebook(*, execute: bool) -> str:
    """Return docs/tutorial/reinforce-cartpole.md.

    The outputs of the page are kept if its text and code are those of the notebook. Otherwise the notebook is executed,
    which takes about a minute and writes the pictures to docs/images/notebook; without `execute`, outputs are empty.
    """
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    empty = page_of(cells, ["" for _ in cells])
    kept = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if OUTPUT.sub("", kept) == OUTPUT.sub("", empty) or not execute:
        return kept if OUTPUT.sub("", kept) == OUTPUT.sub("", empty) else empty
    return page_of(cells, outputs_of_execution())


def page_of(cells: list[Any], outputs: list[str]) -> str:
    """Return the page of cells and their outputs."""
    parts = []
    for cell, output in zip(cells, outputs, strict=True):
        if cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```\n\n<!-- output -->\n{output}<!-- end -->")
        else:
            parts.append(cell.source)
    title, _, rest = "\n\n".join(parts).partition("\n")
    about = f"This page is the [notebook]({SOURCE}) with the outputs of one execution. `make docs` makes it."
    return f"{title}\n\n{about}\n{rest}\n"


def outputs_of_execution() -> list[str]:
    """Execute the notebook in an empty folder; return the output of each cell as Markdown, and write its pictures."""
    import tempfile

    from nbclient import NotebookClient

    document = nbformat.read(NOTEBOOK, as_version=4)
    IMAGES.mkdir(exist_ok=True)
    for old in IMAGES.glob("*.png"):
        old.unlink()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        NotebookClient(document, timeout=600, resources={"metadata": {"path": folder}}).execute()
    return ["\n".join(filter(None, map(shown_output, cell.get("outputs", [])))) for cell in document.cells]


def shown_output(output: Any) -> str:
    """Return one output: a picture, a table, or text. Videos and what is printed to stderr are left out."""
    data = output.get("data", {})
    if picture := data.get("image/png"):
        content = base64.b64decode(picture)
        name = f"{hashlib.sha256(content).hexdigest()[:12]}.png"
        (IMAGES / name).write_bytes(content)
        return f"\n![Output of the cell above](../images/notebook/{name})\n"
    if "<table" in (page := data.get("text/html", "")):
        return markdown_table(page)
    if "<video" in page or output.get("name") == "stderr":
        return ""
    text = data.get("text/plain") or output.get("text", "")
    return f"\n```text\n{text.rstrip()}\n```\n" if text else ""


def markdown_table(page: str) -> str:
    """Return the first table of an HTML output as Markdown, with what stands before it as a paragraph."""
    before, _, table = page.partition("<table")
    caption = re.sub(r"<style.*?</style>|<[^>]+>", "", before, flags=re.DOTALL).strip()
    found = re.search(r"<caption[^>]*>(.*?)</caption>", table, re.DOTALL)
    caption = found[1].strip() if found else caption
    rows = [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table.partition("</table>")[0], re.DOTALL)
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{' --- |' * len(rows[0])}")
    return "\n" + (f"{caption}\n\n" if caption else "") + "\n".join(lines) + "\n"
