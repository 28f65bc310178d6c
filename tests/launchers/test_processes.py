"""Seeds trained in real worker processes: the seed law, workers that die, and signals."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from program import PATIENCE, Folder, eventually, read_until

from pgzoo.config import Layer
from pgzoo.errors import ConfigError, UnknownName
from pgzoo.launchers.processes import _Worker, cores, launch
from pgzoo.registry import PluginCatalog, discover
from pgzoo.runs.resolve import compose
from pgzoo.runs.result import Result
from pgzoo.runs.resume import resume
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home, find, records
from pgzoo.training import checkpoint
from pgzoo.types import LaunchRequest, Shard, WorkerMessage

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")

PPO = {"algorithm": "ppo", "env": "CartPole-v1", "num_envs": 4, "rollout_steps": 32, "eval_episodes": 3}
PPO |= {"log_every": 200, "seeds": (5, 3), "total_steps": 3000, "epochs": 2}
Train = Callable[..., Result]


@pytest.fixture
def trained(home: Home) -> Train:
    """Return `trained(**settings)`, which trains in two worker processes by default."""
    catalog = discover(inline=False)

    def train(**settings: Any) -> Result:
        given = PPO | {"launcher": "processes", "workers": 2} | settings
        if given["launcher"] == "local":
            given.pop("workers")
        return run_config(compose(Layer(given, ".".join), catalog), catalog)

    return train


def workers(parent: int) -> list[int]:
    """Return the process ids of the workers of a process."""
    found = []
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in map(int, children.read_text().split()):
            with contextlib.suppress(OSError):
                if b"pgzoo.runs.shard" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
    return found


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def curve(home: Home, key: str) -> list[Any]:
    """Return all points, episodes and artifacts of a journal, in order, without times, which may differ."""
    points: list[Any] = []
    for record, _ in records(home.runs / key):
        assert record is not None
        if record["t"] in ("update", "evaluation"):
            metrics = {k: v for k, v in record.get("m", {}).items() if not k.startswith("time/")}
            told = record.get("steps", record.get("step")), record.get("e"), record.get("mode"), record.get("returns")
            points.append((*told, metrics))
        elif record["t"] == "artifact":
            points.append(record["path"])
    return points


def points(home: Home, key: str) -> list[Any]:
    """Return `curve` without the artifacts, which a resumed run writes again."""
    return [point for point in curve(home, key) if not isinstance(point, str)]


def bits(home: Home, key: str) -> dict[str, bytes]:
    state = checkpoint.latest(home.runs / key / checkpoint.FOLDER_NAME).state
    return {k: v.numpy().tobytes() for tree in (state.params, state.optimizer, state.buffers) for k, v in tree.items()}


def assert_same_runs(one: Result, other: Result, home: Home) -> None:
    for a, b in zip(one.runs, other.runs, strict=True):
        assert (a.seed, a.status, a.env_steps) == (b.seed, b.status, b.env_steps)
        assert a.returns.tolist() == b.returns.tolist() and a.greedy_returns.tolist() == b.greedy_returns.tolist()
        assert bits(home, a.run_key) == bits(home, b.run_key)
        assert curve(home, a.run_key) == curve(home, b.run_key)


def test_a_seed_trains_identically_in_a_worker_and_in_this_process(trained: Train, home: Home) -> None:
    spread, here = trained(), trained(launcher="local")
    assert spread.status == "finished" and len({run.run_key.rpartition("-s")[0] for run in spread.runs}) == 1
    assert_same_runs(spread, here, home)
    obs = [0.1, 0.2, 0.3, 0.4]
    assert spread.policy(3).act(obs, deterministic=True) == here.policy(3).act(obs, deterministic=True)
    for name, leaf in here.ended.state.params.items():
        assert leaf.equal(spread.ended.state.params[name])
    assert spread.plan.config.setting_hash() == here.plan.config.setting_hash()
    assert spread.speed == pytest.approx(spread.env_steps / spread.to_dict()["wall_seconds"])
    starts = [next(r for r, _ in records(home.runs / run.run_key) if r) for run in (spread.runs[0], here.runs[0])]
    assert starts[0]["params"] == starts[1]["params"] and starts[0]["name"] == starts[1]["name"] == "ppo s5"
    assert not workers(os.getpid())


def test_only_the_seed_of_a_killed_worker_fails_and_it_can_be_resumed(trained: Train, home: Home) -> None:
    settings = {"total_steps": 8000, "checkpoint_every": 500}
    whole, cut = trained(launcher="local", **settings), list[Result]()
    thread = threading.Thread(target=lambda: cut.append(trained(**settings)))
    known = set(home.runs.iterdir())
    thread.start()

    def begun() -> bool:
        folders = set(home.runs.iterdir()) - known
        return len(folders) == 2 and all(checkpoint.paths(f / checkpoint.FOLDER_NAME) for f in folders)

    eventually(begun)
    os.kill(workers(os.getpid())[0], signal.SIGKILL)
    thread.join(PATIENCE)
    (result,) = cut
    (dead,), (done,) = ([r for r in result.runs if (r.status == "failed") == bad] for bad in (True, False))
    assert result.status == "failed" and result.error is None
    assert dead.reason.endswith("was killed by SIGKILL") and done.status == "finished" and done.returns.size == 3
    assert 0 < dead.env_steps < done.env_steps
    ends = [r for r, _ in records(home.runs / dead.run_key) if r and r["t"] in ("end", "tags")]
    assert ends[-1]["status"] == "FAILED" and ends[-1]["reason"] == dead.reason
    assert ends[-2]["tags"] == {"pgzoo.status": "failed"}
    again = resume(find(result.group, home), discover(inline=False))
    assert again.status == "finished" and again.steps_before < again.env_steps
    for a, b in zip(again.runs, whole.runs[::-1], strict=True):  # resumed in the order of seeds
        assert bits(home, a.run_key) == bits(home, b.run_key)
        assert points(home, a.run_key) == points(home, b.run_key)


def test_a_run_can_be_resumed_with_another_launcher(trained: Train, home: Home) -> None:
    catalog = discover(inline=False)
    short = trained(launcher="local", total_steps=1000, learning_rate_schedule="constant")
    longer = resume(find(short.group, home), catalog, total_steps=2000, launcher="processes")
    assert longer.status == "finished" and longer.plan.config.launcher == "processes"
    assert not list(home.root.glob("parts-*"))
    whole = trained(launcher="local", total_steps=2000, learning_rate_schedule="constant")
    for a, b in zip(longer.runs, whole.runs[::-1], strict=True):
        assert bits(home, a.run_key) == bits(home, b.run_key)
    back = resume(find(short.group, home), catalog, total_steps=2500, launcher="local")
    assert back.status == "finished" and back.plan.config.launcher == "local"


def test_one_worker_or_one_seed_trains_in_this_process(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)  # starting a process raises an error
    monkeypatch.setattr("pgzoo.runs.runner.tags", lambda *_: {})
    assert trained(workers=1, total_steps=200).status == "finished"
    assert trained(seeds=(4,), total_steps=200).status == "finished"


def test_one_worker_is_verified_if_a_process_has_more_threads_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgzoo.launchers.processes.cores", lambda: 2)
    config = compose(Layer(PPO | {"launcher": "processes", "threads": 4, "verify": 1.0}, ".".join), discover())
    counts: list[int] = []

    def split(count: int) -> tuple[Shard, ...]:
        counts.append(count)
        return ()

    messages = launch(LaunchRequest(config, (), split, list, lambda _: Shard((), "")))
    assert messages is not None and list(messages) == [] and counts == [1]


def test_the_number_of_cores_is_between_one_and_the_cpu_count() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_invalid_launcher_settings_are_errors_that_create_no_runs(trained: Train, home: Home) -> None:
    with pytest.raises(UnknownName, match=r'No launcher "procesess"\. Did you mean "processes"\? See: pgzoo plugins'):
        trained(launcher="procesess")
    catalog = discover(inline=False)
    with pytest.raises(ConfigError, match=r"--workers: .* Add: --launcher processes"):
        run_config(compose(Layer({**PPO, "workers": 2}, ".".join), catalog), catalog)
    assert not home.runs.exists()


SCRIPT = """
import pgzoo
result = pgzoo.run("mine", env="Odd-v0", seeds=2, total_steps=600, launcher="processes", workers=2, eval_episodes=2,
                   imports=["pgzoo_odd"], policy={"name": "mlp", "hidden": (8,)}, tracking_uri="none")
print(sorted(run.status for run in result.runs), result.policy(1).act([0.0]) in (0, 1, 2))
"""
INLINE = """
import logging
import pgzoo
from pgzoo.algorithms.reinforce import Reinforce, ReinforceConfig
print("a plugin that talks")
@pgzoo.hookimpl
def pgzoo_register(registry):
    logging.getLogger("pgzoo").warning("beware of %s", "mine")
    registry.algorithm("mine", Reinforce, config=ReinforceConfig)
"""
ODD = """
import gymnasium
from pgzoo.testing.probes import Bandit
gymnasium.register("Odd-v0", Bandit)
"""


def test_a_script_needs_no_main_guard_and_its_workers_load_its_plugins(tmp_path: Path, folder: Folder) -> None:
    (tmp_path / "pgzoo_plugin.py").write_text(INLINE)
    (tmp_path / "pgzoo_odd.py").write_text(ODD)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=folder.env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['finished', 'finished'] True\n"
    assert done.stderr.count("beware of mine") == 2  # once in the script, and once for all workers


Running = tuple[Folder, "subprocess.Popen[str]", list[int]]
LONG = ("ppo", "--env", "CartPole-v1", "--seeds", "2", "--launcher", "processes", "--workers", "2", "--json")
LONG += ("--total-steps", "1e9", "--log-every", "200", "--eval-episodes", "100000", "--compile", "off")


@contextlib.contextmanager
def training(folder: Folder) -> Iterator[Running]:
    """Train in two workers in a new session, as a terminal does; yield the folder, the process and its workers."""
    child = folder.start("run", *LONG, new_session=True)

    def begun() -> bool:
        journals = list(folder.path.glob(".pgzoo/runs/*/journal.jsonl"))
        return len(journals) == 2 and all(b'"t":"update"' in j.read_bytes() for j in journals)

    try:
        eventually(begun)
        pids = workers(child.pid)
        assert len(pids) == 2
        yield folder, child, pids
    finally:  # the workers are in its process group, and outlive it if it was killed
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


@pytest.fixture
def running(untracked: Folder) -> Iterator[Running]:
    with training(untracked) as found:
        yield found


def ends(folder: Folder) -> list[tuple[str, str]]:
    found = [r for f in folder.path.glob(".pgzoo/runs/*") for r, _ in records(f) if r and r["t"] == "end"]
    return [(r["status"], r["reason"]) for r in found]


def test_ctrl_c_stops_all_workers_and_saves_checkpoints_and_policies(running: Running) -> None:
    folder, child, pids = running
    os.killpg(child.pid, signal.SIGINT)  # to all processes of the group, as a terminal does
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130 and "Traceback" not in err
    assert err.count("Stopping and saving checkpoints. Press Ctrl-C again to quit immediately.") == 1
    assert [seed["status"] for seed in json.loads(out)["seeds"]] == ["interrupted"] * 2
    assert not any(map(alive, pids)) and len(list(folder.path.glob(".pgzoo/runs/*/checkpoints/step-*"))) >= 2
    assert ends(folder) == [("KILLED", "interrupted by SIGINT")] * 2
    assert len(list(folder.path.glob(".pgzoo/runs/*/artifacts/policy/policy.safetensors"))) == 2


@pytest.mark.slow  # tests/runs/test_signals.py has a similar test
def test_a_second_ctrl_c_quits_immediately(running: Running) -> None:
    _, child, pids = running
    child.send_signal(signal.SIGINT)
    before = read_until(child.stderr, "Press Ctrl-C again to quit immediately.")
    child.send_signal(signal.SIGINT)  # without this signal, the evaluation would take hours
    assert child.stderr is not None
    err = before + child.stderr.read()
    assert child.wait(PATIENCE) == 130 and err.endswith("Interrupted.\n") and "Traceback" not in err
    assert not any(map(alive, pids))


def test_a_killed_parent_leaves_no_workers_behind(running: Running) -> None:
    folder, child, pids = running
    child.kill()
    child.communicate()
    eventually(lambda: not any(map(alive, pids)))
    assert ends(folder) == [("KILLED", "the process that started the worker has died")] * 2
    assert len(list(folder.path.glob(".pgzoo/runs/*/checkpoints/step-*"))) >= 2


@pytest.mark.slow
def test_the_run_of_a_killed_worker_is_marked_failed_in_mlflow(folder: Folder) -> None:
    with training(folder) as (_, child, pids):
        os.kill(pids[0], signal.SIGKILL)
        eventually(lambda: ("FAILED", f"its worker process {pids[0]} was killed by SIGKILL") in ends(folder))
        child.terminate()
        out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 1 and "was killed by SIGKILL" in err
    assert sorted(seed["status"] for seed in json.loads(out)["seeds"]) == ["failed", "interrupted"]
    folder.pgzoo("sync")
    runs = folder.ask("[look(r) for r in runs('pgzoo/CartPole-v1')]")
    assert sorted((r["status"], r["tags"]["pgzoo.status"]) for r in runs) == [
        ("FAILED", "failed"),
        ("KILLED", "interrupted"),
    ]
    assert ["policy/policy.safetensors" in r["files"] for r in runs if r["status"] == "KILLED"] == [True]


@pytest.mark.slow
def test_an_algorithm_error_in_two_workers_is_reported_once(folder: Folder) -> None:
    arguments = ("--import", folder.plugin, "--env", "CartPole-v1", "--seeds", "2", "--launcher", "processes")
    out, err = folder.pgzoo("run", "raising", *arguments, "--workers", "2", "--json", code=1)
    assert [seed["status"] for seed in folder.parse(out)["seeds"]] == ["failed"] * 2
    (error,) = [line for line in err.splitlines() if line.startswith("Error:")]
    assert error.startswith('Error: algorithm "raising" raised ValueError: what a pity')


def test_launchers_are_listed_with_their_plugin() -> None:
    catalog: PluginCatalog = discover(inline=False)
    assert catalog.names("launcher")[:2] == ["local", "processes"]
    assert all(entry.summary and entry.plugin.name == "pgzoo.launchers" for entry in catalog.entries("launcher")[:2])


def test_signals_do_not_truncate_a_long_line_sent_to_a_worker() -> None:
    program = "import sys, time; time.sleep(0.5); print(len(sys.stdin.buffer.readline()), flush=True)"
    messages: queue.SimpleQueue[WorkerMessage] = queue.SimpleQueue()
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        worker = _Worker(0, [sys.executable, "-c", program], messages)
        worker.send(["x" * 1_000_000])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    said = messages.get(timeout=PATIENCE)
    worker.kill()
    assert said.text == "1000001"
