"""A hyperparameter search: trials that Optuna proposes, and the best of them again on fresh seeds."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgzoo import tracking
from pgzoo.config import Layer, RunConfig
from pgzoo.errors import ConfigError, RunFailed, UsageError
from pgzoo.registry import PluginCatalog, discover
from pgzoo.runs.initial import find_sources
from pgzoo.runs.objects import check_objects, import_files, register_objects
from pgzoo.runs.resolve import compose, resolve
from pgzoo.runs.signals import stop_on_signals
from pgzoo.runs.waiting import ProgressMode, progress_mode
from pgzoo.search import preset as preset_file
from pgzoo.search.display import Display
from pgzoo.search.jobs import Workers
from pgzoo.search.log import StudyLog
from pgzoo.search.options import Pruner, Sampler, SearchOptions, require_optuna
from pgzoo.search.report import write_report
from pgzoo.search.result import Finalist, SweepResult, TrialRow
from pgzoo.search.space import (
    Dimension,
    Range,
    checked_space,
    choice_label,
    configure,
    parse_search,
    round_setting,
    sample,
)
from pgzoo.search.storage import GRACE, lost_storage
from pgzoo.search.study import Study, read_study, worker_lock
from pgzoo.search.trial import Candidate, Objective, Outcome, batches, train_batch
from pgzoo.tracking.ledger import PARENT
from pgzoo.tracking.locks import lock
from pgzoo.training.loop import Control

__all__ = ["best_rows", "join_study", "run_search", "sweep"]

_log = logging.getLogger("pgzoo")

BATCH = 8
"""Trials that are proposed at once, if some of them can be trained as one batch."""

HOPELESS = 3
"""Number of failed trials after which a search in which none has finished is given up."""

POLL = 1.0
"""Seconds between two looks at a study in which only other processes train."""

MAX_CRASHES = 3
"""Number of worker processes that may end unexpectedly before the search is given up."""


def sweep(
    algorithm: str | type[Any] | None = None,
    *,
    search: Sequence[str] | Mapping[str, Any],
    trials: int = 40,
    seeds: int | Sequence[int] = 4,
    objective: Objective = "final",
    sampler: Sampler = "tpe",
    pruner: Pruner = "none",
    storage: str | None = None,
    study: str | None = None,
    max_hours: float | None = None,
    save_preset: str | None = None,
    top: int = 3,
    fresh_seeds: int | None = None,
    batch: int | None = None,
    sampler_seed: int = 0,
    jobs: int = 1,
    preset: str | Path = "auto",
    config: str | Path | None = None,
    imports: Sequence[str | Path] = (),
    no_plugin: Sequence[str] = (),
    progress: bool | None = None,
    **settings: Any,
) -> SweepResult:
    """Search for good hyperparameters with Optuna; the library's `pgzoo sweep`, with the same names.

        search = {"learning_rate": "log:1e-4..3e-3", "estimator": ["gae", "n-step"]}
        pgzoo.sweep("ppo", env="CartPole-v1", search=search)

    The score of a trial is the interquartile mean over its seeds. The best trials are trained again with other seeds,
    because the best score of many is too high by selection, and the winner is the one with the best new score.

    `algorithm`, `preset`, `config`, `imports`, `no_plugin`, `progress` and `settings` are those of `pgzoo.run`.

    Arguments of the search:
        search: the space by dotted key: a list of choices, "A..B", "log:A..B", or a mapping with low, high and log;
            or texts as on the command line.
        trials: number of trials.
        seeds: seeds of every trial; two or more.
        objective: "final", the mean return of the final policy, or "auc", the mean height of the learning curve.
        sampler: how settings are proposed.
        pruner: which trials are ended early.
        storage: URL of an Optuna storage; by default a journal file in pgzoo's folder.
        study: name of the study; one that exists is continued. By default a new one.
        max_hours: after this many hours no trial is started.
        save_preset: write the settings of the winner to this file.
        top: number of trials that are trained again.
        fresh_seeds: number of other seeds for these; by default twice the number of seeds of a trial.
        batch: number of trials that are proposed at once; by default 8 if they can be trained together, otherwise 1.
        sampler_seed: seed of the sampler.
        jobs: number of processes on this machine that train trials at the same time.

    Raises:
        UsageError: a setting or the space is wrong, or Optuna isn't installed; nothing was trained.
        RunFailed: the first trials failed, and none finished.
    """
    require_optuna()
    given_settings = {**settings, "seeds": seeds}
    named, imports = import_files({"algorithm": algorithm, **given_settings} if algorithm else given_settings, imports)
    catalog = discover(blocked=no_plugin, imports=imports)
    given, objects = register_objects(named, catalog)
    base = compose(Layer(given, ".".join), catalog, preset=preset, file=config)
    check_objects(objects, base.launcher)
    if objects and jobs > 1:
        raise ConfigError(
            f"jobs={jobs}: other processes can't be given the objects {', '.join(objects)}. Use jobs=1, or register "
            "them in a plugin."
        )
    options = SearchOptions(
        space=search,
        trials=trials,
        objective=objective,
        sampler=sampler,
        pruner=pruner,
        storage=storage,
        study=study,
        max_hours=max_hours,
        save_preset=save_preset,
        top=top,
        fresh_seeds=fresh_seeds,
        batch=batch,
        sampler_seed=sampler_seed,
        jobs=jobs,
    )
    return run_search(options, base, catalog, command="pgzoo.sweep", progress=progress_mode(progress))


def run_search(
    options: SearchOptions,
    base: RunConfig,
    catalog: PluginCatalog,
    *,
    command: str = "",
    progress: ProgressMode = "none",
    home: tracking.Home | None = None,
) -> SweepResult:
    """Search from a config whose settings are resolved. See `sweep`.

    An interruption (Ctrl-C) ends the search; finished trials are kept. See `SweepResult.interrupted`.

    Raises:
        UsageError: an option or the space is wrong; nothing was trained.
        RunFailed: the first trials failed, and none finished.
        KeyboardInterrupt: a second Ctrl-C.
    """
    require_optuna()
    options.check()
    home = home or tracking.Home.find()
    if len(base.seeds) < 2:
        raise ConfigError("A trial's score is over several seeds: give --seeds 2 or more.")
    if base.sweep_axis:
        raise ConfigError("sweep_axis and search can't be combined: give the values of the axis with --search.")
    space = checked_space(parse_search(options.space), base, catalog)
    tracking.check_store(tracking.resolve_uri(base.tracking_uri, home), home)
    if base.init_from:
        find_sources(base.init_from, [*base.seeds, *fresh_seeds(options, base)], base.tracking_uri)
    if options.objective == "auc" and base.total_steps is not None and base.total_steps < base.log_every:
        raise UsageError(
            f"--objective auc: a run of {base.total_steps} steps has no point of the learning curve, because there is "
            f"one every {base.log_every}. Give --log-every {max(1, base.total_steps // 10)}, or more steps."
        )
    if options.save_preset:
        preset_file.check_target(options.save_preset)
    if options.sampler == "grid":
        space.grid(base)  # raises for a range
    name = (
        options.study or f"{base.algorithm}-{re.sub(r'[^A-Za-z0-9.]+', '-', base.env)}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    folder = home.root / "studies" / name
    opened = Study(name, folder, options, space, base)
    return _search(opened, catalog, command, progress, home)


def join_study(
    name: str,
    catalog: PluginCatalog,
    *,
    storage: str | None = None,
    tracking_uri: str | None = None,
    max_hours: float | None = None,
    command: str = "",
    progress: ProgressMode = "none",
    home: tracking.Home | None = None,
) -> SweepResult:
    """Train trials of a study that another process started, until it has enough of them. See `run_search`.

    The best ones are not trained again; the process that started the study does that. After `max_hours`, no trial is
    started.

    Raises:
        UnknownName: there is no such study.
        StoreError: the storage can't be used.
    """
    require_optuna()
    home = home or tracking.Home.find()
    folder = home.root / "studies" / name
    settings, labels, options = read_study(name, folder, storage)
    options = replace(options, max_hours=max_hours)
    options.check()
    base = resolve([Layer({**settings, **labels, "tracking_uri": tracking_uri}, ".".join)], catalog)
    tracking.check_store(tracking.resolve_uri(tracking_uri, home), home)
    opened = Study(name, folder, options, checked_space(parse_search(options.space), base, catalog), base)
    return _search(opened, catalog, command, progress, home, finals=False)


def _search(
    opened: Study,
    catalog: PluginCatalog,
    command: str,
    progress: ProgressMode,
    home: tracking.Home,
    finals: bool = True,
) -> SweepResult:
    """Train trials of a study in this process; with `finals`, also the best ones with fresh seeds."""
    name, folder, options = opened.name, opened.folder, opened.options
    display = Display(progress, name, options.trials)
    with (
        _said_once(),
        lost_storage(options.storage, name),
        worker_lock(folder) as worker,
        StudyLog(opened, home, command) as log,
        opened.heartbeats(),
    ):
        return _Search(opened, catalog, command, display, worker, log, home).run(finals=finals)


class _Search:
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
                finalists, interrupted = self._finals()
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
            planned=self.options.trials,
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

    def _finals(self) -> tuple[tuple[Finalist, ...], bool]:
        """Train the best trials with fresh seeds; return them, and whether this was interrupted.

        Scores that the study has from an earlier call are used again.
        """
        seeds = fresh_seeds(self.options, self.base)
        best = best_rows(self.study.rows(), self.options.top)
        stored = self.study.optuna.user_attrs
        missing = [row for row in best if stored.get(f"fresh.{row.number}", {}).get("seeds") != list(seeds)]
        tags = {"pgzoo.seeds": "fresh"}
        interrupted = False
        for group in batches([self._candidate(row.number, row.settings, seeds, tags) for row in missing]):
            with self.display.training([candidate.number for candidate in group], fresh=True):
                done = train_batch(group, self.options.objective, self.catalog, command=self.command)
            for outcome in done:
                if outcome.status == "finished":
                    about = {"seeds": seeds, "scores": outcome.scores, "run_keys": outcome.run_keys}
                    self.study.optuna.set_user_attr(f"fresh.{outcome.number}", about)
                elif outcome.status == "failed":
                    _log.warning("Trial %s failed on fresh seeds: %s", outcome.number, outcome.reason)
            if interrupted := any(outcome.status == "interrupted" for outcome in done):
                break
        stored = self.study.optuna.user_attrs
        found = [
            Finalist(row.number, row.settings, row.score or 0.0, tuple(about["scores"]), tuple(about["run_keys"]))
            for row in best
            if (about := stored.get(f"fresh.{row.number}")) and about["seeds"] == list(seeds)
        ]
        return tuple(found), interrupted


def fresh_seeds(options: SearchOptions, base: RunConfig) -> tuple[int, ...]:
    """Return the seeds with which the best trials are trained again."""
    count, first = options.fresh_seeds or 2 * len(base.seeds), max(base.seeds) + 1
    return tuple(range(first, first + count))


def best_rows(rows: Sequence[TrialRow], count: int) -> list[TrialRow]:
    """Return the `count` finished trials with the best scores, best first, each setting once."""
    ranked = sorted((row for row in rows if row.score is not None), key=lambda row: (-(row.score or 0.0), row.number))
    distinct = {json.dumps(row.settings, sort_keys=True): row for row in reversed(ranked)}
    return [row for row in ranked if row in distinct.values()][:count]


@contextmanager
def _said_once() -> Iterator[None]:
    """Let the same warning through once, not once per trial."""
    said: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        first = text not in said
        said.add(text)
        return first

    log = logging.getLogger("pgzoo")
    log.addFilter(new)
    try:
        yield
    finally:
        log.removeFilter(new)
