"""Which runs a comparison is about: selectors, and the runs that they mean, from journals and tracking stores.

The journals of this machine are asked first. A tracking store is read page by page where it is named (by
`--tracking-uri` or `MLFLOW_TRACKING_URI`), and the embedded one where no journal knows a selector.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pgzoo.errors import StoreError, UnknownName, UsageError, did_you_mean
from pgzoo.tracking.home import Home, display_uri, resolve_uri
from pgzoo.tracking.journal import Record, records
from pgzoo.tracking.ledger import identity, in_training, journal_folders, read_json, start_of
from pgzoo.tracking.lookup import ask

__all__ = ["COMPARISON", "ProgressCallback", "Run", "RunIndex", "SelectorKind", "load"]

SelectorKind: TypeAlias = Literal["run", "group", "name", "algorithm", "tag", "param", "experiment"]
ProgressCallback: TypeAlias = Callable[[str, int, int | None], None]
"""Told what is being read, how many there are so far, and of how many (None: nobody knows yet)."""

COMPARISON = ("pgzoo.kind", "comparison")
"""The tag of a comparison that was logged; it is no run to compare."""
KINDS: tuple[SelectorKind, ...] = ("run", "group", "name", "algorithm", "experiment")
PREFIXED: tuple[SelectorKind, ...] = ("tag", "param")
"""Kinds that a selector names itself: `tag:KEY=VALUE`, `param:KEY=VALUE`."""
UNQUOTABLE = dict.fromkeys(map(ord, '`"\\'))
PAGE = 500
READERS = 8
STATUS = {"RUNNING": "running", "SCHEDULED": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}


@dataclass(frozen=True)
class Run:
    """One seed's run, and of its metrics what a comparison needs once it was loaded."""

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
    """The journal's folder, None where only the tracking store knows the run."""
    metrics: Mapping[str, float] = field(default_factory=dict, repr=False)
    """The last value of each metric."""
    steps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False, compare=False)
    values: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    @property
    def setting(self) -> str:
        """What is equal for runs that differ in nothing but the seed."""
        told = self.tags.get("pgzoo.setting")
        return told or repr(sorted((k, v) for k, v in self.params.items() if k != "seed"))

    @property
    def title(self) -> str:
        """The name without the seed: the same for all seeds of a setting."""
        return self.name.removesuffix(f" s{self.seed}")

    def answers_to(self, kind: SelectorKind, selector: str) -> bool:
        """Say whether a selector of this kind means this run."""
        match kind:
            case "run":
                return selector in (self.run_id, self.run_key)
            case "group":
                return selector == self.group
            case "name":
                return selector in (self.name, self.title)
            case "algorithm":
                return selector == self.algorithm
            case "experiment":
                return selector == self.experiment
            case "tag":
                key, value = key_value(selector)
                return self.tags.get(key) == value
            case "param":
                key, value = key_value(selector)
                return key in self.params and same(self.params[key], value)


class RunIndex:
    """The runs of a home and of a tracking store, by selector."""

    def __init__(self, home: Home, tracking_uri: str | None, progress: ProgressCallback) -> None:
        self.home, self.progress = home, progress
        self.uri = resolve_uri(tracking_uri, home)
        # A store that is named is the one that is meant, and may know the runs of other machines.
        self.named = bool((tracking_uri or "").strip() or os.environ.get("MLFLOW_TRACKING_URI", "").strip())
        self.warnings: list[str] = []

    def select(self, selector: str) -> tuple[SelectorKind, list[Run]]:
        """Return what kind of selector this is, and all runs that it means.

        Raises UnknownName if it means none, UsageError for a tag or parameter without a value, StoreError if a store
        can't be asked.
        """
        kinds = kinds_of(selector)
        if kinds[0] in PREFIXED and not key_value(selector)[1]:
            raise UsageError(f'"{selector}" is no {kinds[0]}: write {kinds[0]}:KEY=VALUE.')
        kind, chosen = choose(selector, self.local)
        if self.named or (not chosen and self.home.database.exists()):
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
                f'No run answers to "{selector}" in {self.home.root} or {display_uri(self.uri)}.'
                f"{did_you_mean(selector, self._names())} "
                "Give an algorithm, a group, a name, a run key, an MLflow run id, an experiment, tag:KEY=VALUE or "
                "param:KEY=VALUE."
            )
        return kind, chosen

    @cached_property
    def local(self) -> list[Run]:
        """The runs of this machine's journals; with a store that was named, those that are shipped there."""
        runs = []
        for folder in journal_folders(self.home):
            start = start_of(folder)
            if start is not None and not (self.named and start["uri"] != self.uri):
                runs.append(from_journal(folder, start))
        return runs

    def _remote(self, selector: str) -> list[Run]:
        """Ask the store for the runs of the first kind of selector that means any."""
        found: list[Run] = []

        def question(client: Any) -> None:
            names = {e.experiment_id: e.name for e in search_experiments(client)}
            for kind in kinds_of(selector):
                for query, experiments in queries(client, kind, selector, names):
                    for run in pages(client, query, experiments, lambda n: self.progress("looking for runs", n, None)):
                        told = from_store(run, names, self.uri)
                        if told.answers_to(kind, selector) and told.tags.get(COMPARISON[0]) != COMPARISON[1]:
                            found.append(told)
                if found:
                    return

        ask(self.uri, question, f'the runs of "{selector}"')
        return found

    def _names(self) -> list[str]:
        known = {name for r in self.local for name in (r.algorithm, r.group, r.title)}
        known |= {r.experiment for r in self.local} | {f"tag:{k}={v}" for r in self.local for k, v in r.tags.items()}

        def question(client: Any) -> None:
            names = {e.experiment_id: e.name for e in search_experiments(client)}
            known.update(names.values())
            for run in client.search_runs(list(names), max_results=PAGE) if names else ():
                told = from_store(run, names, self.uri)
                known.update((told.algorithm, told.group, told.title))

        if self.named or self.home.database.exists():
            ask(self.uri, question, "the names of runs")
        return sorted(known - {""})


def kinds_of(selector: str) -> tuple[SelectorKind, ...]:
    """What a selector may be, what goes first first."""
    return next(((kind,) for kind in PREFIXED if selector.startswith(f"{kind}:")), KINDS)


def key_value(selector: str) -> tuple[str, str]:
    """Return KEY and VALUE of `tag:KEY=VALUE` or `param:KEY=VALUE`."""
    key, _, value = selector.partition(":")[2].partition("=")
    return key, value


def same(one: str, other: str) -> bool:
    """Whether two texts are equal, or numbers that are: 3e-4 is 0.0003."""
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False


def choose(selector: str, runs: Sequence[Run]) -> tuple[SelectorKind, list[Run]]:
    for kind in kinds_of(selector):
        if chosen := [run for run in runs if run.answers_to(kind, selector)]:
            return kind, sorted(chosen, key=lambda run: (run.env, run.seed, run.started))
    return "run", []


def from_journal(folder: Path, start: Record) -> Run:
    return Run(
        **identity(folder, start, read_json(folder / "run.json")),
        tracking_uri=start["uri"],
        status="",  # known once it is loaded
        params=start["params"],
        tags=start["tags"],
    )


def search_experiments(client: Any) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_experiments(max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def queries(
    client: Any, kind: SelectorKind, selector: str, experiments: Mapping[str, str]
) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the filters, and the experiments to search, that give at least the runs of a selector."""
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
            yield f'attributes.run_name LIKE {quoted[:-1]} s%"', list(experiments)
        case "algorithm":
            yield f"params.algorithm = {quoted}", list(experiments)
        case "experiment":
            if chosen := [i for i, name in experiments.items() if name == selector]:
                yield "", chosen
        case "tag":
            key, value = key_value(selector.translate(UNQUOTABLE))
            yield f'tags.`{key}` = "{value}"', list(experiments)
        case "param":
            key, value = key_value(selector.translate(UNQUOTABLE))
            texts = {value}
            with suppress(ValueError):
                texts.add(str(float(value)))  # as it is logged
            for text in sorted(texts):
                yield f'params.`{key}` = "{text}"', list(experiments)


def pages(client: Any, query: str, experiments: Sequence[str], tell: Callable[[int], None]) -> Iterator[Any]:
    """Yield the runs that a filter finds, however many, a page at a time."""
    token, count = None, 0
    while experiments:
        page = client.search_runs(list(experiments), query, max_results=PAGE, page_token=token)
        yield from page
        count += len(page)
        tell(count)
        token = page.token
        if not token:
            return


def from_store(run: Any, experiments: Mapping[str, str], uri: str) -> Run:
    tags, params = run.data.tags, run.data.params
    experiment = experiments.get(run.info.experiment_id, "")
    seed = params.get("seed", "")
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
        status=tags.get("pgzoo.status") or STATUS.get(run.info.status, "killed"),
        started=run.info.start_time or 0,
        params=params,
        tags=tags,
        metrics=run.data.metrics,
    )


def load(runs: Sequence[Run], metric: str, progress: ProgressCallback) -> list[Run]:
    """Return the runs with the curve of `metric`, all metrics' last values and how they ended.

    Raises StoreError if the store can't be read.
    """
    loaded: dict[int, Run] = {}
    for place, run in enumerate(runs):
        if run.path is not None:
            loaded[place] = read_journal(run, run.path, metric)
            progress("reading runs", len(loaded), len(runs))
    elsewhere = [(place, run) for place, run in enumerate(runs) if run.path is None]
    if elsewhere:

        def question(client: Any) -> None:
            def history(item: tuple[int, Run]) -> tuple[int, Run]:
                points = client.get_metric_history(item[1].run_id, metric) if metric in item[1].metrics else []
                return item[0], with_curve(
                    item[1], {p.step: p.value for p in sorted(points, key=lambda p: p.timestamp)}
                )

            # one SQLite file gains nothing from many readers, a server far away does
            readers = READERS if elsewhere[0][1].tracking_uri.startswith("http") else 1
            with ThreadPoolExecutor(readers) as pool:
                for place, run in pool.map(history, elsewhere):
                    loaded[place] = run
                    progress("reading runs", len(loaded), len(runs))

        ask(elsewhere[0][1].tracking_uri, question, f"the curves of {metric}")
    return [loaded[place] for place in range(len(runs))]


def read_journal(run: Run, folder: Path, metric: str) -> Run:
    last: dict[str, float] = {}
    curve: dict[int, float] = {}
    tags, ended = dict(run.tags), ""
    for record, _ in records(folder):
        if record is None:
            continue
        match record["t"]:
            case "start":
                ended = ""
            case "tags":
                tags |= record["tags"]
            case "end":
                ended = tags.get("pgzoo.status") or STATUS.get(record["status"], "killed")
            case "update" | "evaluation":
                last |= record.get("m", {})
                if metric in record.get("m", ()):
                    for step in record.get("steps", ()) if record["t"] == "update" else (record["step"],):
                        curve[step] = record["m"][metric]
    status = ended or ("running" if in_training(folder) else "killed")
    return with_curve(replace(run, status=status, tags=tags, metrics=last), curve)


def with_curve(run: Run, points: Mapping[int, float]) -> Run:
    kept = sorted((int(step), float(value)) for step, value in points.items() if np.isfinite(value))
    steps, values = zip(*kept, strict=True) if kept else ((), ())
    return replace(run, steps=np.array(steps, np.int64), values=np.array(values, np.float64))
