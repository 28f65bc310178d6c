"""Runs written directly into the tables of an SQLite store: listing, finding and comparing them, and their curves."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import pgzoo
from pgzoo.analysis import selection
from pgzoo.analysis.listing import ListedRun, RunFilter, list_store
from pgzoo.analysis.selection import RunIndex, load
from pgzoo.errors import StoreError
from pgzoo.tracking import Home

Point = tuple[str, float, int, int]


class Tables:
    """An SQLite store whose tables are filled directly."""

    def __init__(self, database: Path) -> None:
        self.database, self.uri, self.count = database, f"sqlite:///{database}", 0
        self.insert(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
            "SELECT 7, 'zoo', artifact_location, 'active', workspace FROM experiments LIMIT 1"
        )

    def insert(self, query: str, *rows: tuple[Any, ...]) -> None:
        with closing(sqlite3.connect(self.database)) as store:
            store.executemany(query, rows) if rows else store.execute(query)
            store.commit()

    def add(self, algorithm: str, seed: int, group: str, *points: Point, status: str = "FINISHED", **tags: str) -> str:
        """Add a run; each is a second newer than the one before. Points are (metric, value, timestamp, step)."""
        self.count += 1
        run, begin = f"{self.count:032x}", 1_790_000_000_000 + 1000 * self.count
        name = f"{algorithm} s{seed}"
        self.insert(
            "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id, start_time, end_time, user_id) "
            "VALUES (?, ?, ?, 'active', 7, ?, ?, 'me')",
            (run, name, status, begin, begin + 500),
        )
        params = {"algorithm": algorithm, "env": "Bandit-v0", "seed": str(seed)}
        known = {"pgzoo.run_key": f"key-{self.count}", "pgzoo.group": group, "pgzoo.setting": algorithm, **tags}
        known["mlflow.runName"] = name
        self.insert("INSERT INTO params (run_uuid, key, value) VALUES (?, ?, ?)", *((run, *p) for p in params.items()))
        self.insert("INSERT INTO tags (run_uuid, key, value) VALUES (?, ?, ?)", *((run, *t) for t in known.items()))
        latest = {point[0]: point for point in sorted(points, key=lambda point: point[3])}
        for table, kept in (("metrics", points), ("latest_metrics", tuple(latest.values()))):
            rows = [(run, key, 0.0 if v != v else v, ts, step, v != v) for key, v, ts, step in kept]
            query = f"INSERT INTO {table} (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"
            if rows:
                self.insert(query, *rows)
        return run


@pytest.fixture
def tables(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_database, tmp_path / "store.db")
    return Tables(tmp_path / "store.db")


def listed(tables: Tables, limit: int = 0, by_group: bool = True, **wanted: Any) -> tuple[list[list[str]], bool]:
    """Return the names of the runs in each row, and whether there are more rows."""
    found = list_store(tables.uri, RunFilter(**wanted), limit, by_group, lambda *_: None)
    return [[run.name for run in row] for row in found.rows], found.more


def test_runs_of_a_store_are_listed_by_group_newest_first(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "PAGE", 2)
    done = {"pgzoo.status": "stopped", "pgzoo.env_steps": "300"}
    tables.add("vpg", 0, "a", ("summary/return_final", 7.5, 1, 300), **done)
    tables.add("ppo", 1, "b")
    tables.add("vpg", 1, "a", status="FAILED", color="red")
    tables.add("ppo", 0, "b", status="RUNNING", **done)  # resumed: its tag is out of date
    tables.add("ppo", 3, "c", status="KILLED")
    tables.add("ppo", 4, "d", **{"pgzoo.kind": "study"})
    tables.insert("UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = ?", ("ppo s3",))

    assert listed(tables) == ([["ppo s0", "ppo s1"], ["vpg s0", "vpg s1"]], False)
    assert listed(tables, by_group=False) == ([["ppo s0"], ["vpg s1"], ["ppo s1"], ["vpg s0"]], False)
    # a row has all runs of its group, also those on pages beyond the limit
    assert listed(tables, limit=1) == ([["ppo s0", "ppo s1"]], True)
    assert listed(tables, limit=3, by_group=False) == ([["ppo s0"], ["vpg s1"], ["ppo s1"]], True)

    assert listed(tables, algorithm="vpg")[0] == [["vpg s0", "vpg s1"]]
    assert listed(tables, name="ppo")[0] == [["ppo s0", "ppo s1"]] and listed(tables, name="ppo s1")[0] == [["ppo s1"]]
    assert listed(tables, tags={"color": "red"})[0] == [["vpg s1"]] and listed(tables, env="other") == ([], False)
    assert listed(tables, since=1_790_000_003_000)[0] == [["ppo s0"], ["vpg s1"]]
    statuses = {status: listed(tables, status=status)[0] for status in ("stopped", "finished", "failed", "running")}
    assert statuses == {
        "stopped": [["vpg s0"]],
        "finished": [["ppo s1"]],
        "failed": [["vpg s1"]],
        "running": [["ppo s0"]],
    }

    first: ListedRun = list_store(tables.uri, RunFilter(algorithm="vpg"), 0, True, lambda *_: None).rows[0][0]
    assert (first.seed, first.group, first.steps, first.final_return) == (0, "a", 300, 7.5)
    assert (first.run_key, first.run_id, first.started) == ("key-1", f"{1:032x}", 1_790_000_001_000)


def test_a_file_that_is_not_a_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"Couldn't get the list of runs from sqlite:.*store\.db"):
        list_store(f"sqlite:///{tmp_path}/store.db", RunFilter(), 0, True, lambda *_: None)


def test_curves_are_read_from_the_tables(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = "train/return_mean"
    points: list[Point] = [(curve, 5.0, 30, 2000), (curve, 1.0, 10, 1000), (curve, 2.0, 40, 1000)]  # step 1000 twice
    points += [(curve, float("nan"), 50, 3000), (curve, float("inf"), 60, 4000), ("loss/policy", 9.0, 10, 1000)]
    tables.add("vpg", 0, "a", *points)
    tables.add("vpg", 1, "a", ("loss/policy", 8.0, 10, 1000))
    _, runs = RunIndex(Home.find(), tables.uri, lambda *_: None).select("vpg")
    read, without = load(runs, curve, lambda *_: None)
    assert read.steps.tolist() == [1000, 2000] and read.values.tolist() == [2.0, 5.0]  # of two points, the later one
    assert read.steps.dtype == "int64" and without.steps.size == 0 and without.metrics == {"loss/policy": 8.0}

    # through MLflow, as from a server, the curves are the same
    monkeypatch.setattr(selection, "sqlite_path", lambda uri: None)
    same, none = load(runs, curve, lambda *_: None)
    assert same.steps.tolist() == read.steps.tolist() and same.values.tolist() == read.values.tolist()
    assert none.steps.size == 0


def test_runs_of_a_store_are_compared(tables: Tables) -> None:
    for seed in range(3):
        for algorithm, gain in (("vpg", 1.0), ("ppo", 4.0)):
            rise: list[Point] = [("train/return_mean", gain * step, step, 1000 * step) for step in range(1, 4)]
            tables.add(algorithm, seed, algorithm, *rise, ("summary/return_final", gain * 3 + seed, 4, 3000))
    found = pgzoo.compare("vpg", "ppo", tracking_uri=tables.uri)
    assert [final.mean.value for final in found.blocks[0].final] == [4.0, 13.0]


def test_a_resumed_run_of_a_store_has_its_latest_number_of_steps(tables: Tables) -> None:
    for seed, tags in enumerate(({}, {"pgzoo.total_steps": "3000"})):
        run = tables.add("ppo", seed, "a", ("summary/return_final", 1.0, 1, 300), **tags)
        tables.insert("INSERT INTO params (run_uuid, key, value) VALUES (?, 'total_steps', '300')", (run,))
    _, runs = RunIndex(Home.find(), tables.uri, lambda *_: None).select("a")
    assert [run.params["total_steps"] for run in load(runs, "train/return_mean", lambda *_: None)] == ["300", "3000"]


def test_the_final_return_of_a_run_of_a_store_that_failed_before_its_evaluation_is_left_out(tables: Tables) -> None:
    final: Point = ("summary/return_final", 7.5, 2, 300)
    failed = {"status": "FAILED", "pgzoo.status": "failed"}
    tables.add("ppo", 0, "a", final)
    tables.add("ppo", 1, "a", final, **failed)
    tables.add("ppo", 2, "a", final, ("eval/return_mean", 6.0, 1, 200), **failed)  # evaluated during training
    tables.add(
        "ppo", 3, "a", final, ("eval/return_mean", 7.5, 1, 300), status="KILLED", **{"pgzoo.status": "interrupted"}
    )
    (row,) = list_store(tables.uri, RunFilter(), 0, True, lambda *_: None).rows
    assert [run.final_return for run in row] == [7.5, None, None, 7.5]
    _, runs = RunIndex(Home.find(), tables.uri, lambda *_: None).select("a")
    assert [run.evaluated for run in runs] == [True, False, False, True]


def test_a_numeric_parameter_is_found_in_a_store_in_two_spellings(tables: Tables) -> None:
    for seed, value in enumerate(("0.0003", "3e-4", "0.0004")):
        tables.insert(
            "INSERT INTO params (run_uuid, key, value) VALUES (?, 'learning_rate', ?)",
            (tables.add("ppo", seed, "a"), value),
        )
    kind, runs = RunIndex(Home.find(), tables.uri, lambda *_: None).select("param:learning_rate=3e-4")
    assert (kind, [run.seed for run in runs]) == ("param", [0, 1])
