"""`pgzoo compare` on real runs and real stores."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from program import Folder

from pgzoo.analysis import statistics

if TYPE_CHECKING:
    from program import Server

    Two = tuple[Folder, dict[str, Any], dict[str, Any]]

SHORT = ("reinforce", "--env", "CartPole-v1", "--seeds", "3", "--total-steps", "3000", "--eval-episodes", "8")
MANY = 520


def write_runs(database: Path) -> None:
    """Insert runs of two algorithms into an existing store as rows; through MLflow, it would take half a minute."""
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for algorithm, count, level in (("x", MANY, 100.0), ("y", 12, 300.0)):
        for seed in range(count):
            run, final = uuid.uuid4().hex, level + seed % 7
            rows["runs"].append((run, f"{algorithm} s{seed}", "FINISHED", "active", 7, 1000, 9000, "me"))
            curve = [("train/return_mean", final * step / 3, step, 1000 * step) for step in range(1, 4)]
            curve.append(("summary/return_final", final, 3, 3000))
            rows["metrics"] += [(run, *point, False) for point in curve]
            rows["latest_metrics"] += [(run, *point, False) for point in curve[-2:]]
            params = {"algorithm": algorithm, "env": "E-v1", "seed": str(seed)}
            rows["params"] += [(run, *item) for item in params.items()]
            tags = {"pgzoo.run_key": f"{algorithm}{seed}", "mlflow.runName": f"{algorithm} s{seed}"}
            rows["tags"] += [(run, *item) for item in tags.items()]
    point = ("run_uuid", "key", "value", "timestamp", "step", "is_nan")
    columns = {
        "runs": ("run_uuid", "name", "status", "lifecycle_stage", "experiment_id", "start_time", "end_time", "user_id"),
        "metrics": point,
        "latest_metrics": point,
        "params": ("run_uuid", "key", "value"),
        "tags": ("run_uuid", "key", "value"),
    }
    with closing(sqlite3.connect(database)) as store, store:
        store.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
            "SELECT 7, 'many', artifact_location, 'active', workspace FROM experiments LIMIT 1"
        )
        for table, names in columns.items():
            marks = ", ".join("?" for _ in names)
            store.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows[table])


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Two]:
    """A folder with two variants of an algorithm, three seeds each, in a separate experiment."""
    folder = Folder(tmp_path_factory.mktemp("two"), empty_database, forks=True)
    a = folder.run(*SHORT, "--name", "a", "--experiment", "compared", "--tag", "variant=one")
    b = folder.run(*SHORT, "--name", "b", "--experiment", "compared", "--baseline", "none")
    yield folder, a, b
    folder.close()


def test_compare_prints_statistics_and_writes_reports(two: Two) -> None:
    folder, a, b = two
    out, err = folder.pgzoo(
        "compare", "a", "b", "--no-progress", "--json", "--out", "r.html", "--out", "r.png", "--out", "r.json"
    )
    answer = folder.parse(out)
    assert err == ""
    (found,) = answer["comparisons"]
    for label, trained in (("a", a), ("b", b)):
        finals = [seed["return_mean"] for seed in trained["seeds"]]
        (side,) = (side for side in answer["sides"] if side["label"] == label)
        assert [run["score"] for run in side["runs"]] == pytest.approx(finals)
        assert [run["run_id"] for run in side["runs"]] == [seed["run_id"] for seed in trained["seeds"]]
        expected = statistics.estimate([np.array(finals)], statistics.mean)
        assert found["final"][label]["mean"]["low"] == pytest.approx(expected.low)
    assert found["pairs"][0]["matched_seeds"] == 3
    assert found["area"]["a"]["seeds"] == 3
    assert answer["differences"] == {"baseline": {"a": "mean", "b": "none"}}
    assert (folder.path / "r.html").read_text().startswith("<!doctype html>")
    assert (folder.path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert {k: answer[k] for k in ("sides", "comparisons")} == {
        k: v for k, v in json.loads((folder.path / "r.json").read_text()).items() if k in ("sides", "comparisons")
    }


def test_compare_gives_the_same_answer_from_the_store_and_the_journals(two: Two, tmp_path: Path) -> None:
    folder, *_ = two
    here = folder.parse(folder.pgzoo("compare", "a", "b", "--json")[0])
    store = f"sqlite:///{folder.path}/mlflow.db"
    elsewhere = type(folder)(tmp_path)
    there = elsewhere.parse(elsewhere.pgzoo("compare", "a", "b", "--json", "--tracking-uri", store)[0])
    assert there == here
    tagged = elsewhere.pgzoo("compare", "tag:variant=one", "b", "--json", MLFLOW_TRACKING_URI=store)
    assert elsewhere.parse(tagged[0])["comparisons"][0]["final"]["b"] == here["comparisons"][0]["final"]["b"]
    assert elsewhere.created == set()


def test_a_logged_comparison_is_an_mlflow_run_and_never_compared_itself(two: Two, tmp_path: Path) -> None:
    folder, *_ = two
    answer = folder.parse(folder.pgzoo("compare", "a", "b", "--log", "--json")[0])
    (run,) = folder.ask("[look(r) for r in runs('compared') if r.info.run_name == 'a vs b']")
    assert (run["id"], run["status"], run["tags"]["pgzoo.kind"]) == (answer["run_id"], "FINISHED", "comparison")
    assert sorted(run["files"]) == ["report.html", "report.json", "report.png"]
    assert (run["params"]["side.1"], run["params"]["env"]) == ("a", "CartPole-v1")
    assert run["tags"]["mlflow.source.name"] == "pgzoo compare a b --log --json"
    assert "P(a > b)" in run["tags"]["mlflow.note.content"]
    final = folder.ask(f"client.get_run({answer['run_id']!r}).data.metrics")
    assert final["CartPole-v1/a/iqm"] == pytest.approx(answer["comparisons"][0]["final"]["a"]["iqm"]["value"])
    assert final["CartPole-v1/a vs b/improvement"] == answer["comparisons"][0]["pairs"][0]["improvement"]["value"]
    elsewhere, store = type(folder)(tmp_path), f"sqlite:///{folder.path}/mlflow.db"
    for selector in (answer["run_id"], "a vs b"):
        _, err = elsewhere.pgzoo("compare", selector, "b", "--tracking-uri", store, code=2)
        assert f'No run matches "{selector}"' in err
    whole = elsewhere.pgzoo("compare", "compared", "reinforce", "--tracking-uri", store, code=2)[1]
    assert "runs in common" in whole


def test_hundreds_of_runs_are_read_page_by_page(two: Two) -> None:
    folder, *_ = two
    write_runs(folder.path / "mlflow.db")
    store = f"sqlite:///{folder.path}/mlflow.db"
    answer = folder.parse(folder.pgzoo("compare", "x", "y", "--json", "--tracking-uri", store)[0])
    assert [len(side["runs"]) for side in answer["sides"]] == [MANY, 12]  # a page has 500
    assert [run["seed"] for run in answer["sides"][0]["runs"]] == list(range(MANY))
    (found,) = answer["comparisons"]
    assert found["final"]["x"]["iqm"]["method"] == "bootstrap"
    assert found["pairs"][0]["improvement"]["value"] == 0.0
    assert found["pairs"][0]["verdict"] == "y is higher"
    assert found["area"]["y"]["mean"]["value"] == pytest.approx(found["final"]["y"]["mean"]["value"] * 2 / 3)


def test_compare_reads_a_server_and_reports_one_that_is_down(served: Two, server: Server, folder: Folder) -> None:
    """The folder has no runs, as on another machine."""
    sides = ("param:gamma=0.9", "param:gamma=0.99")
    answer = folder.parse(folder.pgzoo("compare", *sides, "--json", "--tracking-uri", server.uri)[0])
    assert [len(side["runs"]) for side in answer["sides"]] == [1, 1]
    _, err = folder.pgzoo("compare", *sides, "--tracking-uri", "http://127.0.0.1:9", code=2)
    assert "Error: Couldn't get the runs of" in err and "http://127.0.0.1:9" in err
