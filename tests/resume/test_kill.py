"""The law of resuming: a run that was killed and resumed is, bit for bit, the run that was never left."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pgzoo import checkpoint
from pgzoo.registry import discover

STEPS = {"HalfCheetah-v5": 1600, "Acrobot-v1": 6000, "MountainCar-v0": 6000}
WORLDS = {
    "CartPole-v1, native": ("--env", "CartPole-v1", "--backend", "native"),
    "CartPole-v1": ("--env", "CartPole-v1", "--backend", "sync"),
    "Pendulum-v1": ("--env", "Pendulum-v1"),
    "Acrobot-v1": ("--env", "Acrobot-v1"),
    "MountainCar-v0": ("--env", "MountainCar-v0"),
    "FrozenLake-v1": ("--env", "FrozenLake-v1"),
    "HalfCheetah-v5": ("--env", "HalfCheetah-v5", "--max-episode-steps", "100"),
}
DISCRETE = ("CartPole-v1, native", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "FrozenLake-v1")
BUILT_INS = [e.name for e in discover(inline=False).entries("algorithm") if e.plugin.source == "built-in"]
QUICK = [
    ("ppo", "CartPole-v1, native"),
    ("a2c", "CartPole-v1"),
    ("ppo", "Pendulum-v1"),
    ("reinforce", "FrozenLake-v1"),
    ("a2c", "MountainCar-v0"),
]
OTHERS = [(a, w) for a in BUILT_INS for w in WORLDS if (a, w) not in QUICK]
NO_MUJOCO = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None, reason="needs mujoco: pip install 'pgzoo[mujoco]'"
)


def pgzoo(home: Path, *args: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "pgzoo", *args, "--no-progress"],
        env=environment | {"PGZOO_HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=home.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str]) -> str:
    _, err = child.communicate(timeout=170)
    assert child.returncode == 0, err
    return err


def curve(run: Path) -> list[Any]:
    """All points, in the order in which they were written; times are no part of the law."""
    points: list[Any] = []
    for line in (run / "journal.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["t"] in ("update", "evaluation"):
            metrics = {k: v for k, v in record.get("m", {}).items() if not k.startswith("time/")}
            points.append((record.get("steps", record.get("step")), record.get("mode"), record.get("e"), metrics))
    return points


def in_mlflow(home: Path) -> dict[str, list[tuple[str, int, float]]]:
    """Every point of every run in the store, by seed."""
    code = (
        "import json, warnings; warnings.simplefilter('ignore')\nfrom mlflow import MlflowClient\n"
        f"client = MlflowClient('sqlite:///{home}/mlflow.db')\n"
        "runs = client.search_runs([e.experiment_id for e in client.search_experiments()])\n"
        "print(json.dumps({r.data.params['seed']: sorted((m, p.step, p.value) for m in r.data.metrics\n"
        "    if not m.startswith('time/') for p in client.get_metric_history(r.info.run_id, m)) for r in runs}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def assert_law(whole: Path, cut: Path) -> None:
    a, b = sorted((whole / "runs").iterdir()), sorted((cut / "runs").iterdir())
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        p, q = (load_file(run / "artifacts/policy/policy.safetensors") for run in (one, other))
        assert p.keys() == q.keys() and all(torch.equal(p[name], q[name]) for name in p)
        ends = [checkpoint.latest(run / checkpoint.FOLDER_NAME) for run in (one, other)]
        assert ends[0].env_steps == ends[1].env_steps
        for tree in ("params", "buffers", "optimizer"):
            x, y = (getattr(end.state, tree) for end in ends)
            assert x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x), tree
        assert curve(one) == curve(other)
        points = [step for steps, mode, _, m in curve(other) if mode is None and "loss/total" in m for step in steps]
        assert points == sorted(set(points))


def check(algorithm: str, world: str, tmp_path: Path, seed: int, *, mlflow: bool = False) -> None:
    steps = str(STEPS.get(world, 4000))
    run = ["run", algorithm, *WORLDS[world], "--seeds", "0,1", "--total-steps", steps, "--log-every", "100"]
    run += ["--checkpoint-every", "200", "--eval-every", "1000", "--eval-episodes", "2", "--threads", "1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(pgzoo(whole, *run))
    rng = random.Random(f"{algorithm} {world} {seed}")
    child, until = pgzoo(cut, *run), rng.uniform(0.0, 0.9) * int(steps)

    def reached() -> bool:
        found = [path for folder in cut.glob("runs/*/checkpoints") for path in checkpoint.paths(folder)]
        return any(int(path.name.removeprefix("step-")) >= until for path in found)

    deadline = time.monotonic() + 120
    while not reached() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.kill()
    child.communicate()
    group = next((cut / "runs").iterdir()).name.rpartition("-s")[0]
    finish(pgzoo(cut, "resume", group))
    assert_law(whole, cut)
    if mlflow:
        finish_sync(whole, cut)
        assert in_mlflow(whole) == in_mlflow(cut)


def finish_sync(*homes: Path) -> None:
    for home in homes:
        environment = os.environ | {"PGZOO_HOME": str(home)}
        subprocess.run([sys.executable, "-m", "pgzoo", "sync"], env=environment, check=True, capture_output=True)


@pytest.mark.parametrize(("algorithm", "world"), QUICK)
def test_a_killed_run_goes_on_as_if_it_had_never_been_left(algorithm: str, world: str, tmp_path: Path) -> None:
    check(algorithm, world, tmp_path, 0, mlflow=world == "CartPole-v1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "world"),
    [pytest.param(a, w, marks=[NO_MUJOCO] if w == "HalfCheetah-v5" else []) for a, w in OTHERS],
)
def test_every_algorithm_obeys_on_every_world(algorithm: str, world: str, tmp_path: Path) -> None:
    check(algorithm, world, tmp_path, 1)
