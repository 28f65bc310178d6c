"""Writes the sections of docs/performance.md, and formats the numbers in them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"


def put(page: Path, section: str, text: str) -> None:
    """Replace the text between the markers of `section`, or append the section if it is new."""
    begin, end = f"<!-- section {section} -->\n", f"<!-- end {section} -->\n"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n"
    before, found, rest = old.partition(begin)
    if not found:
        before, rest = f"{old.rstrip()}\n\n", end
    _, closed, after = rest.partition(end)
    if not closed:
        raise SystemExit(f"{page}: the section {section} has a beginning and no end ({end.strip()})")
    page.write_text(f"{before}{begin}{text.strip()}\n{end}{after}", encoding="utf-8")


def stamp(made_by: str, load: float | None = None) -> str:
    """Return a line with the command, date, machine and versions; `load` is the load average before the command."""
    busy = "" if load is None else f"; load {load:.1f} at the start"
    versions = ", ".join(f"{name} {version(name)}" for name in ("pgzoo", "torch", "numpy", "gymnasium"))
    return (
        f"*Made by `{made_by}` on {time.strftime('%Y-%m-%d')}: {processor()}, {os.cpu_count()} cores, "
        f"{platform.system()}, Python {platform.python_version()}, {versions}{busy}.*"
    )


def processor() -> str:
    """Return the name of the processor if the system reports it, else the architecture."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours / theirs for each round, so that a machine whose speed drifts slows both."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median, with minimum and maximum."""
    least, most = min(values), max(values)
    return f"**{statistics.median(values):.{digits}f}** ({least:.{digits}f} to {most:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with numbers aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
