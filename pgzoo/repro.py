"""Run a run again and say where the two part, if they do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.config import Layer, read_yaml, resolve
from pgzoo.errors import StoreError, UsageError
from pgzoo.runner import run_config, versions
from pgzoo.tracking.home import Home
from pgzoo.tracking.journal import records
from pgzoo.tracking.locks import lock

if TYPE_CHECKING:
    from pgzoo.registry import Catalog
    from pgzoo.tracking import Found

__all__ = ["Difference", "Repro", "differences", "repro"]

TAGS = {"pgzoo": "pgzoo.version", "torch": "torch.version", "gymnasium": "gymnasium.version"}

Point = tuple[int, str, str]
"""Step, metric, and the mode of an evaluation."""


@dataclass(frozen=True)
class Difference:
    """Where two runs part: a value is None where the run has no such point."""

    step: int
    metric: str
    then: float | None
    now: float | None


@dataclass(frozen=True)
class Repro:
    """What came of running one seed again: how many points were compared, and the first that differs."""

    run_key: str
    seed: int
    compared: int
    first: Difference | None


def differences(found: Found) -> list[str]:
    """What keeps a run from being had again bit for bit: other versions. Its threads are among its settings."""
    if found.path is None:
        raise StoreError(f"The journal of run {found.name} ({found.run_key}) is not on this machine.")
    tags: Mapping[str, str] = next((r["tags"] for r, _ in records(found.path) if r and r["t"] == "start"), {})
    now = versions()
    return [
        f"{name} was {tags[tag]} and is {now[name]}"
        for name, tag in TAGS.items()
        if tags.get(tag, now[name]) != now[name]
    ]


def repro(found: Found, catalog: Catalog) -> Repro:
    """Run a run again, in a home of its own that is then deleted, and compare the journals point by point.

    Raises:
        StoreError: its journal or `config.yaml` is not here.
        UsageError: it was cut off, a component of the run isn't installed, or its environment can't be made here.
        RunFailed: it doesn't come to its end.
    """
    if found.path is None:
        raise StoreError(f"The journal of run {found.name} ({found.run_key}) is not on this machine.")
    ends = [record["status"] for record, _ in records(found.path) if record and record["t"] == "end"]
    if ends[-1:] != ["FINISHED"]:
        raise UsageError(f"Run {found.name} ({found.run_key}) has not come to its end: pgzoo resume {found.run_key}")
    layer = read_yaml(found.artifact("config.yaml"))
    with tempfile.TemporaryDirectory(prefix="pgzoo-repro-", ignore_cleanup_errors=True) as folder:
        over = {"seeds": [found.seed], "tracking_uri": f"sqlite:///{folder}/mlflow.db", "video": False}
        over |= {"checkpoint_every": 0, "launcher": "local", "workers": None}
        config = resolve([layer, Layer(over, ".".join)], catalog)
        home, before = Home.find({"PGZOO_HOME": folder}), os.environ.get("PGZOO_HOME")
        os.environ["PGZOO_HOME"] = folder
        shipping = lock(home.uploader_lock, timeout=1)  # held, so that nobody ships what is only to be compared
        try:
            result = run_config(config, catalog, command="pgzoo repro")
        finally:
            os.environ.pop("PGZOO_HOME")
            if before is not None:
                os.environ["PGZOO_HOME"] = before
            if shipping is not None:
                shipping.release()
        if result.error:
            raise result.error
        then, now = points(found.path), points(Path(folder) / "runs" / result.runs[0].run_key)
    parted = sorted(point for point in then.keys() | now.keys() if then.get(point) != now.get(point))
    if not parted:
        return Repro(found.run_key, found.seed, len(then), None)
    step, metric, _ = parted[0]
    first = Difference(step, metric, then.get(parted[0]), now.get(parted[0]))
    return Repro(found.run_key, found.seed, len(then), first)


def points(folder: Path) -> dict[Point, float]:
    """Every value that a run reported, times left out, and the returns of its episodes."""
    return dict(_points(folder))


def _points(folder: Path) -> Iterator[tuple[Point, float]]:
    episode = 0
    for record, _ in records(folder):
        if record is None or record["t"] not in ("update", "evaluation"):
            continue
        mode: str = record.get("mode", "")
        steps: list[int] = record.get("steps", [record["step"]] if "step" in record else [])
        values: dict[str, Any] = record.get("m", {})
        for name, value in values.items():
            if not name.startswith("time/"):
                yield from (((step, name, mode), value) for step in steps)
        for step, returned in zip(*record.get("e", ((), ()))[:2], strict=True):
            episode += 1
            yield (step, f"episode {episode}", ""), returned
