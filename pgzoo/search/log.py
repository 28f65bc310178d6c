"""Logs a search to MLflow: a run for the study, and below it one for each trial, which contains the runs of its seeds.

They are journals like those of all other runs, so a search doesn't wait for MLflow, and loses nothing if it is down.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pgzoo import tracking
from pgzoo.config import RunConfig
from pgzoo.errors import StoreError
from pgzoo.runs.result import EXIT_WAIT
from pgzoo.search.result import SweepResult
from pgzoo.search.space import choice_label
from pgzoo.search.study import Study
from pgzoo.search.trial import Outcome
from pgzoo.tracking.ledger import KIND, PARENT, read_json
from pgzoo.tracking.locks import is_locked

__all__ = ["StudyLog", "winner_tags"]

STATUS: Mapping[str, tracking.EndStatus] = {
    "finished": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


class StudyLog:
    """The journals of a study and of the trials that this process trains; a context manager.

    Several processes may train trials of a study. The first that calls `open_study` writes the run of the study.
    """

    def __init__(self, study: Study, home: tracking.Home, command: str) -> None:
        self._study, self._home, self._command = study, home, command
        self._config: RunConfig = study.base
        self._session = tracking.Session(home, study.group, tracking.resolve_uri(study.base.tracking_uri, home))
        self._journal: tracking.Journal | None = None
        self._trials: dict[int, tracking.Journal] = {}
        self._key = f"{study.group}-study"

    def trial_key(self, number: int) -> str:
        """Return the run key of a trial."""
        return f"{self._study.group}-trial-{number}"

    def open_study(self) -> None:
        """Open the journal of the study, unless another process has it."""
        if self._journal is None and not is_locked(self._home.runs / self._key / "lock"):
            searched = {f"search.{key}": str(space) for key, space in self._study.space.describe().items()}
            options = self._study.options
            params = {"objective": options.objective, "seeds": ",".join(map(str, self._config.seeds)), **searched}
            with suppress(StoreError):  # another process was faster
                self._journal = self._open(self._key, self._study.name, "study", params, {})

    def trial_started(self, number: int, settings: Mapping[str, Any]) -> None:
        """Open the journal of a trial that is about to be trained."""
        params = {key: str(choice_label(value)) for key, value in settings.items()}
        tags = {"pgzoo.trial": str(number), PARENT: self._key}
        self._trials[number] = self._open(self.trial_key(number), f"trial {number}", "trial", params, tags)

    def trial_ended(self, outcome: Outcome) -> None:
        """Write the scores of a trial, the mean learning curve of its seeds, and its end."""
        journal = self._trials.pop(outcome.number)
        for step, value in outcome.curve:
            # another name than that of the seeds' curves, which MLflow's chart averages per algorithm
            journal.record([step], {"trial/return_mean": value})
        if outcome.status == "finished":
            for seed, one in zip(self._config.seeds, outcome.scores, strict=True):
                journal.summary(seed, {"trial/seed_score": one})
        if outcome.score is not None:
            journal.summary(outcome.curve[-1][0] if outcome.curve else 0, {"trial/score": outcome.score})
        journal.tags({"pgzoo.status": outcome.status})
        journal.end(STATUS[outcome.status], outcome.reason)
        for key in outcome.run_keys:
            self._session.watch(key)

    def record_progress(self) -> None:
        """Write the scores of all finished trials, those of other processes included, into the study's run.

        Their step is the number of trials that had finished. Does nothing if another process writes the study's run.
        """
        if self._journal is None:
            return
        best = float("-inf")
        for count, (number, score) in enumerate(self._study.scores(), 1):
            best = max(best, score)
            values = {"trial/score": score, "trial/best": best, "trial/number": float(number)}
            self._journal.record([count], values)

    def close_study(self, result: SweepResult) -> None:
        """Write the winner, the tables and the plots into the study's run, and end it."""
        if self._journal is None:
            return
        self.record_progress()
        if winner := result.winner:
            scores = {"winner/fresh_score": winner.fresh_score, "winner/search_score": winner.search_score}
            self._journal.summary(len(self._study.scores()), scores)
            # as tags, because the winner may change when the study is continued, and parameters can't
            self._journal.tags(winner_tags(result))
        for file in (*result.files, *([result.preset] if result.preset else [])):
            self._journal.artifact(file.name, Path(file))
        self._journal.tags({"pgzoo.status": "interrupted" if result.interrupted else "finished"})
        self._journal.end("KILLED" if result.interrupted else "FINISHED", "interrupted" * result.interrupted)

    def settle(self) -> str | None:
        """Wait a few seconds for the upload; return the id of the study's run, None if MLflow doesn't have it yet."""
        self._session.close(EXIT_WAIT)
        run_id = read_json(self._home.runs / self._key / "run.json").get("run_id")
        return run_id if isinstance(run_id, str) else None

    def format_shipping(self) -> str:
        """Return what the uploader is doing now."""
        return tracking.format_shipping(self._session.pending(), self._session.tracking_uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is still open, as failed or interrupted, and don't wait for the upload."""
        status: tracking.EndStatus = "FAILED" if kind is not None and issubclass(kind, Exception) else "KILLED"
        for journal in (*self._trials.values(), *([self._journal] if self._journal else [])):
            with suppress(StoreError):
                journal.end(status, "" if kind is None else f"{kind.__name__}: {error}"[:500])
        self._session.close(0)

    def _open(
        self, key: str, name: str, kind: str, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> tracking.Journal:
        config = self._config
        labels = {
            "mlflow.source.name": self._command or "pgzoo.sweep",
            "mlflow.source.type": "LOCAL",
            **config.tags,
            KIND: kind,
            "pgzoo.study": self._study.name,
            **tags,
        }
        return self._session.journal(
            key,
            name=name,
            experiment=config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"pgzoo/{config.env}",
            seed=None,
            algorithm=config.algorithm,
            env=config.env,
            params=params,
            tags=labels,
        )


def winner_tags(result: SweepResult) -> dict[str, str]:
    """Return the trial and the settings of the winner as tags."""
    if result.winner is None:
        return {}
    settings = {f"winner.{key}": str(choice_label(value)) for key, value in result.winner.settings.items()}
    return {"winner.trial": str(result.winner.number), **settings}
