"""Run a finished run again and report the first difference between the two.

A run that was resumed with more steps is reproduced in the same stages, because an annealed learning rate depends on
the `total_steps` of each stage.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pgzoo.config import Layer, read_yaml
from pgzoo.errors import CheckpointError, StoreError, UsageError
from pgzoo.registry.changes import changes
from pgzoo.runs import callbacks
from pgzoo.runs.initial import find_sources
from pgzoo.runs.provenance import MEMBERS, versions
from pgzoo.runs.resolve import resolve
from pgzoo.runs.resume import LIMITS, check_environment, resume
from pgzoo.runs.runner import run_config
from pgzoo.tracking.home import Home
from pgzoo.tracking.journal import Record, records
from pgzoo.tracking.locks import lock
from pgzoo.tracking.lookup import find
from pgzoo.tracking.missing_code import explain_missing_code
from pgzoo.tracking.points import points, steps_of
from pgzoo.training import checkpoint
from pgzoo.training.events import EpisodesFinished, Event
from pgzoo.training.loop import Control

if TYPE_CHECKING:
    from pgzoo.registry import PluginCatalog
    from pgzoo.tracking import Found

__all__ = ["Difference", "Reproduction", "differences", "reproduce"]

TAGS = {"pgzoo": "pgzoo.version", "torch": "torch.version", "gymnasium": "gymnasium.version"}


@dataclass(frozen=True)
class Difference:
    """The first point at which two runs differ. A value is None if the run has no such point."""

    step: int
    metric: str
    then: float | None
    now: float | None


@dataclass(frozen=True)
class Reproduction:
    """The result of reproducing one seed.

    Attributes:
        run_key: the run that was reproduced.
        seed: its seed.
        compared: the number of points that were compared.
        first: the first difference; None if there is none.
        until: the step up to which points were compared; None for all of them.
    """

    run_key: str
    seed: int
    compared: int
    first: Difference | None
    until: int | None = None


@dataclass(frozen=True)
class Stage:
    """The records of a run between changes of its limits or inexact resumes."""

    limits: dict[str, int | None]
    records: list[Record]

    @property
    def total_steps(self) -> int | None:
        """The number of steps that the run was to take; None without this limit."""
        return self.limits["total_steps"]

    @property
    def finished(self) -> bool:
        """Whether the run reached the end of this stage."""
        *_, last = (record for record in self.records if record["t"] in ("start", "end"))
        return last.get("status") == "FINISHED"

    @property
    def last_step(self) -> int:
        """The last step in its records, those of episodes included."""
        steps = (step for record in self.records for step in (*steps_of(record), *record.get("e", ((),))[0]))
        return max(steps, default=0)

    def comparable(self, ended_early: bool = False) -> list[Record]:
        """Return its records without the results of an interruption, which no other run has.

        If the stage `ended_early`, none of its results are comparable.

        Where training continued after them, they are at an earlier step than its last metrics. The metrics of the last
        update may be at a step beyond `total_steps`; the results of a finished run are not.
        """
        last = self.last_step if self.total_steps is None else min(self.last_step, self.total_steps)
        finished = self.finished and not ended_early

        def kept(record: Record) -> bool:
            return not _is_result(record) or (finished and max(steps_of(record)) >= last)

        return list(filter(kept, self.records))


def differences(found: Found, catalog: PluginCatalog, command: str = "") -> list[str]:
    """Return, in sentences, why a run may not be reproduced bit for bit.

    Changed plugins come first, then other versions, then an inexact resume. `command` is what the user typed.

    Raises:
        StoreError: its `config.yaml` is not on this machine.
        UnknownName: a component of the run isn't loaded, or the module of its environment isn't imported.
        EnvError: no imported module registers its environment.
    """
    with explain_missing_code([found], catalog, command):
        config = resolve([read_yaml(found.artifact("config.yaml"))], catalog)
        check_environment(config.env, catalog, config.backend)
    stages = _stages(found)
    tags, now = _tags(stages), versions()
    reasons = changes(tags, catalog) + callbacks.warning(tags)
    reasons += [
        f"{name} was {tags[tag]} and is {now[name]}: the numbers may differ in the last bits."
        for name, tag in TAGS.items()
        if tags.get(tag, now[name]) != now[name]
    ]
    if (cut := _first_unfinished(stages)) is not None:
        total_steps = stages[cut + 1].total_steps
        same_end = total_steps == stages[cut].total_steps
        how = "resumed with its open episodes restarted" if same_end else f"resumed with --total-steps {total_steps}"
        reasons.append(
            f"{found.name} ended early at step {stages[cut].last_step:,} and {how}: later steps can't be "
            "reproduced and aren't compared."
        )
    return reasons


def reproduce(found: Found, catalog: PluginCatalog) -> Reproduction:
    """Run a run again in a temporary home and compare the two journals point by point.

    Raises:
        StoreError: its journal or `config.yaml` is not on this machine.
        UsageError: it is unfinished, a component of the run isn't installed, or its environment can't be made.
        RunFailed: a component raised in the repeated run.
    """
    stages = _stages(found)
    if not (stages and stages[-1].finished):
        raise UsageError(f"Run {found.name} ({found.run_key}) is unfinished. Resume it: pgzoo resume {found.run_key}")
    cut = _first_unfinished(stages)
    compared = stages if cut is None else stages[: cut + 1]
    then = points(record for k, stage in enumerate(compared) for record in stage.comparable(ended_early=k == cut))
    with_callbacks = callbacks.TAG in _tags(stages)
    by_clock = read_yaml(found.artifact("config.yaml")).values.get("max_minutes") is not None
    last_step = max(stage.last_step for stage in compared)
    if cut is not None:  # the update after it: the results of a stop would replace an evaluation at the same step
        now = points(_run_again(found, compared, catalog, last_step + 1))
    else:
        now = points(_run_again(found, compared, catalog, last_step if with_callbacks or by_clock else None))
    if with_callbacks:  # the evaluations that they asked for are missing now
        then = {point: value for point, value in then.items() if point in now or not point[2]}
    until = None if cut is None else compared[-1].last_step
    if until is not None:
        played = max((step for step, _, mode in then if mode), default=0)  # a later evaluation may have been cancelled
        ends = {True: min(played, until), False: until}
        now = {point: value for point, value in now.items() if point in then or point[0] < ends[bool(point[2])]}
    differing = sorted(point for point in then.keys() | now.keys() if then.get(point) != now.get(point))
    if not differing:
        return Reproduction(found.run_key, found.seed, len(then), None, until)
    step, metric, _ = differing[0]
    first = Difference(step, metric, then.get(differing[0]), now.get(differing[0]))
    return Reproduction(found.run_key, found.seed, len(then), first, until)


def _tags(stages: Sequence[Stage]) -> Mapping[str, str]:
    """Return the tags that the run was started with."""
    return next((r["tags"] for r in stages[0].records if r["t"] == "start"), {}) if stages else {}


def _run_again(
    found: Found, stages: Sequence[Stage], catalog: PluginCatalog, last_step: int | None = None
) -> list[Record]:
    """Run the same stages in a temporary home; return the records of the journal.

    A compiled run that was trained among others is trained beside another seed: alone, its last bits would differ.
    With `last_step`, the run is stopped by its first update that reaches this step: a callback, a limit of time or an
    interruption has ended the run there.
    """
    control = Control()

    def stop(event: Event) -> None:
        if last_step is not None and isinstance(event, EpisodesFinished) and event.env_steps[0] >= last_step:
            control.stop(reason="the run that is repeated ended here")

    layer = read_yaml(found.artifact("config.yaml"))
    among_others = layer.values.get("compile") == "on" and _tags(stages).get(MEMBERS, "1") != "1"
    seeds = [found.seed, found.seed ^ 1] if among_others else [found.seed]
    with tempfile.TemporaryDirectory(prefix="pgzoo-repro-", ignore_cleanup_errors=True) as folder:
        over: dict[str, Any] = {"seeds": seeds, "tracking_uri": f"sqlite:///{folder}/mlflow.db", "video": False}
        over |= stages[0].limits | {"checkpoint_every": 0, "launcher": "local", "workers": None}
        over |= {"cpus_per_shard": None, "gpus_per_shard": None, "verify": 0.0, "rollout_workers": 0}
        over |= {"max_minutes": None}  # the machine may be slower now
        if ref := layer.values.get("init_from"):
            over["init_from"] = str(find_sources(str(ref), [found.seed])[1][0])
        config = resolve([layer, Layer(over, ".".join)], catalog)
        check_environment(config.env, catalog, config.backend)
        home = Home.find({"PGZOO_HOME": folder})
        uploader = lock(home.uploader_lock, timeout=1)  # while this is held, no uploader uploads these runs
        try:
            result = run_config(config, catalog, command="pgzoo repro", home=home, control=control, on_event=stop)
            for stage in stages[1:]:
                if not result.error:
                    again, steps = find(result.group, home), stage.total_steps
                    result = resume(again, catalog, total_steps=steps, home=home, control=control, on_event=stop)
        finally:
            if uploader is not None:
                uploader.release()
        if result.error:
            raise result.error
        return [record for record, _ in records(home.runs / result.runs[0].run_key) if record]


def _stages(found: Found) -> list[Stage]:
    """Return the stages of a run. A new one starts at another limit and at a resume that wasn't exact.

    Raises:
        StoreError: the journal is not on this machine.
    """
    if found.path is None:
        raise StoreError(f"The journal of run {found.name} ({found.run_key}) is not on this machine.")
    try:
        exact = checkpoint.latest(found.path / checkpoint.FOLDER_NAME).about["resume"] == "exact"
    except CheckpointError:
        exact = True
    stages: list[Stage] = []
    for record in (record for record, _ in records(found.path) if record):
        if record["t"] == "start":
            texts = {name: record["params"].get(name, "") for name in LIMITS}
            limits = {name: int(text) if text.isdigit() else None for name, text in texts.items()}
            if not stages or limits != stages[-1].limits or not (exact or stages[-1].finished):
                stages.append(Stage(limits, []))
        stages[-1].records.append(record)
    return stages


def _is_result(record: Record) -> bool:
    """Return whether a record has results of the last parameters: their evaluation, or the summary of the run."""
    return bool(record.get("final")) or any(name.startswith("summary/") for name in record.get("m", {}))


def _first_unfinished(stages: Sequence[Stage]) -> int | None:
    """Return the index of the first stage that ended early and was continued; None if there is none.

    It was interrupted, or ended by `max_minutes`.
    """
    for index, (stage, after) in enumerate(pairwise(stages)):
        early = stage.total_steps is not None and stage.last_step < stage.total_steps
        if not stage.finished or (early and after.last_step > stage.last_step):
            return index
    return None
