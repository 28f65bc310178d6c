"""Logs a comparison to MLflow as a separate run. Its tag keeps selectors from matching it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgzoo.analysis.comparison import ComparisonData
from pgzoo.analysis.report import render
from pgzoo.analysis.selection import COMPARISON
from pgzoo.analysis.tables import markdown
from pgzoo.errors import StoreError
from pgzoo.tracking.home import NO_STORE, Home
from pgzoo.tracking.journal import MAX_PARAM, clean_items, clean_key
from pgzoo.tracking.lookup import query_store

__all__ = ["log", "log_run"]

MAX_NOTE = 8000
LOGGED = (".html", ".png", ".json")
"""The formats in which the report is kept with the run."""


def log(comparison: ComparisonData, command: str = "") -> str:
    """Log the numbers and the report to the comparison's tracking store and return the id of the new MLflow run.

    `command` is logged as the source of the run. Raises StoreError if the store can't be written.
    """
    return log_run(
        comparison.tracking_uri,
        comparison.home,
        frozenset(run.experiment for side in comparison.sides for run in side.runs),
        name=" vs ".join(comparison.labels),
        command=command,
        note=markdown(comparison),
        numbers=numbers(comparison),
        params=parameters(comparison),
        files={f"report{ending}": render(comparison, ending) for ending in LOGGED},
    )


def log_run(
    uri: str,
    home: Home,
    experiments: frozenset[str],
    *,
    name: str,
    command: str,
    note: str,
    numbers: Mapping[str, float],
    params: Mapping[str, str],
    files: Mapping[str, bytes],
) -> str:
    """Log the result of an analysis as a new MLflow run in the store `uri`, and return its id.

    It is logged to the experiment that all analyzed runs share, else to `pgzoo/comparisons`.

    Raises:
        StoreError: the store can't be written, or `uri` names none.
    """
    if uri == NO_STORE:
        raise StoreError("The tracking store is none, so nothing can be logged: name one with --tracking-uri.")
    experiment = next(iter(experiments)) if len(experiments) == 1 else "pgzoo/comparisons"
    start: dict[str, Any] = {"experiment": experiment}
    if uri == home.default_uri:
        start["artifacts"] = home.artifacts.as_uri()
    logged: list[str] = []

    def write(_: Any) -> None:
        from mlflow.entities import Metric, Param

        from pgzoo.tracking.store import Store

        store, now = Store(uri), int(time.time() * 1000)
        tags = {
            COMPARISON[0]: COMPARISON[1],
            "mlflow.source.name": command or "pgzoo.compare",
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": note[:MAX_NOTE],
        }
        run_id = store.client.create_run(store.experiment(start), now, tags, run_name=name).info.run_id
        metrics = {clean_key(key): value for key, value in numbers.items()}
        store.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, value) for key, value in clean_items(params, MAX_PARAM).items()],
        )
        with tempfile.TemporaryDirectory() as folder:
            for file_name, content in files.items():
                file = Path(folder) / file_name
                file.write_bytes(content)
                store.upload(run_id, file, file.name)
        store.close_run(run_id, "FINISHED", int(time.time() * 1000))
        logged.append(run_id)

    query_store(uri, write, f'the comparison into "{experiment}"')
    return logged[0]


def parameters(comparison: ComparisonData) -> dict[str, str]:
    params = {f"side.{place + 1}": label for place, label in enumerate(comparison.labels)}
    params |= {"env": ",".join(comparison.envs), "metric": comparison.metric, "score": comparison.score}
    return params


def numbers(comparison: ComparisonData) -> dict[str, float]:
    """Return the metrics to log, such as `CartPole-v1/a/iqm` and `CartPole-v1/a vs b/improvement`."""
    found: dict[str, float | None] = {}
    for block in comparison.all_blocks:
        env = block.env or "all environments"
        for label, final in zip(comparison.labels, block.final, strict=True):
            for name in ("iqm", "mean", "median"):
                estimate = getattr(final, name)
                key = f"{env}/{label}/{name}"
                found |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
            found[f"{env}/{label}/seeds"] = final.seeds
        for label, area in zip(comparison.labels, block.area, strict=False):
            found[f"{env}/{label}/area_iqm"] = area.iqm.value
        for pair in block.pairs:
            key = f"{env}/{pair.a} vs {pair.b}"
            found |= {f"{key}/improvement": pair.improvement.value, f"{key}/difference": pair.difference.value}
            found[f"{key}/settled"] = float(pair.settled)
    return {key: value for key, value in found.items() if value is not None}
