"""How results look in a terminal and in a notebook."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = ["VideoFile", "html_table"]


@dataclass(frozen=True)
class VideoFile:
    """A recorded video. A notebook shows it inline."""

    path: Path
    returns: tuple[float, ...]
    """The return of each episode in the video."""

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.path.read_bytes()).decode()
        return f'<video controls src="data:video/mp4;base64,{data}"></video>'


def html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table of escaped cells, to be shown in a notebook."""
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<p>{escape(caption)}</p><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
