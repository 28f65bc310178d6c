"""Uploading journals to real stores while processes are killed. The tests of a class depend on their order."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from program import PATIENCE

from pgzoo.tracking.ledger import Ledger, pending, pending_stores, read_json, write_json

if TYPE_CHECKING:
    from conftest import Place
    from program import Server


def steps(updates: int) -> list[tuple[int, float]]:
    return [(10 * u, u / 8) for u in range(1, updates + 1)]


def artifacts(place: Place, key: str) -> set[str]:
    [(uri,)] = place.ask("SELECT artifact_uri FROM runs WHERE run_uuid = ?", place.run(key)[0])  # type: ignore[index]
    folder = Path(uri.removeprefix("file://"))
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def tags(place: Place, key: str) -> dict[str, str]:
    return dict(place.ask("SELECT key, value FROM tags WHERE run_uuid = ?", place.run(key)[0]))  # type: ignore[index]


class TestEmbeddedStore:
    def test_runs_of_four_concurrent_trainers_are_uploaded_to_a_fresh_store(self, embedded: Place) -> None:
        children = [embedded.train(f"twin-{seed}", seed=seed) for seed in range(4)]
        for seed, child in enumerate(children):
            result = embedded.result(child)
            assert result["pending"] == result["runs"] == 0
            assert result["heavy"] == []
            key = f"twin-{seed}"
            assert embedded.run(key)[1] == "FINISHED"  # type: ignore[index]
            assert embedded.metrics(key, "a") == steps(50)
            assert embedded.metrics(key, "eval/return_mean") == [(500, 2.0)]
            assert embedded.metrics(key, "eval/return_std") == [(500, 1.0)]
            assert tags(embedded, key)["pgzoo.group"] == "group"
            description = tags(embedded, key)["mlflow.note.content"]
            assert description.startswith("`▁") and "pgzoo run little" in description
            assert f"/runs/{embedded.run(key)[0]}/artifacts/" in description  # type: ignore[index]
            expected = {"config.yaml", "episodes.csv", "evaluation.csv"}
            expected |= {"plots/learning_curve.png", "plots/evaluation_histogram.png"}
            assert artifacts(embedded, key) == expected
            run = read_json(embedded.home.runs / key / "run.json")
            assert run["run_id"] == embedded.run(key)[0]  # type: ignore[index]
            params = dict(embedded.ask("SELECT key, value FROM params WHERE run_uuid = ?", run["run_id"]))
            assert params == {
                "algorithm": "little",
                "env": "Corridor-v0",
                "seed": str(seed),
                "learning_rate": "0.02",
            }
        assert len(embedded.ask("SELECT * FROM experiments WHERE name = 'pgzoo/Corridor-v0'")) == 1
        [(view,)] = embedded.ask("SELECT value FROM experiment_tags WHERE key = 'mlflow.sharedViewState.pgzoo'")
        assert json.loads(view)["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "algorithm"}]
        assert json.loads(view)["compareRunCharts"][0]["metricKey"] == "train/return_mean"
        assert embedded.ask("PRAGMA journal_mode") == [("wal",)]

    def test_a_resumed_run_continues_in_the_same_mlflow_run(self, embedded: Place) -> None:
        before = embedded.run("twin-0")
        # It restarts at update 41, as from a checkpoint: points that are in the journal aren't written again.
        embedded.result(embedded.train("twin-0", begin=40, updates=30))
        after = embedded.run("twin-0")
        assert before is not None
        assert after is not None
        assert after[:2] == (before[0], "FINISHED")
        assert embedded.metrics("twin-0", "a") == steps(70)
        table = (embedded.home.runs / "twin-0" / "artifacts" / "episodes.csv").read_text().splitlines()
        assert len(table) == 71
        assert table[-1] == "70,700,70.0,10"

    def test_uploading_twice_makes_no_duplicates(self, embedded: Place) -> None:
        folder = embedded.home.runs / "twin-0"
        (folder / "ack.json").unlink()
        (folder / "run.json").unlink()
        result = json.loads(embedded.pgzoo("sync", "--json").stdout)
        assert (result["pending_runs"], result["errors"]) == (0, {})
        assert embedded.metrics("twin-0", "a") == steps(70)
        assert embedded.run("twin-0")[1] == "FINISHED"  # type: ignore[index]

    def test_invalid_records_are_rejected_and_the_others_are_uploaded(self, embedded: Place) -> None:
        folder = embedded.home.runs / "poisoned"
        folder.mkdir()
        start = (embedded.home.runs / "twin-1" / "journal.jsonl").read_text().splitlines()[0]
        start = start.replace("twin-1", "poisoned")
        update = {"t": "update", "ts": 5}
        lines = [json.loads(start)]
        lines += [{**update, "steps": [10 * u], "m": {"a": u / 8}} for u in range(1, 41)]
        lines.insert(20, {**update, "steps": [7], "m": {"bad%key": 1.0, "good": 2.0}})
        lines.insert(30, {**update, "steps": [2**63], "m": {"too far": 1.0}})
        lines.insert(35, {**update, "steps": "?", "m": 3})
        lines += [
            {"t": "artifact", "ts": 5, "path": "../../twin-1/run.json"},
            {"t": "artifact", "ts": 5, "path": "gone"},
        ]
        lines += [
            {"t": "tags", "ts": 5},
            {"t": "strange", "ts": 5},
            {"t": "end", "ts": 9, "status": "FAILED", "reason": "x"},
        ]
        text = [json.dumps(line) for line in lines]
        text.insert(3, "{torn")
        (folder / "journal.jsonl").write_text("\n".join(text) + "\n")
        result = embedded.pgzoo("sync", "--json")
        assert result.returncode == 0, result.stdout
        assert embedded.metrics("poisoned", "a") == steps(40)
        assert embedded.metrics("poisoned", "good") == [(7, 2.0)]
        assert embedded.run("poisoned")[1:] == ("FAILED", 9)  # type: ignore[index]
        assert tags(embedded, "poisoned")["pgzoo.end_reason"] == "x"
        assert artifacts(embedded, "poisoned") == set()
        rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
        assert len(rejected) == 8
        assert [r["record"]["metric"] for r in rejected if r["record"] and "metric" in r["record"]] == ["bad%key"]
        assert sum(r["record"] is None for r in rejected) == 4  # can't be read, including a step of more than 63 bits

    def test_a_run_of_a_deleted_experiment_is_refused_until_it_is_restored(self, embedded: Place) -> None:
        self.set_stage(embedded, "deleted")
        result = embedded.result(embedded.train("late", updates=5))
        assert result["runs"] == 0
        outcome = embedded.pgzoo("sync")
        assert outcome.returncode == 1
        assert "was deleted in the store" in outcome.stdout
        self.set_stage(embedded, "active")
        assert embedded.pgzoo("sync").returncode == 0
        assert embedded.metrics("late", "a") == steps(5)

    @staticmethod
    def set_stage(place: Place, stage: str) -> None:
        with closing(sqlite3.connect(place.database, timeout=600)) as database, database:
            database.execute("UPDATE experiments SET lifecycle_stage = ? WHERE name = 'pgzoo/Corridor-v0'", (stage,))

    def test_a_database_deleted_between_runs_is_created_again(self, embedded: Place) -> None:
        for file in embedded.home.root.glob("mlflow.db*"):
            file.unlink()
        assert embedded.result(embedded.train("after", updates=5))["runs"] == 0
        assert embedded.metrics("after", "a") == steps(5)


LARGE_GROUP = """
from pgzoo import tracking
home = tracking.Home.find()
with tracking.Session(home, "large", home.default_uri) as session:
    for seed in range(51):
        journal = session.journal(f"r{seed}", name=f"r{seed}", experiment="e", seed=seed, algorithm="a", env="E-v0")
        if seed < 2:
            journal.record(episodes=([10], [1.0], [10]))
        journal.end("FINISHED")
    session.close(0)
"""


def test_plots_of_a_group_of_more_than_50_runs_are_drawn_on_request(place: Place) -> None:
    subprocess.run([sys.executable, "-c", LARGE_GROUP], env=place.env, check=True, timeout=PATIENCE)
    assert place.pgzoo("sync").returncode == 0
    assert {status for (status,) in place.ask("SELECT status FROM runs")} == {"FINISHED"}
    assert artifacts(place, "r0") == {"episodes.csv"}
    asked = place.pgzoo("sync", "--plots")
    assert asked.returncode == 0, asked.stderr
    assert artifacts(place, "r1") == {"episodes.csv", "plots/learning_curve.png"}
    assert place.pgzoo("sync", "--plots").stdout == "Nothing to upload.\n"


def test_a_server_that_never_answers_does_not_block_other_stores(place: Place) -> None:
    place.env["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "2"
    with socket.create_server(("127.0.0.1", 0)) as hole:  # accepts connections and never answers
        place.uri = f"http://127.0.0.1:{hole.getsockname()[1]}"
        stuck = place.train("a-stuck", updates=5, wait=1)
        place.uri = None
        assert place.result(place.train("served", updates=5))["runs"] == 0
        assert place.result(stuck)["runs"] == 1
        assert place.metrics("served", "a") == steps(5)
        errors = place.eventually(lambda: pending(place.home).errors)
        assert ["imeout" in error or "timed out" in error for error in errors.values()] == [True]


class TestServer:
    def test_a_run_ends_without_a_server_and_sync_uploads_it_later(self, remote: Place, server: Server) -> None:
        result = remote.result(remote.train("early", updates=20, wait=0.5))
        assert result["slowest"] < 10  # a request to a dead server would take 15 s
        assert (result["runs"], result["pending"]) == (1, 24)
        remote.eventually(lambda: server.uri in pending(remote.home).errors)
        outcome = remote.pgzoo("sync", "--wait", "1", "--json")
        assert outcome.returncode == 1
        assert server.uri in json.loads(outcome.stdout)["errors"]
        assert pending_stores(remote.home) == {server.uri}
        server.start()
        outcome = remote.pgzoo("sync", "--json")
        assert outcome.returncode == 0, outcome.stdout
        assert json.loads(outcome.stdout)["shipped_runs"] == 1
        assert remote.metrics("early", "a") == steps(20)
        assert remote.run("early")[1] == "FINISHED"  # type: ignore[index]
        files = {p.name for p in (server.path / "files").rglob("*") if p.is_file()}
        assert {"config.yaml", "episodes.csv", "learning_curve.png"} <= files

    def test_killing_the_server_neither_delays_training_nor_loses_points(self, remote: Place, server: Server) -> None:
        server.start()
        go_on = remote.home.runs.parent / "go_on"
        child = remote.train("cut", updates=200, pause=0.05, hold=str(go_on))
        remote.eventually(lambda: len(remote.metrics("cut", "a")) > 10)
        server.kill()
        assert child.poll() is None
        go_on.touch()
        server.start()
        result = remote.result(child)
        assert result["slowest"] < 10  # a request to a dead server would take 15 s
        assert result["pending"] == 0
        assert remote.metrics("cut", "a") == steps(200)
        assert remote.metrics("cut", "b") == [(10 * u, -u) for u in range(1, 201)]

    def test_a_killed_uploader_is_replaced(self, remote: Place) -> None:
        go_on = remote.home.runs.parent / "go_on"
        child = remote.train("orphan", updates=200, pause=0.05, hold=str(go_on))
        remote.eventually(lambda: len(remote.metrics("orphan", "a")) > 10)
        first = remote.uploader()
        os.kill(first, signal.SIGKILL)
        go_on.touch()
        assert remote.result(child)["pending"] == 0
        assert remote.uploader() != first
        assert remote.metrics("orphan", "a") == steps(200)

    def test_the_run_of_a_killed_trainer_ends_as_killed_with_all_its_points(self, remote: Place) -> None:
        child = remote.train("victim", updates=10_000, pause=0.01)
        remote.eventually(lambda: len(remote.metrics("victim", "a")) > 10)
        folder = remote.home.runs / "victim"
        child.send_signal(signal.SIGSTOP)  # while it holds the lock, the run isn't closed
        with (folder / "journal.jsonl").open("ab") as file:
            file.write(b'{"t":"update","ts":1,"st')  # an incomplete line, as after a power cut
        child.kill()
        child.wait()
        remote.eventually(lambda: Ledger.read(folder).plots and not Ledger.read(folder).files)
        written = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        updates = sum(r["t"] == "update" for r in written)
        assert remote.metrics("victim", "a") == steps(updates)
        run = remote.run("victim")
        assert run is not None
        assert run[1:] == ("KILLED", written[-1]["ts"])
        assert (folder / "artifacts" / "plots" / "learning_curve.png").is_file()

    def test_losing_the_acknowledged_offset_neither_loses_nor_duplicates_points(self, remote: Place) -> None:
        folder = remote.home.runs / "victim"
        before = remote.metrics("victim", "a")
        write_json(folder / "ack.json", {"offset": 0})
        assert remote.pgzoo("sync").returncode == 0
        assert remote.metrics("victim", "a") == before
        assert remote.run("victim")[1] == "KILLED"  # type: ignore[index]

    def test_another_machine_finds_the_run_on_the_server(self, remote: Place, server: Server, tmp_path: Path) -> None:
        code = (
            "from pgzoo.tracking import Home, find\n"
            "from pgzoo.errors import PgzooError\n"
            "home = Home.find()\n"
            "for ref in ('early', 'RUN', 'group', 'little', 'little s0'):\n"
            f"    found = find(ref, home, '{server.uri}')\n"
            "    print(ref, len(found), found[-1].run_id, found[-1].path)\n"
            f"print(find('early', home, '{server.uri}')[0].artifact('config.yaml').read_text())\n"
            "for ask in (lambda: find('nobody', home, '%s'), lambda: found[-1].artifact('none.txt')):\n"
            "    try: ask()\n"
            "    except PgzooError as error: print(error)\n"
        )
        run_id = remote.run("early")[0]  # type: ignore[index]
        code = code.replace("RUN", run_id) % server.uri
        env = {**remote.env, "PGZOO_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        answers = done.stdout.splitlines()
        assert answers[0] == f"early 1 {run_id} None"
        assert answers[1] == f"{run_id} 1 {run_id} None"
        assert [a.split()[:2] for a in answers[2:4]] == [["group", "4"], ["little", "4"]]
        assert answers[5] == "algorithm: little"
        assert 'No run "nobody"' in answers[7]
        assert "none.txt" in answers[8]

    def test_a_run_resumed_with_another_store_is_uploaded_there_completely(self, remote: Place, server: Server) -> None:
        remote.result(remote.train("moved", updates=5))
        there = remote.metrics("moved", "a")
        remote.uri, remote.database = None, remote.home.database
        remote.result(remote.train("moved", begin=5, updates=5))
        assert remote.metrics("moved", "a") == steps(10)
        assert there == steps(5)
        assert remote.run("moved")[1] == "FINISHED"  # type: ignore[index]
        remote.uri, remote.database = server.uri, server.database
        assert remote.metrics("moved", "a") == there
