"""The values in a journal as a mapping, to compare two runs of the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pgzoo.tracking.journal import Record

__all__ = ["Point", "points", "steps_of"]

Point = tuple[int, str, str]
"""Step, metric, and the mode of an evaluation ("" elsewhere)."""


def points(journal: Iterable[Record]) -> dict[Point, float]:
    """Return every metric in a journal, except times, and the returns of its episodes."""
    return dict(_points(journal))


def _points(journal: Iterable[Record]) -> Iterator[tuple[Point, float]]:
    episode = 0
    for record in journal:
        if record["t"] not in ("update", "evaluation"):
            continue
        mode: str = record.get("mode", "")
        values: dict[str, Any] = record.get("m", {})
        for name, value in values.items():
            if not name.startswith("time/"):
                yield from (((step, name, mode), value) for step in steps_of(record))
        for step, episode_return in zip(*record.get("e", ((), ()))[:2], strict=True):
            episode += 1
            yield (step, f"episode {episode}", ""), episode_return


def steps_of(record: Record) -> list[int]:
    """Return the steps to which the values of a record belong."""
    return record.get("steps", [record["step"]] if "step" in record else [])  # type: ignore[no-any-return]
