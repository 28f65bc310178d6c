"""Lists runs, newest first: those of this machine's journals, or those of a tracking store."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pgzoo.analysis.selection import (
    FINAL,
    STATUS,
    ProgressCallback,
    from_store,
    is_final_evaluation,
    pages,
    search_experiments,
)
from pgzoo.tracking.home import Home
from pgzoo.tracking.journal import Record
from pgzoo.tracking.ledger import KIND, in_training, journal_folders, names_of, read_json, start_of_seed
from pgzoo.tracking.lookup import query_store

__all__ = ["STATUSES", "ListedRun", "Listing", "RunFilter", "list_local", "list_store"]

STATUSES = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "killed": "KILLED",
    "running": "RUNNING",
}
"""The statuses of runs, and MLflow's status for each."""
TAIL = 2**14
"""Number of bytes that are read from the end of a journal first; more only if they contain no point of a curve."""
Rows = dict[str, list["ListedRun"]]


@dataclass(frozen=True)
class ListedRun:
    """The run of one seed, as `pgzoo runs` shows it."""

    run_key: str
    run_id: str | None
    name: str
    group: str
    seed: int
    algorithm: str
    env: str
    started: int
    """Milliseconds since 1970."""
    status: str = ""
    """One of `STATUSES`; empty until the end of the journal has been read."""
    steps: int | None = None
    """Environment steps; None if the store doesn't know them, as for most runs in training."""
    final_return: float | None = None
    """The mean return of the final evaluation; None before that, and for a run that ended without one."""
    path: Path | None = field(default=None, repr=False)
    """The folder of the journal; None for a run of a store."""

    @property
    def title(self) -> str:
        """The name without the seed."""
        return self.name.removesuffix(f" s{self.seed}")


@dataclass(frozen=True)
class RunFilter:
    """Which runs are listed: those that match everything that is given here."""

    algorithm: str = ""
    env: str = ""
    status: str = ""
    name: str = ""
    """The name, with or without the seed and the setting of a sweep."""
    tags: Mapping[str, str] = field(default_factory=dict)
    since: int = 0
    """The earliest start, in milliseconds since 1970."""

    def matches(self, run: ListedRun, tags: Mapping[str, str]) -> bool:
        """Return whether a run with these tags matches, not considering its status."""
        return (
            self.algorithm in ("", run.algorithm)
            and self.env in ("", run.env)
            and (not self.name or self.name in names_of(run.name, run.seed, tags))
            and run.started >= self.since
            and all(tags.get(key) == value for key, value in self.tags.items())
        )

    def query(self) -> str:
        """Return the MLflow filter; what it can't express is left to `matches`."""
        clauses = ["tags.`pgzoo.run_key` != ''"]
        clauses += [f"params.{k} = {quote(v)}" for k, v in (("algorithm", self.algorithm), ("env", self.env)) if v]
        clauses += [f"attributes.run_name LIKE {quote(self.name)[:-1]}%'"] if self.name else []
        clauses += [f"tags.`{key.replace('`', '')}` = {quote(value)}" for key, value in self.tags.items()]
        clauses += [f"attributes.start_time >= {self.since}"] if self.since else []
        clauses += [f"attributes.status = '{STATUSES[self.status]}'"] if self.status else []
        return " AND ".join(clauses)


@dataclass(frozen=True)
class Listing:
    """Rows of runs, newest first: a row has the runs of a group, or one run."""

    rows: tuple[tuple[ListedRun, ...], ...]
    more: bool
    """Whether there may be more rows than were asked for."""


def list_local(home: Home, wanted: RunFilter, limit: int, by_group: bool, progress: ProgressCallback) -> Listing:
    """List runs of this machine's journals. Of each journal, only the start and the end are read.

    `limit` is the maximum number of rows, 0 for all. The tags that are compared are those with which a run started.
    """
    candidates: Rows = defaultdict(list)
    for count, folder in enumerate(journal_folders(home), 1):
        start = start_of_seed(folder)
        if start is not None:
            run = from_start(folder, start)
            if wanted.matches(run, start.get("tags", {})):
                candidates[run.group if by_group else run.run_key].append(run)
        progress("looking for runs", count, None)
    rows: list[tuple[ListedRun, ...]] = []
    newest = sorted(candidates.values(), key=lambda runs: max(run.started for run in runs), reverse=True)
    for runs in newest:
        if limit and len(rows) == limit:
            return Listing(tuple(rows), more=True)
        ended = [read_end(run) for run in runs]
        if chosen := [run for run in ended if wanted.status in ("", run.status)]:
            rows.append(in_order(chosen))
    return Listing(tuple(rows), more=False)


def list_store(uri: str, wanted: RunFilter, limit: int, by_group: bool, progress: ProgressCallback) -> Listing:
    """List runs of a tracking store, fetched page by page until there are `limit` rows (0: all).

    Raises StoreError if the store can't be read.
    """
    found: Rows = defaultdict(list)
    complete = True

    def report(count: int) -> None:
        progress("looking for runs", count, None)

    def question(client: Any) -> None:
        nonlocal complete
        names = {e.experiment_id: e.name for e in search_experiments(client)}
        for run in listed(client, wanted, wanted.query(), names, uri, report):
            key = run.group if by_group else run.run_key
            if limit and key not in found and len(found) == limit:
                complete = False
                break
            found[key].append(run)
        if by_group and not complete:  # older runs of these groups may be on later pages
            for group in found:
                query = f"{wanted.query()} AND tags.`pgzoo.group` = {quote(group)}"
                found[group] = list(listed(client, wanted, query, names, uri, lambda count: None))

    query_store(uri, question, "the list of runs")
    return Listing(tuple(in_order(runs) for runs in found.values()), more=not complete)


def listed(
    client: Any, wanted: RunFilter, query: str, names: Mapping[str, str], uri: str, report: Callable[[int], None]
) -> Iterator[ListedRun]:
    """Yield the runs of a store that match, newest first."""
    for answer in pages(client, query, list(names), report, order_by=["attributes.start_time DESC"]):
        run = from_store(answer, names, uri)
        if KIND in run.tags:
            continue
        # The tag is out of date in a run that was resumed after it had ended.
        status = run.tags.get("pgzoo.status", "")
        if STATUSES.get(status) != answer.info.status:
            status = STATUS.get(answer.info.status, "killed")
        steps = run.tags.get("pgzoo.env_steps", "")
        one = ListedRun(
            run_key=run.run_key,
            run_id=run.run_id,
            name=run.name,
            group=run.group or run.run_key,
            seed=run.seed,
            algorithm=run.algorithm,
            env=run.env,
            started=run.started,
            status=status,
            steps=int(steps) if steps.isdigit() else None,
            final_return=run.metrics.get(FINAL) if run.evaluated else None,
        )
        if wanted.matches(one, run.tags) and wanted.status in ("", one.status):
            yield one


def quote(text: str) -> str:
    """Return a text as a string of MLflow's filter language, without the characters that it can't express."""
    return "'" + text.translate(dict.fromkeys(map(ord, "'%\\"))) + "'"


def in_order(runs: Iterable[ListedRun]) -> tuple[ListedRun, ...]:
    return tuple(sorted(runs, key=lambda run: (run.title, run.seed, run.started)))


def from_start(folder: Path, start: Record) -> ListedRun:
    """Return a run as the start record of its journal describes it."""
    return ListedRun(
        run_key=start["key"],
        run_id=None,
        name=start["name"],
        group=start["group"],
        seed=start["seed"],
        algorithm=start["algorithm"],
        env=start["env"],
        started=start["ts"],
        path=folder,
    )


def read_end(run: ListedRun) -> ListedRun:
    """Return a local run with its id, status, steps and final return, read from the end of its journal.

    What was known of a run stays valid when it is started again, until newer records replace it.
    """
    assert run.path is not None
    status, steps, final, counted, ended = "", -1, None, -1, False
    step_of_evaluation, step_of_final = -1, -1
    for record in last_records(run.path):
        match record["t"]:
            case "start":
                steps, counted = max(steps, counted), -1
            case "tags":
                status = record["tags"].get("pgzoo.status", status)
                if (text := record["tags"].get("pgzoo.env_steps", "")).isdigit():
                    counted = int(text)
            case "update" if record.get("steps"):
                steps = max(steps, *record["steps"])
                if FINAL in record.get("m", ()):
                    step_of_final = record["steps"][-1]
                    final = record["m"][FINAL] if step_of_final == step_of_evaluation else None
                elif record["steps"][-1] > step_of_final:
                    final = None
            case "evaluation":
                steps = max(steps, record["step"])
                if is_final_evaluation(record):
                    step_of_evaluation = record["step"]
            case "end" if STATUSES.get(status) != record["status"]:
                status = STATUS.get(record["status"], "killed")
        ended = record["t"] == "end"
    if not ended:
        status = "running" if in_training(run.path) else "killed"
    steps = counted if counted >= 0 else steps
    return replace(
        run,
        run_id=read_json(run.path / "run.json").get("run_id"),
        status=status,
        steps=steps if steps >= 0 else None,
        final_return=final if final is not None and math.isfinite(final) else None,
    )


def last_records(folder: Path) -> list[Record]:
    """Return the last records of a journal: `enough` of them, if it has so many."""
    size = TAIL
    with (folder / "journal.jsonl").open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while True:
            begin = max(0, end - size)
            file.seek(begin)
            lines = file.read(end - begin).split(b"\n")[1 if begin else 0 : -1]
            found = [record for record in map(parse, lines) if record is not None]
            if not begin or enough(found):
                return found
            size *= 8


def enough(found: Sequence[Record]) -> bool:
    """Return whether the last records of a journal contain a point of a curve.

    What follows it has the final evaluation and the summary, also if the run was started again after its end.
    """
    return any(
        record.get("steps") and not any(name.startswith("summary/") for name in record.get("m", ())) for record in found
    )


def parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and "t" in record else None
