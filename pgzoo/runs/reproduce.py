"""Run a run again and say where the two part, if they do.

A run that was prolonged is run again in the same legs: a step size that is annealed depends on where a leg was to end.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgzoo.config import Layer, read_yaml
from pgzoo.errors import CheckpointError, StoreError, UsageError
from pgzoo.runs.provenance import versions
from pgzoo.runs.resolve import resolve
from pgzoo.runs.resume import resume
from pgzoo.runs.runner import run_config
from pgzoo.tracking.home import Home
from pgzoo.tracking.journal import Record, records
from pgzoo.tracking.locks import lock
from pgzoo.tracking.lookup import find
from pgzoo.training import checkpoint

if TYPE_CHECKING:
    from pgzoo.registry import PluginCatalog
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
    """What came of running one seed again: how many points were compared, and the first that differs.

    `until` is the step up to which they were compared; None where that is all of them.
    """

    run_key: str
    seed: int
    compared: int
    first: Difference | None
    until: int | None = None


@dataclass(frozen=True)
class Leg:
    """What a run wrote in one go, or in several that were cut off and resumed exactly."""

    total_steps: int | None
    written: list[Record]

    @property
    def whole(self) -> bool:
        """Whether it came to its end."""
        *_, last = (record for record in self.written if record["t"] in ("start", "end"))
        return last.get("status") == "FINISHED"

    @property
    def reached(self) -> int:
        """The last step of which it tells."""
        return max((step for record in self.written for step in _steps(record)), default=0)


def differences(found: Found) -> list[str]:
    """What keeps a run from being had again bit for bit, in sentences. Its threads are among its settings."""
    legs = _legs(found)
    tags: Mapping[str, str] = next((r["tags"] for r in legs[0].written if r["t"] == "start"), {}) if legs else {}
    now = versions()
    told = [
        f"{name} was {tags[tag]} and is {now[name]}: the numbers may differ in the last bits."
        for name, tag in TAGS.items()
        if tags.get(tag, now[name]) != now[name]
    ]
    if (at := _cut(legs)) is not None:
        more = legs[at + 1].total_steps
        how = "its open episodes begun anew" if more == legs[at].total_steps else f"resumed with --total-steps {more}"
        told.append(
            f"{found.name} was cut off at step {legs[at].reached:,} and {how}: it is compared up to there, "
            "for what came then can't be had again."
        )
    return told


def repro(found: Found, catalog: PluginCatalog) -> Repro:
    """Run a run again, in a home of its own that is then deleted, and compare the journals point by point.

    Raises:
        StoreError: its journal or `config.yaml` is not here.
        UsageError: it was cut off, a component of the run isn't installed, or its environment can't be made here.
        RunFailed: it doesn't come to its end.
    """
    legs = _legs(found)
    if not (legs and legs[-1].whole):
        raise UsageError(f"Run {found.name} ({found.run_key}) has not come to its end: pgzoo resume {found.run_key}")
    cut = _cut(legs)
    again = legs if cut is None else legs[: cut + 1]
    then = points(record for leg in again for record in leg.written)
    now = points(_run_again(found, again, catalog))
    until = None if cut is None else again[-1].reached
    if until is not None:
        now = {point: value for point, value in now.items() if point[0] < until or point in then}
    parted = sorted(point for point in then.keys() | now.keys() if then.get(point) != now.get(point))
    if not parted:
        return Repro(found.run_key, found.seed, len(then), None, until)
    step, metric, _ = parted[0]
    first = Difference(step, metric, then.get(parted[0]), now.get(parted[0]))
    return Repro(found.run_key, found.seed, len(then), first, until)


def _run_again(found: Found, legs: Sequence[Leg], catalog: PluginCatalog) -> list[Record]:
    """What a run writes that goes the same legs, in a home of its own."""
    layer = read_yaml(found.artifact("config.yaml"))
    with tempfile.TemporaryDirectory(prefix="pgzoo-repro-", ignore_cleanup_errors=True) as folder:
        over = {"seeds": [found.seed], "tracking_uri": f"sqlite:///{folder}/mlflow.db", "video": False}
        over |= {"checkpoint_every": 0, "total_steps": legs[0].total_steps, "launcher": "local", "workers": None}
        config = resolve([layer, Layer(over, ".".join)], catalog)
        home, before = Home.find({"PGZOO_HOME": folder}), os.environ.get("PGZOO_HOME")
        os.environ["PGZOO_HOME"] = folder
        shipping = lock(home.uploader_lock, timeout=1)  # held, so that nobody ships what is only to be compared
        try:
            result = run_config(config, catalog, command="pgzoo repro")
            for leg in legs[1:]:
                if not result.error:
                    result = resume(find(result.group, home), catalog, total_steps=leg.total_steps)
        finally:
            os.environ.pop("PGZOO_HOME")
            if before is not None:
                os.environ["PGZOO_HOME"] = before
            if shipping is not None:
                shipping.release()
        if result.error:
            raise result.error
        return [record for record, _ in records(home.runs / result.runs[0].run_key) if record]


def _legs(found: Found) -> list[Leg]:
    """The legs of a run; raises StoreError where its journal isn't here.

    Another begins with a new `total_steps`, and where a run that was cut off couldn't go on exactly.
    """
    if found.path is None:
        raise StoreError(f"The journal of run {found.name} ({found.run_key}) is not on this machine.")
    try:
        exact = checkpoint.latest(found.path / checkpoint.FOLDER_NAME).about["resume"] == "exact"
    except CheckpointError:
        exact = True
    legs: list[Leg] = []
    for record in (record for record, _ in records(found.path) if record):
        if record["t"] == "start":
            told = record["params"].get("total_steps", "")
            asked = int(told) if told.isdigit() else None
            if not legs or asked != legs[-1].total_steps or not (exact or legs[-1].whole):
                legs.append(Leg(asked, []))
        legs[-1].written.append(record)
    return legs


def _cut(legs: Sequence[Leg]) -> int | None:
    """The first leg that was cut off, though another follows; None if each before the last had come to its end."""
    return next((k for k, leg in enumerate(legs[:-1]) if not leg.whole), None)


def points(written: Iterable[Record]) -> dict[Point, float]:
    """Every value that a run reported, times left out, and the returns of its episodes."""
    return dict(_points(written))


def _points(written: Iterable[Record]) -> Iterator[tuple[Point, float]]:
    episode = 0
    for record in written:
        if record["t"] not in ("update", "evaluation"):
            continue
        mode: str = record.get("mode", "")
        values: dict[str, Any] = record.get("m", {})
        for name, value in values.items():
            if not name.startswith("time/"):
                yield from (((step, name, mode), value) for step in _steps(record))
        for step, returned in zip(*record.get("e", ((), ()))[:2], strict=True):
            episode += 1
            yield (step, f"episode {episode}", ""), returned


def _steps(record: Record) -> list[int]:
    """The steps at which a record's values stand."""
    return record.get("steps", [record["step"]] if "step" in record else [])  # type: ignore[no-any-return]
