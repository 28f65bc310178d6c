"""Real runs in W&B's offline mode, read back from the files that wandb wrote."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pgzoo_wandb.follower import RunCopy, number, project_name
from wandb.proto.wandb_internal_pb2 import Record

from pgzoo.registry import discover
from pgzoo.tracking import records

RUN = ("run", "reinforce", "--env", "CartPole-v1", "--eval-episodes", "10", "--no-progress", "--json")
SECRET = "0123456789abcdef" * 2 + "01234567"  # the form of an API key
PATIENCE = 60.0


def environment(folder: Path, **more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_", "WANDB_"))}
    homes = {f"WANDB_{name}_DIR": str(folder / "wandb-home") for name in ("CACHE", "CONFIG", "DATA")}
    return {**plain, **homes, "PGZOO_WANDB": "offline", "MLFLOW_TRACKING_URI": "none", **more}


def pgzoo(folder: Path, *args: str, **env: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pgzoo", *args]
    done = subprocess.run(
        command, env=environment(folder, **env), cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def stored(path: Path) -> Iterator[Record]:
    """Yield the records of a `.wandb` file: blocks of 32 KiB, chunks with a header of checksum, length and kind."""
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the end of one
            yield Record.FromString(part)
            part = b""


class Copy:
    """The stored copy of a run; waits until the copy is finished."""

    def __init__(self, folder: Path, key: str) -> None:
        (self.folder,) = wait_for(lambda: self.finished(folder, key))
        found = list(stored(self.folder / f"run-{key}.wandb"))
        (self.run,) = [record.run for record in found if record.HasField("run")]
        (self.exit,) = [record.exit.exit_code for record in found if record.HasField("exit")]
        self.config = {item.key: json.loads(item.value_json) for item in self.run.config.update}
        self.history = [values(record.history.item) for record in found if record.HasField("history")]
        self.summary: dict[str, Any] = {}
        for record in found:
            if record.HasField("summary"):
                self.summary |= values(record.summary.update)

    @staticmethod
    def finished(folder: Path, key: str) -> list[Path]:
        files = sorted((folder / "wandb").glob(f"offline-run-*/run-{key}.wandb"))
        return [file.parent for file in files if any(record.HasField("exit") for record in stored(file))]

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        points: dict[str, list[tuple[int, float]]] = {}
        for row in self.history:
            for name, value in row.items():
                if name != "env_step" and not name.startswith("_") and isinstance(value, int | float):
                    points.setdefault(name, []).append((row["env_step"], value))
        return points


def values(items: Any) -> dict[str, Any]:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def journaled(journal: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of a journal, which MLflow gets, too."""
    points: dict[str, list[tuple[int, float]]] = {}
    for record, _ in records(journal):
        for step in record.get("steps", [record.get("step")]) if record and "m" in record else ():
            for name, value in record["m"].items():
                points.setdefault(name, []).append((step, pytest.approx(value)))
    return points


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of two seeds with secrets and an HTTP proxy in its environment; nothing may connect to the proxy."""
    folder = tmp_path_factory.mktemp("trained")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        env = {"HTTP_PROXY": url, "HTTPS_PROXY": url, "NO_PROXY": "", "WANDB_API_KEY": SECRET}
        steps = ("--seeds", "3,7", "--total-steps", "3000", "--eval-every", "1000")
        answer = pgzoo(folder, *RUN, *steps, **env, MLFLOW_TRACKING_PASSWORD=SECRET)
        keys = [seed["run_key"] for seed in answer["seeds"]]
        for key in keys:
            Copy(folder, key)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    return folder, keys


def test_the_listener_is_found_by_its_entry_point() -> None:
    entry = discover(inline=False).get("listener", "wandb")
    assert (entry.plugin.name, entry.plugin.distribution) == ("wandb", "pgzoo-wandb")


def test_each_seed_is_a_wandb_run_with_the_points_of_its_journal(trained: tuple[Path, list[str]]) -> None:
    folder, keys = trained
    for key, seed in zip(keys, (3, 7), strict=True):
        copy, expected = Copy(folder, key), journaled(folder / ".pgzoo" / "runs" / key)
        assert copy.curves == expected
        assert [step for step, _ in copy.curves["eval/return_mean"]] == [1000, 2000, 3000]
        assert (copy.run.run_id, copy.run.run_group) == (key, key.rpartition("-s")[0])
        assert copy.run.project == "pgzoo-CartPole-v1"
        assert copy.config["algorithm"] == "reinforce"
        assert (copy.config["seed"], copy.config["total_steps"]) == (seed, 3000)
        assert copy.summary["summary/return_final"] == expected["summary/return_final"][-1][1]
        assert any("eval/returns" in row for row in copy.history)
        assert copy.exit == 0
        times = [row["_timestamp"] for row in copy.history]
        assert times == sorted(times) and times[-1] < time.time()


def test_the_files_of_a_run_are_its_settings_and_its_policy(trained: tuple[Path, list[str]]) -> None:
    folder, keys = trained
    journal = folder / ".pgzoo" / "runs" / keys[0] / "artifacts"
    files = Copy(folder, keys[0]).folder / "files"
    names = {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()}
    assert names == {"config.yaml", "policy/policy.json", "policy/policy.safetensors"}
    for name in names:
        assert (files / name).read_bytes() == (journal / name).read_bytes()


def test_no_file_contains_a_secret(trained: tuple[Path, list[str]]) -> None:
    folder, _ = trained
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []


def test_a_resumed_run_remains_one_run_with_each_point_once(trained: tuple[Path, list[str]]) -> None:
    folder, (_, key) = trained
    before = Copy(folder, key)
    pgzoo(folder, "resume", key, "--total-steps", "5000", "--no-progress", "--json")
    wait_for(lambda: not before.folder.exists())
    after = Copy(folder, key)
    assert after.curves == journaled(folder / ".pgzoo" / "runs" / key)
    assert after.curves["train/return_mean"][:3] == before.curves["train/return_mean"]
    assert [step for step, _ in after.curves["train/return_mean"]][:5] == [1000, 2000, 3000, 4000, 5000]
    assert len(list((folder / "wandb").glob(f"offline-run-*-{key}"))) == 1


@pytest.mark.parametrize("fault", ["time.sleep(3600)", "raise OSError('no server')"])
def test_training_neither_waits_for_wandb_nor_fails_with_it(fault: str, tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    lines = ("import os, pathlib, time", "pathlib.Path('pid').write_text(str(os.getpid()))", fault)
    (modules / "wandb.py").write_text("\n".join(lines))
    search = os.pathsep.join([str(modules), *filter(None, [os.environ.get("PYTHONPATH")])])
    answer = pgzoo(tmp_path, *RUN, "--total-steps", "500", PYTHONPATH=search)
    assert [seed["status"] for seed in answer["seeds"]] == ["finished"]
    pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    if "sleep" in fault:
        os.kill(pid, signal.SIGKILL)
    else:
        wait_for(lambda: "no server" in (tmp_path / ".pgzoo" / "wandb.log").read_text())


def test_an_empty_pgzoo_wandb_stores_nothing_and_a_wrong_value_is_refused(tmp_path: Path) -> None:
    pgzoo(tmp_path, *RUN, "--total-steps", "500", PGZOO_WANDB="")
    assert not (tmp_path / "wandb").exists()
    env = environment(tmp_path, PGZOO_WANDB="on")
    command = [sys.executable, "-m", "pgzoo", *RUN, "--total-steps", "500"]
    refused = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert refused.returncode == 2
    assert "set it to offline or online" in refused.stderr


@pytest.mark.slow
def test_a_killed_run_is_copied_up_to_its_last_record_and_marked_as_failed(tmp_path: Path) -> None:
    options = ("--total-steps", "4000000", "--eval-every", "0")
    child = subprocess.Popen(
        [sys.executable, "-m", "pgzoo", *RUN, *options],
        env=environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: list(tmp_path.glob("wandb/offline-run-*/*.wandb")))
        time.sleep(2)
    finally:
        child.kill()
        child.wait()
    (journal,) = (tmp_path / ".pgzoo" / "runs").iterdir()
    copy = Copy(tmp_path, journal.name)
    assert copy.curves == journaled(journal)
    assert copy.exit == 1


HEAD = {"t": "start", "ts": 1000, "key": "k", "name": "x s0", "group": "g", "experiment": "pgzoo/x", "algorithm": "a"}
HEAD |= {"env": "x", "seed": 0, "uri": "", "params": {}, "tags": {}}


def line(**record: Any) -> str:
    return json.dumps(record) + "\n"


def update(ts: int, *steps: int) -> str:
    return line(t="update", ts=ts, steps=steps, m={"a": 0.5})


def append(folder: Path, *texts: str) -> None:
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write("".join(texts))


def test_an_incomplete_line_is_read_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    run, torn = RunCopy(tmp_path, "offline"), update(3500, 3000)
    run.follow()  # there is no journal yet
    append(tmp_path, line(**HEAD), update(2000, 1000, 2000), torn[:20])
    run.follow()
    append(tmp_path, torn[20:])
    run.finish()
    copy = Copy(tmp_path, "k")
    assert [(row["_timestamp"], row["env_step"], row["a"]) for row in copy.history] == [
        (2.0, 1000, 0.5),
        (2.0, 2000, 0.5),
        (3.5, 3000, 0.5),
    ]
    assert copy.exit == 1


class Server:
    """Stands in for wandb's module and for a run that it uploads."""

    def __init__(self, folder: Path) -> None:
        self.dir, self.modes, self.steps, self.exits = str(folder), [], [], []

    def init(self, **options: Any) -> Server:
        self.modes.append((options["mode"], options["resume"], options["id"]))
        return self

    def define_metric(self, name: str, **options: Any) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        self.steps.append(values["env_step"])

    def finish(self, exit_code: int) -> None:
        self.exits.append(exit_code)


def test_a_resumed_online_run_continues_after_the_last_uploaded_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path)
    monkeypatch.setattr("wandb.init", server.init)
    append(tmp_path, line(**HEAD), update(2000, 1000, 2000), line(t="end", ts=2500, status="FINISHED", reason=""))
    RunCopy(tmp_path, "online").finish()
    append(tmp_path, line(**HEAD), update(3000, 3000))
    RunCopy(tmp_path, "online").finish()  # killed: the journal has no end record
    assert server.modes == [("online", "allow", "k")] * 2
    assert (server.steps, server.exits) == ([1000, 2000, 3000], [0, 1])
    (tmp_path / "wandb.json").write_text("damaged")
    RunCopy(tmp_path, "online").finish()
    assert server.steps[3:] == [1000, 2000, 3000]


def test_project_names_are_made_valid_and_numeric_settings_become_numbers() -> None:
    assert project_name("pgzoo/ALE/Pong-v5") == "pgzoo-ALE-Pong-v5"
    assert [number(v) for v in ("0.5", "3", "True", "64,64")] == [0.5, 3, True, "64,64"]
