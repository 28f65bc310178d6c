"""Logs a study to MLflow as a run of its own, with its tables and plots."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from pgzoo import tracking
from pgzoo.analysis.selection import KIND
from pgzoo.config import RunConfig
from pgzoo.errors import StoreError
from pgzoo.search.result import SweepResult
from pgzoo.search.space import choice_label
from pgzoo.tracking.journal import MAX_PARAM, clean_items
from pgzoo.tracking.lookup import query_store

__all__ = ["log_study"]

_log = logging.getLogger("pgzoo")

MAX_METRICS = 1000
"""Most metrics that MLflow takes at once."""


def log_study(
    result: SweepResult, config: RunConfig, home: tracking.Home, command: str, known_run: str | None
) -> str | None:
    """Log the scores, the winner and the files of a study; return the id of its MLflow run.

    `known_run` is the run of an earlier call, which is brought up to date if it still exists. If the store can't be
    used, a warning is logged, and None is returned; so it is for `--tracking-uri none`.
    """
    uri = tracking.resolve_uri(config.tracking_uri, home)
    if uri == tracking.NO_STORE:
        return None
    experiment = config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"pgzoo/{config.env}"
    start: dict[str, Any] = {"experiment": experiment}
    if uri == home.default_uri:
        start["artifacts"] = home.artifacts.as_uri()
    logged: list[str] = []

    def write(client: Any) -> None:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        from pgzoo.tracking.store import Store

        store, now = Store(uri), int(time.time() * 1000)
        tags = {
            KIND: "study",
            "pgzoo.study": result.study,
            "mlflow.source.name": command or "pgzoo.sweep",
            "mlflow.source.type": "LOCAL",
        }
        run_id = known_run
        try:
            run_id = client.get_run(run_id).info.run_id if run_id else None
        except MlflowException:  # it was deleted
            run_id = None
        if run_id is None:
            run_id = client.create_run(store.experiment(start), now, tags, run_name=result.study).info.run_id
        metrics = [Metric(key, value, now, step) for key, value, step in scores(result)]
        for place in range(0, len(metrics), MAX_METRICS):
            client.log_batch(run_id, metrics=metrics[place : place + MAX_METRICS])
        # as tags, because the winner may change when the study is continued, and parameters can't
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in winner_tags(result).items()])
        fixed = {"algorithm": result.algorithm, "env": result.env, "objective": result.objective}
        client.log_batch(run_id, params=[Param(key, value) for key, value in clean_items(fixed, MAX_PARAM).items()])
        for file in (*result.files, *([result.preset] if result.preset else [])):
            store.upload(run_id, file, file.name)
        store.close_run(run_id, "FINISHED", now)
        logged.append(run_id)

    try:
        query_store(uri, write, f'the study into "{experiment}"')
    except StoreError as error:
        _log.warning("%s The tables and plots are in %s.", error, result.folder)
        return None
    return logged[0]


def scores(result: SweepResult) -> list[tuple[str, float, int]]:
    """Return metrics with their steps: the score of each trial, the best score so far, and the winner's scores."""
    found: list[tuple[str, float, int]] = []
    best = float("-inf")
    for row in result.trials:
        if row.score is not None:
            best = max(best, row.score)
            found += [("trial/score", row.score, row.number), ("trial/best", best, row.number)]
    if winner := result.winner:
        numbers = {"fresh_score": winner.fresh_score, "search_score": winner.search_score}
        found += [(f"winner/{name}", value, len(result.trials)) for name, value in numbers.items()]
    return found


def winner_tags(result: SweepResult) -> dict[str, str]:
    """Return the trial and the settings of the winner as tags."""
    if result.winner is None:
        return {}
    settings = {f"winner.{key}": str(choice_label(value)) for key, value in result.winner.settings.items()}
    return clean_items({"winner.trial": str(result.winner.number), **settings}, MAX_PARAM)
