"""A run that was killed and resumed gives the same results, bit for bit, as an uninterrupted run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from program import PATIENCE, Folder, eventually
from safetensors.torch import load_file

from pgzoo.registry import Entry, discover
from pgzoo.tracking.ledger import Ledger
from pgzoo.training import checkpoint

GRID = 100
"""Steps between two points of a curve."""
STEPS = {"CartPole-v1, native": 2500, "HalfCheetah-v5": 1600, "Acrobot-v1": 6000, "MountainCar-v0": 6000}
WORLDS = {
    "CartPole-v1, native": ("--env", "CartPole-v1", "--backend", "native"),
    "CartPole-v1": ("--env", "CartPole-v1", "--backend", "sync"),
    "Pendulum-v1": ("--env", "Pendulum-v1"),
    "Acrobot-v1": ("--env", "Acrobot-v1"),
    "MountainCar-v0": ("--env", "MountainCar-v0"),
    "FrozenLake-v1": ("--env", "FrozenLake-v1"),
    "HalfCheetah-v5": ("--env", "HalfCheetah-v5", "--max-episode-steps", "100"),
}
BOX_ACTIONS = ("Pendulum-v1", "HalfCheetah-v5")
BUILT_INS = {e.name: e for e in discover(inline=False).entries("algorithm") if e.plugin.source == "built-in"}
QUICK = [("ppo", "CartPole-v1, native")]
"""The case in `make test`; tests/envs/test_state.py has every class of environments, without killing a run."""


def fits(algorithm: Entry, world: str) -> bool:
    """Return whether the algorithm supports the actions of the environment, according to its `facts`."""
    other = "Discrete" if world in BOX_ACTIONS else "Box"
    return not algorithm.facts.get("actions", "").startswith(other)


OTHERS = [(a, w) for a, entry in BUILT_INS.items() for w in WORLDS if fits(entry, w) and (a, w) not in QUICK]
NO_BOX2D = pytest.mark.skipif(
    importlib.util.find_spec("Box2D") is None, reason="needs Box2D: pip install 'pgzoo[box2d]'"
)
NO_MUJOCO = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None, reason="needs mujoco: pip install 'pgzoo[mujoco]'"
)


Runs = list[Path]
"""The folders of the runs that one command started, one per seed."""


def all_runs(folder: Folder) -> Runs:
    return sorted(folder.path.glob(".pgzoo/runs/*"))


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def curve(run: Path) -> list[Any]:
    """Return all points in the order in which they were written, without times, which may differ."""
    points: list[Any] = []
    for record in records(run):
        if record["t"] in ("update", "evaluation"):
            metrics = {k: v for k, v in record.get("m", {}).items() if not k.startswith("time/")}
            points.append((record.get("steps", record.get("step")), record.get("mode"), record.get("e"), metrics))
    return points


def in_mlflow(runs: Runs) -> list[list[tuple[Any, ...]]]:
    """Wait until everything is uploaded; return every row of every curve in the MLflow store."""
    eventually(lambda: all(Ledger.read(run).closed for run in runs))
    with contextlib.closing(sqlite3.connect(runs[0].parents[2] / "mlflow.db")) as store:
        return [
            store.execute(
                "SELECT r.status, m.key, m.step, m.value FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid "
                "JOIN tags t ON t.run_uuid = m.run_uuid AND t.key = 'pgzoo.run_key' "
                "WHERE t.value = ? AND m.key NOT LIKE 'time/%' ORDER BY m.key, m.step, m.value",
                [run.name],
            ).fetchall()
            for run in runs
        ]


def assert_law(whole: Runs, cut: Runs) -> None:
    """Assert equal parameters, counters and curves, on this machine and in MLflow."""
    for one, other in zip(whole, cut, strict=True):
        p, q = (load_file(run / "artifacts/policy/policy.safetensors") for run in (one, other))
        assert p.keys() == q.keys() and all(torch.equal(p[name], q[name]) for name in p)
        ends = [checkpoint.latest(run / checkpoint.FOLDER_NAME) for run in (one, other)]
        assert ends[0].env_steps == ends[1].env_steps
        for tree in ("params", "buffers", "optimizer"):
            x, y = (getattr(end.state, tree) for end in ends)
            assert x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x), tree
        assert curve(one) == curve(other)
    assert in_mlflow(whole) == in_mlflow(cut)


def assert_unbroken(runs: Runs, steps: int) -> None:
    """Assert that no point is missing or occurs twice, on this machine and in MLflow."""
    for run, shipped in zip(runs, in_mlflow(runs), strict=True):
        end = checkpoint.latest(run / checkpoint.FOLDER_NAME).env_steps
        points = [step for r in records(run) if r["t"] == "update" and r.get("m") for step in r["steps"]]
        assert end >= steps and points == [*range(GRID, end + 1, GRID), min(end, steps)]  # the last is the summary
        assert {status for status, *_ in shipped} == {"FINISHED"}
        assert len({(name, step) for _, name, step, _ in shipped}) == len(shipped) > 2 * len(points)


def options(algorithm: str, steps: int, *more: str, eval_every: int = 1000, eval_episodes: int = 2) -> list[str]:
    run = [
        "run",
        algorithm,
        *more,
        "--preset",
        "none",
        "--seeds",
        "0,1",
        "--num-envs",
        "4",
        "--total-steps",
        str(steps),
    ]
    run += ["--log-every", str(GRID), "--checkpoint-every", "200"]
    run += ["--eval-every", str(eval_every), "--eval-episodes", str(eval_episodes)]
    settings = BUILT_INS[algorithm].load_config().model_fields
    if "rollout_steps" in settings and settings["rollout_steps"].default > 32:  # otherwise there would be two updates
        run += ["--rollout-steps", "32"]
    return run


def train(folder: Folder, run: list[str]) -> Runs:
    """Train without interruption; return the folders of the runs."""
    group = folder.parse(folder.pgzoo(*run, "--json")[0])["group"]
    return [one for one in all_runs(folder) if one.name.startswith(group)]


def kill(folder: Folder, run: list[str], due: Callable[[Runs], bool], delay: float = 0.0) -> tuple[Runs, str]:
    """Start a run and kill it `delay` seconds after `due` is true; return the folders of its runs, and its stderr."""
    before = set(all_runs(folder))
    child = folder.start(*run)

    def runs() -> Runs:
        return sorted(set(all_runs(folder)) - before)

    deadline = time.monotonic() + PATIENCE
    while not due(runs()) and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    child.kill()
    _, said = child.communicate()
    assert child.returncode == -signal.SIGKILL
    return runs(), said


def at_random(steps: float, chance: random.Random) -> dict[str, Any]:
    """Return arguments of `kill` for a random moment before this number of steps is done."""
    until = chance.uniform(0.0, steps)

    def due(runs: Runs) -> bool:
        kept = (path for run in runs for path in checkpoint.paths(run / checkpoint.FOLDER_NAME))
        return any(int(path.name.removeprefix("step-")) >= until for path in kept)

    return {"due": due, "delay": chance.uniform(0.0, 0.05)}


def resume(folder: Folder, runs: Runs, *more: str) -> str:
    """Resume all seeds of a run; return the stderr of the command."""
    return folder.pgzoo("resume", runs[0].name.rpartition("-s")[0], *more)[1]


def check(algorithm: str, world: str, folder: Folder, chance: random.Random) -> None:
    steps = STEPS.get(world, 4000)
    run = options(algorithm, steps, *WORLDS[world])
    whole = train(folder, run)
    cut, _ = kill(folder, run, **at_random(0.9 * steps, chance))
    resume(folder, cut)
    assert len(cut) == 2
    assert_unbroken(cut, steps)
    assert_law(whole, cut)


@pytest.mark.parametrize(("algorithm", "world"), QUICK)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(algorithm: str, world: str, shared: Folder) -> None:
    check(algorithm, world, shared, random.Random(f"{algorithm} {world} 0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "world"),
    [pytest.param(a, w, marks=[NO_MUJOCO] if w == "HalfCheetah-v5" else []) for a, w in OTHERS],
)
def test_every_algorithm_resumes_exactly_after_a_kill_in_every_environment(
    algorithm: str, world: str, shared: Folder
) -> None:
    check(algorithm, world, shared, random.Random(f"{algorithm} {world} 1"))


@pytest.mark.slow
def test_a_killed_run_resumes_exactly_with_libraries_of_pgzoo_compile(shared: Folder) -> None:
    """`pgzoo compile` builds all libraries; the run and the resumed run only load them."""
    run = options("ppo", 4000, "--env", "CartPole-v1", "--backend", "compiled", "--compile", "on")
    before = all_runs(shared)
    made = shared.parse(shared.pgzoo("compile", *run[1:], "--json")[0])
    libraries = sorted(path.name for path in Path(made["folder"]).glob("*.so"))
    assert len(made["functions"]) == 2 and set(made["functions"]) <= set(libraries)  # values, and the gradient step
    again = shared.parse(shared.pgzoo("compile", *run[1:], "--json")[0])
    assert (again["functions"], again["loops"]) == ([], 0)
    assert all_runs(shared) == before

    whole = train(shared, run)
    cut, _ = kill(shared, run, **at_random(3600, random.Random(7)))
    resume(shared, cut)
    assert_unbroken(cut, 4000)
    assert_law(whole, cut)
    assert sorted(path.name for path in Path(made["folder"]).glob("*.so")) == libraries
    shared.pgzoo("repro", cut[1].name)  # with the other seed, as in training: alone, its last bits would differ


def test_a_run_killed_in_its_final_evaluation_is_evaluated_when_resumed(shared: Folder) -> None:
    run = options("a2c", 1000, *WORLDS["CartPole-v1"], eval_every=0, eval_episodes=1000)
    whole = train(shared, run)

    def trained(runs: Runs) -> bool:
        kept = [checkpoint.paths(run / checkpoint.FOLDER_NAME) for run in runs]
        return bool(kept) and all(p and checkpoint.load(p[-1]).about["status"] == "finished" for p in kept)

    cut, _ = kill(shared, run, trained)
    assert not [r for one in cut for r in records(one) if r["t"] in ("evaluation", "end")]
    resume(shared, cut)
    assert_unbroken(cut, 1000)
    assert_law(whole, cut)
    modes = [[(r["mode"], len(r["returns"])) for r in records(one) if r["t"] == "evaluation"] for one in cut]
    assert modes == [[("sampled", 1000), ("greedy", 1000)]] * 2


@pytest.mark.slow
def test_a_resumed_run_stops_on_the_same_plateau_as_an_uninterrupted_one(shared: Folder) -> None:
    """The stop rule needs returns from before the kill. With this learning rate, the policy hardly changes."""
    run = [*options("a2c", 100_000, *WORLDS["CartPole-v1"]), "--learning-rate", "1e-9", "--stop-on-plateau", "3000"]
    whole = train(shared, run)
    cut, _ = kill(shared, run, **at_random(3000, random.Random(5)))
    resume(shared, cut)
    assert_law(whole, cut)
    ends = [r["reason"] for one in cut for r in records(one) if r["t"] == "end"]
    assert ends == ["no better mean return of 100 episodes for 3,000 steps"] * 2


PROBES = ("--import", "pgzoo.testing.probes")
OPEN = "can't be saved in the middle of an episode", "open episodes are restarted"
REMEMBERS = ("does not start identically after each reset", "do not start identically after each reset")
WEAKER = [
    pytest.param(
        "a2c",
        ("--env", "pgzoo/AnySpaces-v0", *PROBES),
        OPEN,
        id="an environment of one's own",  # also in tests/runs/test_resume.py, without a kill
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "reinforce",
        ("--env", "pgzoo/LeakyReset-v0", *PROBES),
        REMEMBERS,
        id="one that remembers",  # also in tests/runs/test_resume.py, without a kill
        marks=pytest.mark.slow,
    ),
    pytest.param("a2c", ("--env", "CartPole-v1", "--backend", "async"), OPEN, id="async", marks=pytest.mark.slow),
    pytest.param("a2c", ("--env", "LunarLander-v3"), OPEN, id="LunarLander", marks=[pytest.mark.slow, NO_BOX2D]),
    pytest.param(
        "reinforce",
        ("--env", "BipedalWalker-v3", "--max-episode-steps", "100"),
        REMEMBERS,
        id="BipedalWalker",
        marks=[pytest.mark.slow, NO_BOX2D],
    ),
]


@pytest.mark.parametrize(("algorithm", "world", "told"), WEAKER)
def test_a_run_that_resumes_inexactly_continues_its_curve_without_gaps(
    algorithm: str, world: tuple[str, ...], told: tuple[str, str], shared: Folder
) -> None:
    """Until the kill, the curve is that of an uninterrupted run; then no point is missing. Each command warns once."""
    run = options(algorithm, 2000, *world)
    whole = train(shared, run)
    cut, said = kill(shared, run, **at_random(1500, random.Random(3)))
    assert said.count(told[0]) == 1
    kept = [checkpoint.latest(one / checkpoint.FOLDER_NAME) for one in cut]
    assert {one.about["resume"] for one in kept} == {"episode-boundary"}
    before = [curve(one) for one in cut]
    said = resume(shared, cut, *(PROBES if PROBES[1] in world else ()))
    assert (said.count(told[1]), said.count(told[0])) == (1, 0)
    assert_unbroken(cut, 2000)
    for alone, one, written, at in zip(whole, cut, before, kept, strict=True):
        assert curve(one)[: len(written)] == written == curve(alone)[: len(written)]
        assert max(step for steps, *_ in written if steps for step in steps) >= at.env_steps // GRID * GRID
