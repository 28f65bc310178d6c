"""The loop of a search: trials that Optuna proposes, until there are enough, then its finals."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pgzoo import tracking
from pgzoo.errors import RunFailed
from pgzoo.registry import PluginCatalog
from pgzoo.runs.signals import stop_on_signals
from pgzoo.search import preset as preset_file
from pgzoo.search.display import Display
from pgzoo.search.finals import train_finalists
from pgzoo.search.jobs import Workers
from pgzoo.search.log import StudyLog
from pgzoo.search.report import write_report
from pgzoo.search.result import Finalist, SweepResult, TrialRow
from pgzoo.search.space import Dimension, Range, choice_label, configure, round_setting, sample
from pgzoo.search.storage import GRACE
from pgzoo.search.study import Study
from pgzoo.search.trial import Candidate, Outcome, batches, train_batch
from pgzoo.tracking.ledger import PARENT
from pgzoo.tracking.locks import lock
from pgzoo.training.loop import Control

__all__ = ["Search"]

_log = logging.getLogger("pgzoo")

BATCH = 8
"""Trials that are proposed at once, if some of them can be trained as one batch."""

HOPELESS = 3
"""Number of failed trials after which a search in which none has finished is given up."""

POLL = 1.0
"""Seconds between two looks at a study in which only other processes train."""

MAX_CRASHES = 3
"""Number of worker processes that may end unexpectedly before the search is given up."""


class Search:
    """Trains the trials of a study until there are enough, then the best ones with fresh seeds."""

    def __init__(
        self,
        study: Study,
        catalog: PluginCatalog,
        command: str,
        display: Display,
        worker: str,
        log: StudyLog,
        home: tracking.Home,
    ) -> None:
        self.log, self.home = log, home
        self.study, self.catalog, self.command, self.display, self.worker = study, catalog, command, display, worker
        self.options, self.base = study.options, study.base
        self._live: dict[int, Any] = {}
        hours = self.options.max_hours
        self._deadline = None if hours is None else time.monotonic() + hours * 3600

    def run(self, *, finals: bool = True) -> SweepResult:
        """Carry out the search; without `finals`, only its trials. Raises RunFailed if the first trials failed."""
        study = self.study
        with self._exclusively():
            study.put_back_abandoned()
        study.start_sampler(self.worker, joined=not finals)
        if finals:
            self.log.open_study()
        self.display.start(study.rows())
        interrupted = self._train_in_workers() if finals and self.options.jobs > 1 else False
        interrupted = interrupted or self._train_here(finals)
        finalists: tuple[Finalist, ...] = ()
        if not interrupted and finals:
            self._give_up_if_hopeless(1)
            with self.display.waiting(lambda: "Waiting for another process that trains the best trials again"):
                held = lock(study.folder / "finals.lock", timeout=-1)
            try:
                finalists, interrupted = train_finalists(
                    study, self.catalog, self.command, self.display, self._finalist
                )
            finally:
                if held is not None:
                    held.release()
        winner = max(finalists, key=lambda finalist: finalist.fresh_score, default=None)
        if finals and not interrupted and winner is None:
            unwritten = f"; {self.options.save_preset} was not written" if self.options.save_preset else ""
            _log.warning("There is no winner, because no trial finished on fresh seeds%s.", unwritten)
        result = SweepResult(
            study=study.name,
            algorithm=self.base.algorithm,
            env=self.base.env,
            objective=self.options.objective,
            seeds=self.base.seeds,
            trials=study.rows(),
            finalists=tuple(sorted(finalists, key=lambda finalist: -finalist.fresh_score)),
            winner=winner,
            interrupted=interrupted,
            planned=max(self.options.trials, len(study.rows())),
            folder=study.folder,
        )
        if winner and self.options.save_preset:
            config = configure(self.base, winner.settings, self.catalog)
            file = preset_file.write(self.options.save_preset, config, winner, result, self.catalog)
            result = replace(result, preset=file)
        result = replace(result, files=tuple(write_report(result, study.optuna)))
        if finals:
            self.log.open_study()  # the process that wrote the run of the study may have ended
            self.log.close_study(result)
        with self.display.waiting(self.log.format_shipping):
            return replace(result, run_id=self.log.settle())

    def _train_here(self, wait: bool) -> bool:
        """Train trials in this process until there are enough; return whether that was interrupted.

        With `wait`, also wait for those that other processes train.
        """
        shares = bool(Candidate(0, self.base, tuple(self.study.space.dimensions)).shared())
        while True:
            with self._exclusively():
                self.study.put_back_abandoned()
                left = self._left()
                size = self.options.batch or (min(BATCH, math.ceil(left / self.options.jobs)) if shares else 1)
                asked = [candidate for _ in range(min(left, size)) if (candidate := self._ask())]
            if asked:
                if not self._train(asked):
                    return True
                self._give_up_if_hopeless(HOPELESS)
            elif left:
                continue  # other machines asked for trials at the same time
            elif wait and self.study.trials("RUNNING"):
                time.sleep(POLL)
            else:
                return False

    def _train_in_workers(self) -> bool:
        """Train trials in worker processes until there are enough; return whether that was interrupted.

        A worker that ends unexpectedly is replaced, and its trial is trained again.

        Raises:
            RunFailed: several workers ended unexpectedly, or the first trials failed.
        """
        crashes: list[str] = []
        reported = {row.number for row in self.study.rows()}
        control = Control()
        mode = self.display.mode
        with (
            Workers() as workers,
            stop_on_signals(control, announce=mode != "none", terminal=True),
            self.display.waiting(lambda: f"Training in {workers.count} processes; {self.display.state()}"),
        ):
            while not control.interrupted:
                crashes += workers.poll()
                if len(crashes) >= MAX_CRASHES:
                    raise RunFailed(
                        f"{len(crashes)} processes of the search ended unexpectedly. The last: {crashes[-1]}"
                    )
                with self._exclusively():
                    self.study.put_back_abandoned()
                    left = self._left()
                for _ in range(min(left, self.options.jobs - workers.count)):
                    workers.start(self._worker_spec())
                rows = self.study.rows()
                for row in rows:
                    if row.number not in reported:
                        reported.add(row.number)
                        self.display.ended(row, rows)
                        self.log.record_progress()
                self._give_up_if_hopeless(HOPELESS)
                if not workers.count:
                    return False
                time.sleep(POLL)
            workers.stop()
        return True

    def _worker_spec(self) -> dict[str, Any]:
        """Return the arguments of `search.worker.train_trials`."""
        return {
            "study": self.study.name,
            "storage": self.options.storage,
            "tracking_uri": self.base.tracking_uri,
            "max_hours": None if self._deadline is None else max(1e-9, (self._deadline - time.monotonic()) / 3600),
            "imports": self.catalog.imports,
            "blocked": self.catalog.blocked,
            "command": self.command,
            "home": self.home.paths,
        }

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Keep other processes of this machine from asking for trials meanwhile, so that there are never too many."""
        held = lock(self.study.folder / "ask.lock", timeout=-1)
        try:
            yield
        finally:
            if held is not None:
                held.release()

    def _left(self) -> int:
        """Return the number of trials that are still to be started."""
        if self._late():
            return 0
        left = max(0, self.options.trials - self.study.count())
        return min(left, len(self.study.trials("WAITING"))) if self.options.sampler == "grid" else left

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _ask(self) -> Candidate | None:
        """Return the next trial of the study, None if there are enough trials already."""
        trial = self.study.ask(self.worker)
        if trial is None:
            return None

        def suggest(key: str, dimension: Dimension) -> Any:
            if isinstance(dimension, Range):
                if dimension.whole:
                    return trial.suggest_int(key, int(dimension.low), int(dimension.high), log=dimension.log)
                value = trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)
                return round_setting(value, dimension)
            labels = [choice_label(value) for value in dimension.values]
            return dimension.values[labels.index(trial.suggest_categorical(key, labels))]

        settings = sample(self.study.space, self.base, suggest)
        trial.set_user_attr("settings", settings)
        self._live[trial.number] = trial
        self.log.trial_started(trial.number, settings)
        return self._candidate(trial.number, settings, self.base.seeds, {})

    def _candidate(
        self, number: int, settings: Mapping[str, Any], seeds: tuple[int, ...], tags: Mapping[str, str]
    ) -> Candidate:
        place = {"pgzoo.study": self.study.name, "pgzoo.trial": str(number), PARENT: self.log.trial_key(number)}
        labels = {**self.base.tags, **place, **tags}
        config = configure(self.base, settings, self.catalog)
        config = config.model_copy(update={"seeds": seeds, "tags": labels})
        return Candidate(number, config, tuple(settings))

    def _finalist(self, row: TrialRow, seeds: tuple[int, ...]) -> Candidate:
        return self._candidate(row.number, row.settings, seeds, {"pgzoo.seeds": "fresh"})

    def _train(self, asked: Sequence[Candidate]) -> bool:
        """Train trials and store their ends; return False if the search was interrupted.

        A trial with the settings of an earlier one has that trial's scores: training it again would give the same.
        """
        new: dict[str, Candidate] = {}
        twins: list[tuple[Candidate, str]] = []
        known = {json.dumps(row.settings, sort_keys=True): row for row in self.study.rows() if row.status == "finished"}
        for candidate in asked:
            key = json.dumps(dict(self._live[candidate.number].user_attrs["settings"]), sort_keys=True)
            if key in known or key in new:
                twins.append((candidate, key))
            else:
                new[key] = candidate
        outcomes: dict[int, Outcome] = {}
        for group in batches(list(new.values())):
            with self.display.training([candidate.number for candidate in group]):
                done = train_batch(
                    group,
                    self.options.objective,
                    self.catalog,
                    command=self.command,
                    report=None if self.options.pruner == "none" else self._report,
                )
            for outcome in done:
                if outcome.status != "interrupted":
                    self._end(outcome)
                    outcomes[outcome.number] = outcome
            if any(outcome.status == "interrupted" for outcome in done):
                for number in list(self._live):
                    self.study.put_back(number)
                    self.log.trial_ended(Outcome(number, "interrupted", reason="interrupted"))
                return False
        for candidate, key in twins:
            if key in known:
                row = known[key]
                twin = Outcome(candidate.number, "finished", row.scores, f"as trial {row.number}", row.run_keys)
            else:
                first = outcomes[new[key].number]
                twin = replace(first, number=candidate.number, reason=first.reason or f"as trial {first.number}")
            self._end(replace(twin, env_steps=0, seconds=0.0))
        return True

    def _end(self, outcome: Outcome) -> None:
        trial = self._live.pop(outcome.number)
        if not self.study.tell(trial, outcome):
            reason = f"it was queued again, because this process didn't respond for {GRACE} s"
            _log.warning("The result of trial %d isn't used: %s.", outcome.number, reason)
            self.log.trial_ended(replace(outcome, status="interrupted", reason=reason))
            return
        self.log.trial_ended(outcome)
        self.log.record_progress()
        rows = self.study.rows()
        self.display.ended(next(row for row in rows if row.number == outcome.number), rows)

    def _report(self, number: int, rung: int, so_far: float) -> bool:
        return self.study.report(self._live[number], rung, so_far)

    def _give_up_if_hopeless(self, enough: int) -> None:
        """Raise RunFailed if no trial has finished, and `enough` of them have failed."""
        rows = self.study.rows()
        failed = [row for row in rows if row.status == "failed"]
        if len(failed) >= enough and len(failed) == len(rows):
            raise RunFailed(
                f"No trial has finished, and {len(failed)} failed; the last one: {failed[-1].reason} "
                f"(settings: {failed[-1].format_settings()}). Check the fixed settings with "
                f"pgzoo run {self.base.algorithm}."
            )
