"""Selectors and the runs that they match, from the journals of this machine and from tracking stores.

Journals are searched first. A tracking store is also searched if it is given by `--tracking-uri` or
`MLFLOW_TRACKING_URI`; the local store only if a selector matches no journal.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from pgzoo.errors import StoreError, UnknownName, UsageError, did_you_mean
from pgzoo.tracking.home import NO_STORE, Home, display_uri, resolve_uri, sqlite_path
from pgzoo.tracking.journal import Record, records
from pgzoo.tracking.ledger import KIND, identity, in_training, journal_folders, names_of, read_json, start_of_seed
from pgzoo.tracking.lookup import query_store

__all__ = ["COMPARISON", "FINAL", "ProgressCallback", "Run", "RunIndex", "SelectorKind", "load"]

SelectorKind: TypeAlias = Literal["run", "group", "name", "algorithm", "tag", "param", "experiment"]
ProgressCallback: TypeAlias = Callable[[str, int, int | None], None]
"""Called with what is being read, the number read so far, and the total (None if it is not known)."""

FINAL = "summary/return_final"
"""The mean return of the final evaluation; of a run without one, that of the last training episodes."""
COMPARISON = (KIND, "comparison")
"""The tag of a logged comparison; selectors skip MLflow runs that have it."""
KINDS: tuple[SelectorKind, ...] = ("run", "group", "name", "algorithm", "experiment")
PREFIXED: tuple[SelectorKind, ...] = ("tag", "param")
"""Kinds of selectors with a prefix: `tag:KEY=VALUE`, `param:KEY=VALUE`."""
QUOTES = dict.fromkeys(map(ord, '`"\\'))
PAGE = 500
READERS = 8
STATUS = {"RUNNING": "running", "SCHEDULED": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}


@dataclass(frozen=True)
class Run:
    """The run of one seed. `load` fills in its status, metrics and curve, and the parameters of its last start."""

    run_key: str
    run_id: str | None
    name: str
    group: str
    seed: int
    algorithm: str
    env: str
    experiment: str
    tracking_uri: str
    status: str
    """finished, stopped, failed, interrupted, killed or running."""
    started: int
    """Milliseconds since 1970."""
    params: Mapping[str, str] = field(repr=False)
    tags: Mapping[str, str] = field(repr=False)
    path: Path | None = field(default=None, repr=False)
    """The folder of its journal; None for a run that is only in the tracking store."""
    metrics: Mapping[str, float] = field(default_factory=dict, repr=False)
    """The last value of each metric."""
    evaluated: bool = True
    """False if the metric `FINAL` is the mean of the last training episodes."""
    steps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False, compare=False)
    values: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    @property
    def setting(self) -> str:
        """A key that is equal for runs that differ only in the seed."""
        return self.tags.get("pgzoo.setting") or repr(sorted((k, v) for k, v in self.params.items() if k != "seed"))

    @property
    def title(self) -> str:
        """The name without the seed: the same for all seeds of a setting."""
        return self.names[1]

    @property
    def names(self) -> tuple[str, str, str]:
        """The names that select it."""
        return names_of(self.name, self.seed, self.tags)

    def matches(self, kind: SelectorKind, selector: str) -> bool:
        """Return whether a selector of this kind matches this run."""
        match kind:
            case "run":
                return selector in (self.run_id, self.run_key)
            case "group":
                return selector == self.group
            case "name":
                return selector in self.names
            case "algorithm":
                return selector == self.algorithm
            case "experiment":
                return selector == self.experiment
            case "tag":
                key, value = key_value(selector)
                return self.tags.get(key) == value
            case "param":
                key, value = key_value(selector)
                return any(name in self.params and same(self.params[name], value) for name in param_names(key))


class RunIndex:
    """Finds the runs of a home directory and of a tracking store by selector.

    `warnings` collects what could not be searched.
    """

    def __init__(self, home: Home, tracking_uri: str | None, progress: ProgressCallback) -> None:
        self.home, self.progress = home, progress
        self.uri = resolve_uri(tracking_uri, home)
        # A store that the user names may have runs of other machines.
        self.explicit = self.uri != NO_STORE and bool(
            (tracking_uri or "").strip() or os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        )
        self.warnings: list[str] = []

    def select(self, selector: str) -> tuple[SelectorKind, list[Run]]:
        """Return the kind of the selector and all runs that it matches.

        Raises UnknownName if it matches none, UsageError for a tag or parameter without a value, StoreError if a
        store can't be read.
        """
        kinds = kinds_of(selector)
        if kinds[0] in PREFIXED and not key_value(selector)[1]:
            raise UsageError(f'"{selector}" has no value: write {kinds[0]}:KEY=VALUE.')
        kind, chosen = choose(selector, self.local)
        if self.explicit or (not chosen and self.uri != NO_STORE and self.home.database.exists()):
            try:
                known = {run.run_key for run in self.local}
                elsewhere = [run for run in self._remote(selector) if run.run_key not in known]
            except StoreError as error:
                if not chosen:
                    raise
                self.warnings.append(f"Only runs of this machine are compared. {error}")
            else:
                kind, chosen = choose(selector, [*self.local, *elsewhere])
        if not chosen:
            raise UnknownName(
                f'No run matches "{selector}" in {self.home.root} or {display_uri(self.uri)}.'
                f"{did_you_mean(selector, self._names())} "
                "Give an algorithm, a group, a name, a run key, an MLflow run id, an experiment, tag:KEY=VALUE or "
                "param:KEY=VALUE."
            )
        return kind, chosen

    @cached_property
    def local(self) -> list[Run]:
        """The runs of this machine's journals; if a store is given explicitly, only those that are shipped to it."""
        runs = []
        for folder in journal_folders(self.home):
            start = start_of_seed(folder)
            if start is not None and not (self.explicit and start.get("uri") != self.uri):
                runs.append(from_journal(folder, start))
        return runs

    def _remote(self, selector: str) -> list[Run]:
        """Return the runs of the store that match the selector, of the first kind that matches any."""
        found: dict[str, Run] = {}

        def question(client: Any) -> None:
            names = {e.experiment_id: e.name for e in search_experiments(client)}
            for kind in kinds_of(selector):
                for query, experiments in queries(kind, selector, names):
                    for run in pages(client, query, experiments, lambda n: self.progress("looking for runs", n, None)):
                        candidate = from_store(run, names, self.uri)
                        if candidate.matches(kind, selector) and KIND not in candidate.tags:
                            found[candidate.run_key] = candidate
                if found:
                    return

        query_store(self.uri, question, f'the runs of "{selector}"')
        return list(found.values())

    def _names(self) -> list[str]:
        known = {name for r in self.local for name in (r.algorithm, r.group, *r.names[1:])}
        known |= {r.experiment for r in self.local} | {f"tag:{k}={v}" for r in self.local for k, v in r.tags.items()}

        def question(client: Any) -> None:
            names = {e.experiment_id: e.name for e in search_experiments(client)}
            known.update(names.values())
            for run in client.search_runs(list(names), max_results=PAGE) if names else ():
                listed = from_store(run, names, self.uri)
                known.update((listed.algorithm, listed.group, *listed.names[1:]))

        if self.explicit or self.home.database.exists():
            query_store(self.uri, question, "the names of runs")
        return sorted(known - {""})


def kinds_of(selector: str) -> tuple[SelectorKind, ...]:
    """Return the kinds that a selector may be, in the order in which they are tried."""
    return next(((kind,) for kind in PREFIXED if selector.startswith(f"{kind}:")), KINDS)


def key_value(selector: str) -> tuple[str, str]:
    """Return KEY and VALUE of `tag:KEY=VALUE` or `param:KEY=VALUE`."""
    key, _, value = selector.partition(":")[2].partition("=")
    return key, value


def param_names(key: str) -> tuple[str, ...]:
    """Return the names under which a parameter may be logged: `estimator` is logged as `estimator.name`."""
    name = key.replace("-", "_")
    return (name, f"{name}.name") if name in ("estimator", "policy") else (name,)


def same(one: str, other: str) -> bool:
    """Return whether two parameter values are equal as text (ignoring case) or as numbers: 3e-4 equals 0.0003."""
    try:
        return one.lower() == other.lower() or float(one) == float(other)
    except ValueError:
        return False


def choose(selector: str, runs: Sequence[Run]) -> tuple[SelectorKind, list[Run]]:
    for kind in kinds_of(selector):
        if chosen := [run for run in runs if run.matches(kind, selector)]:
            return kind, sorted(chosen, key=lambda run: (run.env, run.seed, run.started))
    return "run", []


def from_journal(folder: Path, start: Record) -> Run:
    return Run(
        **identity(folder, start, read_json(folder / "run.json")),
        tracking_uri=start.get("uri", ""),
        status="",  # set by `load`
        params=start.get("params", {}),
        tags=start.get("tags", {}),
    )


def search_experiments(client: Any) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_experiments(max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def queries(kind: SelectorKind, selector: str, experiments: Mapping[str, str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield MLflow filters and the ids of experiments to search, which together return all runs of a selector."""
    quoted = '"' + selector.translate(dict.fromkeys(map(ord, '"%\\'))) + '"'
    match kind:
        case "run":
            if any(c not in "0123456789abcdef" for c in selector) or len(selector) != 32:
                yield f"tags.`pgzoo.run_key` = {quoted}", list(experiments)
            else:
                yield f"attributes.run_id = {quoted}", list(experiments)
        case "group":
            yield f"tags.`pgzoo.group` = {quoted}", list(experiments)
        case "name":
            yield f"attributes.run_name = {quoted}", list(experiments)
            yield f'attributes.run_name LIKE {quoted[:-1]} %"', list(experiments)
        case "algorithm":
            yield f"params.algorithm = {quoted}", list(experiments)
        case "experiment":
            if chosen := [i for i, name in experiments.items() if name == selector]:
                yield "", chosen
        case "tag":
            key, value = key_value(selector.translate(QUOTES))
            yield f'tags.`{key}` = "{value}"', list(experiments)
        case "param":
            key, value = key_value(selector.translate(QUOTES))
            texts = {value, value.capitalize()}  # booleans and None are logged as True, False, None
            with suppress(ValueError):
                texts.add(str(float(value)))
            for name in param_names(key):
                for text in sorted(texts):
                    yield f'params.`{name}` = "{text}"', list(experiments)


def pages(
    client: Any,
    query: str,
    experiments: Sequence[str],
    report: Callable[[int], None],
    order_by: Sequence[str] | None = None,
) -> Iterator[Any]:
    """Yield all runs that a filter matches, fetched page by page; calls `report` with their number so far."""
    token, count = None, 0
    while experiments:
        page = client.search_runs(list(experiments), query, max_results=PAGE, order_by=order_by, page_token=token)
        yield from page
        count += len(page)
        report(count)
        token = page.token
        if not token:
            return


def from_store(run: Any, experiments: Mapping[str, str], uri: str) -> Run:
    from pgzoo.tracking.store import check_run_id

    check_run_id(run.info.run_id)
    tags, params = run.data.tags, run.data.params
    experiment = experiments.get(run.info.experiment_id, "")
    seed = params.get("seed", "")
    status = tags.get("pgzoo.status") or STATUS.get(run.info.status, "killed")
    return Run(
        run_key=tags.get("pgzoo.run_key", run.info.run_id),
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        group=tags.get("pgzoo.group", ""),
        seed=int(seed) if seed.isdigit() else -1,
        algorithm=params.get("algorithm", ""),
        env=params.get("env", experiment),
        experiment=experiment,
        tracking_uri=uri,
        status=status,
        started=run.info.start_time or 0,
        params=params,
        tags=tags,
        metrics=run.data.metrics,
        evaluated=status in ("finished", "stopped") or is_evaluated(run.data.metrics),
    )


def is_evaluated(metrics: Mapping[str, float]) -> bool:
    """Return whether the final return of a run of a store is that of its last evaluation."""
    return FINAL not in metrics or math.isclose(metrics.get("eval/return_mean", math.nan), metrics[FINAL])


def load(runs: Sequence[Run], metric: str, progress: ProgressCallback) -> list[Run]:
    """Return the runs with their status, the last value of each metric and the curve of `metric`.

    The parameters and tags of a run that was resumed are those of its last start.

    Raises StoreError if the store can't be read.
    """
    loaded: dict[int, Run] = {}
    for place, run in enumerate(runs):
        if run.path is not None:
            loaded[place] = read_journal(run, run.path, metric)
            progress("reading runs", len(loaded), len(runs))
    elsewhere = [(place, with_latest_steps(run)) for place, run in enumerate(runs) if run.path is None]
    if elsewhere and (database := sqlite_path(elsewhere[0][1].tracking_uri)) is not None:
        for place, run in read_database(database, elsewhere, metric):
            loaded[place] = run
            progress("reading runs", len(loaded), len(runs))
    elif elsewhere:

        def question(client: Any) -> None:
            def history(item: tuple[int, Run]) -> tuple[int, Run]:
                points = client.get_metric_history(item[1].run_id, metric) if metric in item[1].metrics else []
                return item[0], with_curve(
                    item[1], {p.step: p.value for p in sorted(points, key=lambda p: p.timestamp)}
                )

            # parallel requests help with a remote server
            readers = READERS if elsewhere[0][1].tracking_uri.startswith("http") else 1
            with ThreadPoolExecutor(readers) as pool:
                for place, run in pool.map(history, elsewhere):
                    loaded[place] = run
                    progress("reading runs", len(loaded), len(runs))

        query_store(elsewhere[0][1].tracking_uri, question, f"the curves of {metric}")
    return [loaded[place] for place in range(len(runs))]


def read_database(database: Path, runs: Sequence[tuple[int, Run]], metric: str) -> Iterator[tuple[int, Run]]:
    """Yield (place, run with the curve of `metric`) from an SQLite store. Raises StoreError.

    MLflow's own query is slow in a store of 10,000 runs, because SQLite searches the index of all points
    of the metric. The `+` makes it use the index of the run instead.
    """
    query = "SELECT step, value FROM metrics WHERE run_uuid = ? AND +key = ? AND NOT is_nan ORDER BY timestamp"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=60.0)) as store:
            for place, run in runs:
                points = store.execute(query, (run.run_id, metric)) if metric in run.metrics else ()
                yield place, with_curve(run, dict(points))
    except sqlite3.Error as error:
        raise StoreError(f"Couldn't get the curves of {metric} from {database}: {error}") from error


def read_journal(run: Run, folder: Path, metric: str) -> Run:
    last: dict[str, float] = {}
    curve: dict[int, float] = {}
    params, tags, ended, evaluated = run.params, dict(run.tags), "", True
    step_of_evaluation, step_of_final = -1, -1
    for record, _ in records(folder):
        if record is None:
            continue
        match record["t"]:
            case "start":  # a resumed run may have more steps to do than at its first start
                params, ended = record.get("params", params), ""
                tags |= record.get("tags", {})
            case "tags":
                tags |= record["tags"]
            case "end":
                ended = tags.get("pgzoo.status") or STATUS.get(record["status"], "killed")
            case "update" | "evaluation":
                if is_final_evaluation(record):
                    step_of_evaluation = record["step"]
                if record["t"] == "update" and record.get("steps"):
                    if FINAL in record.get("m", ()):
                        step_of_final = record["steps"][-1]
                        evaluated = step_of_final == step_of_evaluation
                    elif record["steps"][-1] > step_of_final:  # resumed: its policy has changed since
                        last.pop(FINAL, None)
                last |= record.get("m", {})
                if metric in record.get("m", ()):
                    for step in record.get("steps", ()) if record["t"] == "update" else (record["step"],):
                        curve[step] = record["m"][metric]
    status = ended or ("running" if in_training(folder) else "killed")
    run = replace(run, status=status, params=params, tags=tags, metrics=last, evaluated=evaluated or FINAL not in last)
    return with_curve(run, curve)


def is_final_evaluation(record: Record) -> bool:
    """Return whether a record is an evaluation that gives a run its final return."""
    return (
        record["t"] == "evaluation"
        and record.get("final") is True
        and record.get("mode") == "sampled"
        and "eval/return_mean" in record.get("m", ())
    )


def with_latest_steps(run: Run) -> Run:
    """Return a run of a store with the number of steps to which it was resumed: MLflow can't change a parameter."""
    steps = run.tags.get("pgzoo.total_steps")
    return run if steps is None else replace(run, params={**run.params, "total_steps": steps})


def with_curve(run: Run, points: Mapping[int, float]) -> Run:
    kept = {step: value for step, value in points.items() if abs(step) < 2**63}
    steps = np.fromiter(kept.keys(), np.int64, len(kept))
    values = np.fromiter(kept.values(), np.float64, len(kept))
    order = np.argsort(steps, kind="stable")
    order = order[np.isfinite(values[order])]
    return replace(run, steps=steps[order], values=values[order])
