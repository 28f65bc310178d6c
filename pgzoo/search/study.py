"""An Optuna study: its storage, its trials, and what is stored with them."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pgzoo import tracking
from pgzoo.config import RunConfig
from pgzoo.errors import ConfigError, UnknownName
from pgzoo.quiet import without_warnings
from pgzoo.search.options import Pruner, SearchOptions
from pgzoo.search.result import TrialRow
from pgzoo.search.space import Space, choice_label
from pgzoo.search.storage import HEARTBEAT, has_heartbeats, open_storage, storage_errors
from pgzoo.search.trial import RUNGS, Outcome, score
from pgzoo.tracking.locks import is_locked, lock

__all__ = ["Study", "read_study", "worker_lock"]

_log = logging.getLogger("pgzoo")

DEFINITION = "pgzoo.definition"
"""Attribute of a study: what its trials have in common. A study is continued only with the same definition."""

GROUP = "pgzoo.group"
"""Attribute of a study: the group of its run and of the runs of its trials."""

OPTIONS = "pgzoo.options"
"""Attribute of a study: options and labels for a process that joins it."""

UNNAMED = timedelta(seconds=60)
"""Longest time between the start of a trial and its worker's name in the study."""

JOINED_LABELS = ("tags", "name", "experiment")
JOINED_OPTIONS = ("trials", "objective", "sampler", "pruner", "sampler_seed", "batch", "jobs")
"""What a process that joins a study takes from it, besides its definition."""

SURPLUS = "surplus"
"""Attribute of a trial that wasn't trained, because other processes had started enough trials."""

LABELS = ("tags", "name", "experiment", "tracking_uri")
"""Run settings that may differ when a study is continued."""


class Study:
    """An Optuna study, and what is stored in it."""

    def __init__(self, name: str, folder: Path, options: SearchOptions, space: Space, base: RunConfig) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name, self.folder, self.options, self.space, self.base = name, folder, options, space, base
        with storage_errors(options.storage, folder):
            self.storage = open_storage(options.storage, folder)
            study = optuna.create_study(
                storage=self.storage, study_name=name, direction="maximize", load_if_exists=True
            )
        self.optuna = study
        self._beating: dict[int, int] = {}
        self._check_definition()
        if GROUP not in study.user_attrs:
            study.set_user_attr(GROUP, f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}")
            if options.storage:
                time.sleep(1.0)  # if another machine creates the study right now, both take the group written last
        self.group: str = study.user_attrs[GROUP]
        labels = {key: value for key, value in base.nested().items() if key in JOINED_LABELS}
        stored = {key: getattr(options, key) for key in JOINED_OPTIONS}
        if study.user_attrs.get(OPTIONS) != (about := {"options": stored, "labels": labels}):
            study.set_user_attr(OPTIONS, about)
        study.pruner = _pruner(options.pruner)
        if foreign := [trial.number for trial in study.get_trials(deepcopy=False) if _is_foreign(trial)]:
            _log.warning(
                "Study %s: another program has added the trials %s. They don't count and aren't listed; the sampler "
                "learns from their scores.",
                name,
                ", ".join(map(str, foreign)),
            )
        if options.sampler == "grid":
            self._enqueue_grid()

    def _check_definition(self) -> None:
        """Store what the trials have in common. Raises ConfigError if the study exists with another definition."""
        own = {
            "config": {key: value for key, value in self.base.nested().items() if key not in LABELS},
            "space": self.space.describe(),
            "objective": self.options.objective,
            "statistic": "iqm",
        }
        own = json.loads(json.dumps(own))
        stored = self.optuna.user_attrs.get(DEFINITION)
        if stored is None:
            self.optuna.set_user_attr(DEFINITION, own)
        elif different := list(_differences(stored, own)):
            raise ConfigError(
                f"The study {self.name} exists with other settings: {'; '.join(different)}. Its trials couldn't be "
                "compared with new ones. Choose another --study, or repeat the command that started it."
            )

    def _enqueue_grid(self) -> None:
        """Queue those combinations of the grid that aren't in the study yet, up to the number of trials."""
        known = {trial.user_attrs.get("grid") for trial in self.trials()}
        for index, setting in enumerate(self.space.grid(self.base)[: self.options.trials]):
            if index not in known:
                labels = {key: choice_label(value) for key, value in setting.items()}
                self.optuna.enqueue_trial(labels, user_attrs={"grid": index})

    def start_sampler(self, worker: str, joined: bool) -> None:
        """Make the sampler of this process.

        Its seed depends on the number of trials, so that a continued study draws other settings. If the process has
        `joined` the study, or others train trials of it, the seed also depends on the process.
        """
        locks = (self.folder / "workers").glob("*.lock")
        several = joined or self.trials("RUNNING") or any(file.stem != worker and is_locked(file) for file in locks)
        seed = self.options.sampler_seed + len(self.trials()) + (int(worker[:7], 16) if several else 0)
        with without_warnings():  # some samplers are experimental
            self.optuna.sampler = _sampler(self.options, seed)

    def trials(self, *states: str) -> list[Any]:
        """Return the trials in any of these states, by default all; without those that another program has added."""
        found = [trial for trial in self.optuna.get_trials(deepcopy=False) if not _is_foreign(trial)]
        return [trial for trial in found if not states or trial.state.name in states]

    def count(self) -> int:
        """Return the number of trials that are done or being trained."""
        return sum(trial.state.name in ("COMPLETE", "PRUNED", "RUNNING") for trial in self.trials())

    def ask(self, worker: str) -> Any:
        """Return the next trial, None if other processes have started enough trials meanwhile."""
        with without_warnings():  # Optuna sends heartbeats itself only in Study.optimize; here `heartbeats` does
            trial = self.optuna.ask()
        if has_heartbeats(self.storage):
            self.storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr("worker", worker)
        counted = [one for one in self.trials("COMPLETE", "PRUNED", "RUNNING") if one.number <= trial.number]
        repeated = trial.user_attrs.get("repeats")
        twice = repeated is not None and any(
            one.number < trial.number and one.user_attrs.get("repeats") == repeated for one in self.trials()
        )
        if len(counted) > self.options.trials or twice:
            trial.set_user_attr(SURPLUS, True)
            self._fail(trial.number)
            return None
        self._beating[trial.number] = trial._trial_id
        return trial

    def put_back(self, number: int) -> None:
        """Queue a trial again that was interrupted, and mark it as failed. Calling this twice queues it once."""
        self._beating.pop(number, None)
        self._fail(number)
        self._queue_failed()

    def put_back_abandoned(self) -> None:
        """Queue the trials again whose process was killed.

        A process of this machine holds a lock. One of another machine sends heartbeats to the database.
        """
        import optuna

        shared = has_heartbeats(self.storage)
        if shared:
            with without_warnings():  # this function is experimental
                optuna.storages.fail_stale_trials(self.optuna)
        for trial in self.trials("RUNNING"):
            worker = trial.user_attrs.get("worker")
            if worker is None:  # killed before it stored its name, unless this has happened just now
                abandoned = datetime.now() - trial.datetime_start > UNNAMED
            else:
                file = self.folder / "workers" / f"{worker}.lock"
                abandoned = not is_locked(file) if file.exists() else not shared
            if abandoned:
                self._fail(trial.number)
        self._queue_failed()

    def _fail(self, number: int) -> None:
        """Mark a trial as failed, if it is running."""
        import optuna

        with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # it has ended meanwhile
            self.optuna.tell(number, state=optuna.trial.TrialState.FAIL)

    def _queue_failed(self) -> None:
        """Queue the failed trials again that aren't queued yet.

        Two processes may do this at the same time; `ask` drops the second copy.
        """
        queued = {trial.user_attrs.get("repeats") for trial in self.trials()}
        for trial in self.trials("FAIL"):
            if trial.number not in queued and SURPLUS not in trial.user_attrs:
                kept = {key: value for key, value in trial.user_attrs.items() if key == "grid"}
                params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}  # queued ones, then drawn ones
                self.optuna.enqueue_trial(params, user_attrs={**kept, "repeats": trial.number})

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Send heartbeats of this process's trials from a thread, if the storage is a database."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT):
                for trial_id in list(self._beating.values()):
                    with suppress(Exception):  # the database may be back at the next beat
                        self.storage.record_heartbeat(trial_id)

        if not has_heartbeats(self.storage):
            yield
            return
        thread = threading.Thread(target=beat, name="pgzoo-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def tell(self, trial: Any, outcome: Outcome) -> bool:
        """Store the end of a trial; return False if it was given to another process meanwhile.

        A failed trial is stored as pruned, because samplers learn from pruned trials that such settings are bad, and
        ignore failed ones.
        """
        import optuna

        self._beating.pop(trial.number, None)
        try:
            for key in ("status", "scores", "reason", "run_keys", "env_steps", "seconds"):
                trial.set_user_attr(key, getattr(outcome, key))
            if outcome.status == "finished":
                self.optuna.tell(trial, outcome.score)
            else:
                self.optuna.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False
        return True

    def report(self, trial: Any, rung: int, so_far: float) -> bool:
        """Store a trial's score so far; return whether to end it, also if it was given to another process."""
        import optuna

        try:
            trial.report(so_far, rung)
        except optuna.exceptions.UpdateFinishedTrialError:
            return True
        return bool(trial.should_prune())

    def scores(self) -> list[tuple[int, float]]:
        """Return the number and the score of each finished trial, in the order in which they finished."""
        trials = sorted(self.trials("COMPLETE"), key=lambda trial: (trial.datetime_complete, trial.number))
        return [(trial.number, score(trial.user_attrs["scores"])) for trial in trials]

    def rows(self) -> tuple[TrialRow, ...]:
        """Return a row for each trial that has ended."""
        return tuple(
            TrialRow(
                trial.number,
                trial.user_attrs["settings"],
                trial.user_attrs["status"],
                score(trial.user_attrs["scores"]) if trial.user_attrs["scores"] else None,
                tuple(trial.user_attrs["scores"]),
                trial.user_attrs["reason"],
                tuple(trial.user_attrs["run_keys"]),
                trial.user_attrs["env_steps"],
            )
            for trial in self.trials("COMPLETE", "PRUNED")
        )


def _is_foreign(trial: Any) -> bool:
    """Return whether a trial has ended with a score, but not by `Study.tell`."""
    return trial.state.name in ("COMPLETE", "PRUNED") and "status" not in trial.user_attrs


def read_study(name: str, folder: Path, url: str | None) -> tuple[dict[str, Any], dict[str, Any], SearchOptions]:
    """Return the settings of a study's trials, the labels of their runs, and the options of the search.

    Raises:
        UnknownName: there is no such study.
        StoreError: the storage can't be used.
    """
    import optuna

    missing = (
        f"No study {name} in {tracking.display_uri(url)}: it hasn't been started there, or was deleted."
        if url
        else f"No study {name} in {folder.parent}. If it is in a database, give its --storage."
    )
    if not url and not (folder / "journal.log").exists():
        raise UnknownName(missing)
    try:
        with storage_errors(url, folder):
            found = optuna.load_study(study_name=name, storage=open_storage(url, folder)).user_attrs
    except KeyError:
        raise UnknownName(missing) from None
    if not {DEFINITION, OPTIONS} <= set(found):
        raise UnknownName(f"The study {name} wasn't made by pgzoo sweep.")
    definition, about = found[DEFINITION], found[OPTIONS]
    options = SearchOptions(
        [f"{key}={space}" for key, space in definition["space"].items()], study=name, storage=url, **about["options"]
    )
    return definition["config"], about["labels"], options


def _differences(stored: Mapping[str, Any], own: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted({*stored, *own}):
        old, new = stored.get(key), own.get(key)
        name = key if key in ("objective", "statistic") or prefix else ""
        if isinstance(old, dict) and isinstance(new, dict):
            label = "--search " if key == "space" else ""
            yield from _differences(old, new, f"{prefix}{key}." if prefix else label)
        elif old != new:
            yield f"{prefix}{name or key} was {old}, and is {new}"


def _sampler(options: SearchOptions, seed: int) -> Any:
    from optuna import samplers

    match options.sampler:
        case "random" | "grid":
            return samplers.RandomSampler(seed=seed)
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "qmc":  # workers share one sequence
            return samplers.QMCSampler(seed=options.sampler_seed, scramble=True, warn_independent_sampling=False)
    return samplers.TPESampler(seed=seed)


def _pruner(name: Pruner) -> Any:
    from optuna import pruners

    match name:
        case "median":
            return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
        case "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=RUNGS, reduction_factor=3)
    return pruners.NopPruner()


@contextmanager
def worker_lock(folder: Path) -> Iterator[str]:
    """Hold a lock whose name is stored with the trials that this process trains; return that name.

    When the process is killed, the lock is released, and the next one queues its trials again.
    """
    name = secrets.token_hex(8)
    path = folder / "workers" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    held = lock(path)
    try:
        yield name
        path.unlink(missing_ok=True)  # after an exception it stays: it tells that the trials were abandoned
    finally:
        if held is not None:
            held.release()
