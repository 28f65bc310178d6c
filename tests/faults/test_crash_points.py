"""Crashes and power cuts at any change of a file: durable data exists exactly once, and the next start works."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filesystem import Crash, Recorder, Rule, crashes
from gymnasium.spaces import Box, Discrete

from pgzoo.envs.spec import make_spec
from pgzoo.errors import CheckpointError, ConfigError
from pgzoo.export.bundle import LoadedPolicy, load_policy
from pgzoo.files import make_folder, write_file, write_folder
from pgzoo.registry import PluginCatalog
from pgzoo.registry.components import resolve_component
from pgzoo.runs.resume import resume
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home, find
from pgzoo.tracking.journal import Journal, Record, records
from pgzoo.tracking.ledger import Ledger, pending_of
from pgzoo.tracking.run_upload import RunUpload
from pgzoo.tracking.secrets import hide_secrets, reveal_secrets
from pgzoo.training import checkpoint
from pgzoo.training.plan import make_policy
from pgzoo.types import TrainState

START: Record = {"t": "start", "ts": 1, "key": "k", "name": "n s0", "group": "g", "experiment": "e", "uri": "http://h"}
START |= {"seed": 0, "algorithm": "a", "env": "E-v0", "params": {}, "tags": {}}
LINES = 6


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A recorder of an empty folder, used as a context manager. Flushes to disk do nothing, as they are slow."""
    for name in {"fsync", "fdatasync"} & set(dir(os)):
        monkeypatch.setattr(os, name, lambda descriptor: None)
    (tmp_path / "real").mkdir()
    return Recorder(tmp_path / "real")


def lines(folder: Path) -> list[Record]:
    return [record for record, _ in records(folder) if record is not None]


def contents(found: list[Record]) -> list[Record]:
    """Return the records without timestamps, and without the start records that each opening of the journal adds."""
    return [{k: v for k, v in record.items() if k != "ts"} for record in found if record["t"] != "start"]


def test_a_crash_while_a_file_is_replaced_leaves_the_old_or_the_new_one(recorded: Recorder, tmp_path: Path) -> None:
    with recorded:
        for data in (b"first", b"second, which is longer"):
            write_file(recorded.root / "a" / "b" / "file", data)
            recorded.mark(data)
    count = 0
    for crash in crashes(recorded.log):
        found = crash.files.get("a/b/file")
        allowed = [
            crash.notes[-1] if crash.notes else None,
            {0: b"first", 1: b"second, which is longer"}.get(len(crash.notes)),
        ]
        assert found in allowed, crash.where
        count += 1
    assert count > 10


def test_a_crash_while_a_folder_is_replaced_leaves_the_old_or_the_new_one(recorded: Recorder, tmp_path: Path) -> None:
    steps = [{"a": b"1", "b": b"2"}, {"a": b"3", "b": b"4", "c": b"5"}]
    with recorded:
        for files in steps:
            write_folder(recorded.root / "made" / "step", files)
            recorded.mark(files)
    for crash in crashes(recorded.log):

        def inside(name: str, crash: Crash = crash) -> dict[str, bytes | None]:
            return {
                path.rpartition("/")[2]: data for path, data in crash.files.items() if path.startswith(f"made/{name}/")
            }

        found = inside("step") if "made/step" in crash.files else inside(".step.old")
        allowed = [crash.notes[-1] if crash.notes else {}, *steps[len(crash.notes) : len(crash.notes) + 1]]
        assert found in allowed, crash.where
        folder = crash.restore(tmp_path / "later")
        write_folder(folder / "made" / "other", {"x": b"y"})
        kept = {"other"} | ({"step"} if found else set())
        assert {path.name for path in (folder / "made").iterdir()} == kept, crash.where
        assert {p.name: p.read_bytes() for p in (folder / "made" / "step").glob("*")} == found, crash.where


def write_journal(folder: Path, mark: Callable[[int], None]) -> None:
    """Write a journal, and call `mark` with the number of lines that are durable so far."""
    journal = Journal(folder, dict(START), pytest.fail)
    for step in range(1, LINES + 1):
        journal.record([step], {"m": step / 8}, ([step], [float(step)], [1]))
        if step % 2 == 0:
            journal.sync()
            mark(len(lines(folder)))
    journal.artifact("config.yaml", b"algorithm: a\n")
    journal.evaluation(LINES, "sampled", True, [1.0, 2.0], [3, 4])
    journal.end("FINISHED")
    mark(len(lines(folder)))


def test_a_crash_loses_no_durable_record_of_the_journal(recorded: Recorder, tmp_path: Path) -> None:
    with recorded:
        write_journal(recorded.root / "home" / "runs" / "k", recorded.mark)
    whole = lines(recorded.root / "home" / "runs" / "k")
    count = 0
    for crash in crashes(recorded.log):
        folder = crash.restore(tmp_path / "later") / "home" / "runs" / "k"
        left, durable = lines(folder), crash.notes[-1] if crash.notes else 0
        assert left == whole[: len(left)] and len(left) >= durable, crash.where
        Ledger.read(folder), pending_of([folder])
        write_journal(folder, lambda _: None)
        again, seen = contents(lines(folder)), contents(left)
        assert again[: len(seen)] == seen, crash.where
        steps = [record["steps"] for record in again if record["t"] == "update"]
        assert steps == [[step] for step in range(1, LINES + 1)], crash.where
        assert sum(record["t"] == "evaluation" for record in again) == 1, crash.where
        assert again[-1] == {"t": "end", "status": "FINISHED", "reason": ""}, crash.where
        assert (folder / "artifacts" / "config.yaml").read_bytes() == b"algorithm: a\n"
        count += 1
    assert count > 30


class Server:
    """A tracking server as the uploader sees it; `rows` has the values of each point by its name and step."""

    uri = "http://h"

    def __init__(self, rows: dict[tuple[str, int], set[tuple[float, int]]], mark: Callable[[Any], None]) -> None:
        self.rows, self.mark, self.status = rows, mark, ""

    def open_run(self, start: Record, reject: Any) -> Any:
        class Opened:
            run_id, experiment, created = "0" * 32, "1", False
            params: dict[str, str] = {}  # noqa: RUF012
            tags: dict[str, str] = {}  # noqa: RUF012

        return Opened()

    def log(self, run_id: str, rows: Any, params: Any, tags: Any, reject: Any) -> None:
        for name, value, ts, step in rows:
            self.rows.setdefault((name, step), set()).add((value, ts))
        self.mark({key: set(values) for key, values in self.rows.items()})

    def must_wait(self, key: str) -> bool:
        return False

    def delete_duplicates(self, run_id: str, experiment: str, key: str) -> None:
        pass

    def close_run(self, run_id: str, status: str, ts: int) -> None:
        self.status = status


def test_every_point_is_uploaded_once_despite_a_crash_of_the_machine(
    recorded: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = SimpleNamespace(Backoff=lambda monotonic: None)  # doesn't import mlflow
    monkeypatch.setitem(sys.modules, "pgzoo.tracking.store", light)

    def train(folder: Path, home: Home, server: Server, first: int) -> None:
        journal = Journal(folder, dict(START) | {"ts": first}, pytest.fail)
        journal.sync()
        for step in range(1, LINES + 1):
            journal.record([step], {"m": step / 8})
            if step % 2 == 0:
                RunUpload(folder, home).upload_records(server)  # type: ignore[arg-type]
        journal.end("FINISHED")
        RunUpload(folder, home).upload_records(server)  # type: ignore[arg-type]

    def home_in(root: Path) -> Home:
        return Home.find({"PGZOO_HOME": str(root)})

    home = home_in(recorded.root)
    with recorded:
        train(home.runs / "k", home, Server({}, recorded.mark), 1)
    for crash in crashes(recorded.log):
        home = home_in(crash.restore(tmp_path / "later"))
        server = Server(dict(crash.notes[-1]) if crash.notes else {}, lambda _: None)
        train(home.runs / "k", home, server, 2)
        steps = {("m", step) for step in range(1, LINES + 1)}
        assert server.rows.keys() == steps and server.status == "FINISHED", crash.where
        assert all(len(values) == 1 for values in server.rows.values()), crash.where
        assert Ledger.read(home.runs / "k").closed == "FINISHED"


def state(step: int) -> TrainState:
    """Return the state of one member that has taken this many steps."""
    counters = [np.full(1, step, np.int64) for _ in range(3)]
    params = {"policy.weight": torch.full((1, 4), float(step))}
    return TrainState(params, {}, {}, None, np.ones(1, np.bool_), *counters, np.zeros(1), np.full((1, 9), np.nan))


def test_a_crash_leaves_the_previous_or_the_new_checkpoint(recorded: Recorder, tmp_path: Path) -> None:
    saves = [(10, "a"), (10, "b"), (20, "a"), (30, "a"), (40, "a"), (50, "a"), (50, "b")]  # repeated as after resuming
    with recorded:
        for step, note in saves:
            checkpoint.save(recorded.root / "run" / "checkpoints", state(step), {"note": note}, score=float(-step))
            recorded.mark((step, note))
    for crash in crashes(recorded.log):
        folder = crash.restore(tmp_path / "later") / "run" / "checkpoints"
        done = len(crash.notes)
        if not checkpoint.paths(folder):
            assert not done, crash.where
            with pytest.raises(CheckpointError, match="There is no checkpoint"):
                checkpoint.latest(folder)
        else:
            found = checkpoint.latest(folder)
            assert (found.env_steps, found.about["note"]) in saves[max(0, done - 1) : done + 1], crash.where
            assert all(len(checkpoint.load(path).state.params) == 1 for path in checkpoint.paths(folder)), crash.where
        checkpoint.save(folder, state(60), {"note": ""})
        assert all(path.name.startswith("step-") for path in folder.iterdir()), crash.where
        assert len(checkpoint.paths(folder)) <= checkpoint.KEPT + 1


def test_a_crash_leaves_the_old_or_the_new_policy(recorded: Recorder, tmp_path: Path, catalog: PluginCatalog) -> None:
    component, factory = resolve_component("policy", {"name": "mlp", "hidden": [2]}, catalog)
    spec = make_spec(Box(-1.0, 1.0, (2,)), Discrete(2))
    policy = make_policy(factory, component.settings, spec, frozenset(), False)
    leaves = policy.init(np.random.default_rng(0))
    for value in (1.0, 2.0):
        params = {name: torch.full((1, *leaf.shape), value) for name, leaf in leaves.items()}
        with recorded:
            LoadedPolicy(component, spec, policy, params).save(recorded.root / "policy")
        recorded.mark(value)
    for crash in crashes(recorded.log):
        folder = crash.restore(tmp_path / "later") / "policy"
        if not crash.notes and not {"policy/policy.json", "policy/policy.safetensors"} <= crash.files.keys():
            with pytest.raises(ConfigError, match="No policy in"):
                load_policy(folder, catalog)
            continue
        loaded = load_policy(folder, catalog)
        [value] = {float(number) for leaf in loaded.params.values() for number in leaf.flatten()}
        assert value in (crash.notes[-1:] or [1.0]) + ([2.0] if crash.notes else []), crash.where


def test_a_crash_loses_no_durable_password(recorded: Recorder, tmp_path: Path) -> None:
    uris = ["http://me:first@h", "http://me:second@g"]
    with recorded:
        home = Home.find({"PGZOO_HOME": str(recorded.root / "home")})
        make_folder(home.runs, 0o700)  # as a session does
        for uri in uris:
            hide_secrets(uri, home)
            recorded.mark(uri)
    for crash in crashes(recorded.log):
        home = Home.find({"PGZOO_HOME": str(crash.restore(tmp_path / "later") / "home")})
        for uri in crash.notes:
            assert reveal_secrets(uri.replace("first", "***").replace("second", "***"), home, {}) == uri, crash.where


KILLED_OR_CUT: tuple[Rule, ...] = ("killed", "strict", "torn")


def test_after_a_crash_the_journal_has_all_points_up_to_the_checkpoint(
    recorded: Recorder, tmp_path: Path, configure: Callable[..., Any], catalog: PluginCatalog
) -> None:
    """A resumed run doesn't write these points again, and reproduces the curves and the final parameters."""
    config = configure("a2c", num_envs=2, total_steps=600, checkpoint_every=150, log_every=20, tracking_uri="none")
    home = Home.find({"PGZOO_HOME": str(recorded.root)})
    with recorded:
        whole = run_config(config, catalog, home=home)
    key = whole.runs[0].run_key
    points = curves(home.runs / key)
    assert len(points) > 20
    seen: dict[int, Crash] = {}
    for crash in crashes(recorded.log, KILLED_OR_CUT):
        folder = crash.restore(tmp_path / "later") / "runs" / key
        kept = checkpoint.paths(folder / checkpoint.FOLDER_NAME)
        if kept:
            step = checkpoint.latest(folder / checkpoint.FOLDER_NAME).env_steps
            expected = {point: value for point, value in points.items() if point[1] <= step}
            assert expected.items() <= curves(folder).items(), crash.where
            seen.setdefault(step, crash)
    assert len(seen) >= 4
    for crash in list(seen.values())[:2]:
        home = Home.find({"PGZOO_HOME": str(crash.restore(tmp_path / "later"))})
        again = resume(find(key, home), catalog, home=home)
        assert curves(home.runs / key) == points, crash.where
        for name, leaf in whole.ended.state.params.items():
            assert torch.equal(leaf, again.ended.state.params[name]), crash.where


def curves(folder: Path) -> dict[tuple[str, int], float]:
    """Return the points of a run's curves by name and step; fail if there is one twice."""
    found: dict[tuple[str, int], float] = {}
    for record in lines(folder):
        if record["t"] == "update":
            for step in record.get("steps", ()):
                for name, value in record["m"].items():
                    if not name.startswith(("summary/", "time/", "profile/")):
                        assert (name, step) not in found
                        found[name, step] = value
    return found
