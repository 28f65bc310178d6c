"""Trials: which of them train together, and the score of each over its seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pgzoo.analysis.statistics import area, iqm
from pgzoo.config import Member, RunConfig
from pgzoo.config.sweep import sweepable
from pgzoo.errors import RunFailed, UsageError
from pgzoo.registry import PluginCatalog
from pgzoo.runs.result import Result
from pgzoo.runs.runner import run_config
from pgzoo.search.space import value_of
from pgzoo.training.events import EpisodesFinished, Event
from pgzoo.training.loop import Control

__all__ = ["RUNGS", "Candidate", "Objective", "Outcome", "Report", "batches", "score", "train_batch"]

Objective = Literal["final", "auc"]
Status = Literal["finished", "pruned", "failed", "interrupted"]

RUNGS = 10
"""Parts of a trial. After each one a pruner may end the trial."""

MAX_SHARED = 8
"""Most searched settings that may differ within a batch: their values are part of each run's folder name."""

Report = Callable[[int, int, float], bool]
"""Called with a trial's number, a part of the trial (1 to RUNGS) and the score so far; True ends the trial."""


@dataclass(frozen=True)
class Candidate:
    """A setting to train with the seeds of `config`. `searched` are the dotted keys that its study varies."""

    number: int
    config: RunConfig
    searched: tuple[str, ...] = ()

    def shared(self) -> dict[str, float]:
        """Return the searched settings that may differ between the members of a batch, with their values."""
        if self.config.launcher != "local":
            return {}
        keys = set(sweepable(type(self.config.settings), type(self.config.estimator.settings)))
        values = {key: value_of(self.config, key) for key in self.searched if key in keys}
        values = {key: value for key, value in values.items() if value is not None}
        return values if len(values) <= MAX_SHARED else {}

    def rest(self) -> str:
        """Return a text that is equal for candidates which can be trained in one batch."""
        nested = self.config.nested()
        nested.pop("tags", None)
        for key in self.shared():
            part, _, name = key.rpartition(".")
            (nested[part] if part else nested).pop(name)
        return json.dumps([nested, sorted(self.shared())], sort_keys=True)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial. `scores` has one number per seed; `score` is their interquartile mean."""

    number: int
    status: Status
    scores: tuple[float, ...] = ()
    reason: str = ""
    run_keys: tuple[str, ...] = ()
    env_steps: int = 0
    seconds: float = 0.0
    """Duration of the batch in which the trial was trained."""
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    """The learning curve: steps, and the mean return of training episodes over all seeds."""
    error: Exception | None = field(default=None, compare=False)

    @property
    def score(self) -> float | None:
        """The interquartile mean over seeds; None for a trial that didn't finish."""
        return score(self.scores) if self.status == "finished" else None


def score(scores: Sequence[float]) -> float:
    """Return the interquartile mean of one score per seed. With fewer than four it is the mean."""
    return float(iqm([np.asarray(scores, np.float64)]))


def batches(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Group candidates that differ only in settings which may differ between the members of a batch."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.rest(), []).append(candidate)
    return list(groups.values())


def train_batch(
    batch: Sequence[Candidate],
    objective: Objective,
    catalog: PluginCatalog,
    *,
    command: str = "",
    report: Report | None = None,
) -> list[Outcome]:
    """Train candidates of one group of `batches` as one run; return their outcomes.

    All have failed if the run was refused, such as for components that don't fit each other.

    Raises:
        KeyboardInterrupt: a second Ctrl-C.
    """
    members = tuple(
        Member(candidate.config.model_copy(update={"seeds": (seed,)}), candidate.shared())
        for candidate in batch
        for seed in candidate.config.seeds
    )
    control, seeds = Control(), len(batch[0].config.seeds)
    watch = Rungs(batch, seeds, control, report) if report else None
    began = time.monotonic()
    try:
        result = run_config(batch[0].config, catalog, command=command, members=members, control=control, on_event=watch)
    except UsageError as error:
        return [Outcome(one.number, "failed", reason=str(error), error=error) for one in batch]
    seconds = time.monotonic() - began
    return [
        _outcome(candidate.number, result, slice(row * seeds, (row + 1) * seeds), objective, watch, seconds)
        for row, candidate in enumerate(batch)
    ]


def _outcome(
    number: int, result: Result, rows: slice, objective: Objective, watch: Rungs | None, seconds: float
) -> Outcome:
    runs = result.runs[rows]
    known: dict[str, Any] = {
        "run_keys": tuple(run.run_key for run in runs),
        "env_steps": sum(run.env_steps for run in runs),
        "seconds": seconds,
    }
    if any(run.status == "interrupted" for run in runs):
        return Outcome(number, "interrupted", reason="interrupted", **known)
    if watch and number in watch.pruned:
        return Outcome(number, "pruned", **known)
    failed = next((run for run in runs if run.status == "failed" or not run.returns.size), None)
    if failed is not None:
        reason = f"seed {failed.seed}: {failed.reason or 'was not evaluated'}"
        error: RunFailed | None = result.error
        return Outcome(number, "failed", reason=reason, error=error, **known)
    scores = [
        float(result.runs[row].returns.mean()) if objective == "final" else _area(result, row)
        for row in range(rows.start, rows.stop)
    ]
    if not np.isfinite(scores).all():
        empty = objective == "auc" and not all(_curve(result, row) for row in range(rows.start, rows.stop))
        reason = "a seed has no point of the learning curve; lower log_every" if empty else "a seed has no finite score"
        return Outcome(number, "failed", reason=reason, **known)
    return Outcome(number, "finished", tuple(scores), **known, curve=_mean_curve(result, rows))


def _mean_curve(result: Result, rows: slice) -> tuple[tuple[int, float], ...]:
    """Return the learning curve of a trial, with a point at each step at which every seed has one."""
    curves = [_curve(result, row) for row in range(rows.start, rows.stop)]
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return tuple((step, float(np.mean([curve[step] for curve in curves]))) for step in shared)


def _curve(result: Result, row: int) -> dict[int, float]:
    """Return the mean return of a member's training episodes by environment step."""
    metrics = result.histories[row].metrics
    return {step: values["train/return_mean"] for step, values in metrics.items() if "train/return_mean" in values}


def _area(result: Result, row: int) -> float:
    """Return the area under a member's learning curve, divided by its length: the mean height of the curve."""
    curve = _curve(result, row)
    steps = sorted(curve)
    end = result.plan.config.total_steps or (steps[-1] if steps else 0)
    return area(steps, [curve[step] for step in steps], 0, end) if steps else float("nan")


class Rungs:
    """Reports each trial's score so far to the pruner, after each tenth of its training; stops trials that it prunes.

    The score so far is the mean return of the training episodes that ended in the last tenth, over seeds as the score
    of the trial.
    """

    def __init__(self, batch: Sequence[Candidate], seeds: int, control: Control, report: Report) -> None:
        self.pruned: set[int] = set()
        self._numbers, self._seeds = [candidate.number for candidate in batch], seeds
        self._control, self._report = control, report
        config = batch[0].config
        self._goal, self._by_steps = config.total_steps or config.total_episodes or 1, config.total_steps is not None
        self._rung = [0] * len(batch)
        self._episodes = np.zeros(len(batch) * seeds, np.int64)
        self._recent: list[list[float]] = [[] for _ in range(len(batch) * seeds)]

    def __call__(self, event: Event) -> None:
        """Take note of the episodes that ended."""
        if not isinstance(event, EpisodesFinished):
            return
        for row, returns in enumerate(event.returns):
            self._recent[row].extend(map(float, returns))
            self._episodes[row] += len(returns)
        done = event.env_steps if self._by_steps else self._episodes
        for place, number in enumerate(self._numbers):
            rows = range(place * self._seeds, (place + 1) * self._seeds)
            rung = int(min(done[row] for row in rows) * RUNGS // self._goal)
            if number in self.pruned or not self._rung[place] < rung < RUNGS:
                continue
            if not all(self._recent[row] for row in rows):  # no episode of some seed has ended yet
                continue
            self._rung[place] = rung
            so_far = score([float(np.mean(self._recent[row])) for row in rows])
            for row in rows:
                self._recent[row].clear()
            if self._report(number, rung, so_far):
                self.pruned.add(number)
                self._control.stop(tuple(rows), reason=f"pruned after {rung} of {RUNGS} parts")
