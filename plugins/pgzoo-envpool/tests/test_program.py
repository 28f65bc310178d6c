"""Runs on envpool: when `auto` selects it, when errors suggest it, the seed law, and resuming a run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pgzoo.config import Layer
from pgzoo.envs.choice import choose_backend
from pgzoo.errors import EnvError
from pgzoo.registry import discover
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import compose
from pgzoo.training import checkpoint
from pgzoo.training.events import Evaluated, RunEnded
from pgzoo.training.loop import Control, train
from pgzoo.types import EnvRequest

MUJOCO = importlib.util.find_spec("mujoco") is not None
QUICK = ("--num-envs", "8", "--eval-episodes", "4", "--max-episode-steps", "40", "--no-progress")


def pgzoo(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    return subprocess.run(
        [sys.executable, "-m", "pgzoo", *args],
        env=env | {"PGZOO_HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_backend_is_found_by_its_entry_point() -> None:
    entry = discover(inline=False).get("env_backend", "envpool")
    assert (entry.plugin.name, entry.plugin.distribution) == ("envpool", "pgzoo-envpool")


@pytest.mark.parametrize(
    ("env", "backend"),
    [
        ("CartPole-v1", "native"),
        ("Acrobot-v1", "sync"),
        ("FrozenLake-v1", "sync"),
        ("LunarLander-v3", "envpool"),
        ("BipedalWalker-v3", "envpool"),
        pytest.param("HalfCheetah-v5", "sync", marks=pytest.mark.skipif(not MUJOCO, reason="needs mujoco")),
    ],
)
def test_auto_selects_envpool_for_box2d_and_other_backends_otherwise(env: str, backend: str) -> None:
    request = EnvRequest(env, {}, None, 8)
    assert choose_backend("auto", discover(inline=False), request)[0] == backend
    without = discover(inline=False, blocked=["envpool"])
    assert choose_backend("auto", without, request)[0] == backend.replace("envpool", "sync")


@pytest.mark.parametrize(("num_envs", "backend"), [(4, "sync"), (8, "envpool")])
def test_auto_depends_on_the_environments_per_seed_not_on_the_number_of_seeds(num_envs: int, backend: str) -> None:
    catalog = discover(inline=False)
    for seeds in (1, 32):
        given = {"algorithm": "ppo", "env": "LunarLander-v3", "num_envs": num_envs, "seeds": seeds}
        assert make_plan(compose(Layer(given, ".".join), catalog), catalog).config.backend == backend


def test_auto_does_not_select_envpool_if_it_lacks_an_environment_keyword() -> None:
    windy = EnvRequest("LunarLander-v3", {"enable_wind": True}, None, 8)
    assert choose_backend("auto", discover(inline=False), windy)[0] == "sync"


@pytest.mark.parametrize(
    ("env", "successor"),
    [
        ("LunarLander-v2", "LunarLander-v3"),
        ("Taxi-v3", "Taxi-v4"),
        ("CliffWalking-v0", "CliffWalking-v1"),
        ("HalfCheetah-v3", "HalfCheetah-v5"),
    ],
)
def test_environments_that_gymnasium_refuses_use_envpool_only_on_request(env: str, successor: str) -> None:
    catalog = discover(inline=False)
    for backend in ("auto", "sync"):
        with pytest.raises(EnvError) as error:
            choose_backend(backend, catalog, EnvRequest(env, {}, None, 1))
        assert f'Use "{successor}"' in str(error.value)
        assert str(error.value).endswith("Or use --backend envpool.")
    assert choose_backend("envpool", catalog, EnvRequest(env, {}, None, 1))[0] == "envpool"


def test_the_error_about_a_missing_extra_also_suggests_envpool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Box2D", None)  # as if it weren't installed
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EnvError) as error:
        choose_backend("auto", discover(inline=False), EnvRequest("LunarLander-v3", {}, None, 1))
    assert str(error.value).endswith('pip install "pgzoo[box2d]". Or use --backend envpool.')


def test_the_error_about_an_unknown_environment_does_not_suggest_envpool() -> None:
    with pytest.raises(EnvError) as error:
        choose_backend("auto", discover(inline=False), EnvRequest("LunarLander-v9", {}, None, 1))
    assert "envpool" not in str(error.value)


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
@pytest.mark.parametrize("env", ["LunarLander-v3", "HalfCheetah-v4"])
def test_a_seed_trains_identically_alone_and_among_others(env: str, algorithm: str) -> None:
    catalog = discover(inline=False)
    given = {
        "algorithm": algorithm,
        "env": env,
        "backend": "envpool",
        "num_envs": 3,
        "max_episode_steps": 60,
        "total_steps": 1200,
        "eval_episodes": 3,
        "policy": {"name": "mlp", "hidden": (8,)},
    }
    if algorithm == "ppo":
        given |= {"rollout_steps": 64}

    def play(*seeds: int) -> tuple[Any, ...]:
        config = compose(Layer({**given, "seeds": seeds}, ".".join), catalog, preset="none")
        return tuple(train(make_plan(config, catalog), Control()))

    alone, among = play(7), play(0, 7, 3)
    a, b = alone[-1], among[-1]
    assert isinstance(a, RunEnded) and isinstance(b, RunEnded)
    assert a.state.updates[0] == b.state.updates[1] > 3 and a.state.env_steps[0] == b.state.env_steps[1]
    for name, value in a.state.params.items():
        assert torch.equal(value[0], b.state.params[name][1]), name
    for one, many in zip(alone[-3:-1], among[-3:-1], strict=True):
        assert isinstance(one, Evaluated) and isinstance(many, Evaluated)
        assert one.returns[0].tolist() == many.returns[1].tolist()


def test_a_run_is_saved_and_resumed_at_episode_boundaries(tmp_path: Path) -> None:
    run = ("run", "ppo", "--env", "LunarLander-v3", "--rollout-steps", "32", "--total-steps", "500", *QUICK)
    done = pgzoo(tmp_path, *run, "--json")
    (seed,) = answer(done)["seeds"]
    assert "LunarLander-v3 runs on backend envpool of plugin" in done.stderr and "--backend sync" in done.stderr
    assert "LunarLander-v3 can't be saved in the middle of an episode on backend envpool" in done.stderr
    assert all("\nbackend: envpool\n" in path.read_text() for path in tmp_path.rglob("config.yaml"))
    (folder,) = tmp_path.rglob(checkpoint.FOLDER_NAME)
    assert checkpoint.latest(folder).about["resume"] == "episode-boundary"
    more = pgzoo(tmp_path, "resume", seed["run_key"], "--total-steps", "900", "--no-progress", "--json")
    assert answer(more)["seeds"][0]["env_steps"] >= 900
    assert "open episodes are restarted" in more.stderr
    gone = pgzoo(tmp_path, "resume", seed["run_key"], "--total-steps", "1200", "--no-plugin", "envpool")
    assert gone.returncode == 2 and 'No environment backend "envpool"' in gone.stderr


def test_a_run_in_an_environment_that_gymnasium_refuses_trains_and_evaluates(tmp_path: Path) -> None:
    run = ("run", "reinforce", "--env", "LunarLander-v2", "--total-steps", "300", *QUICK)
    refused = pgzoo(tmp_path, *run)
    assert refused.returncode == 2
    assert 'Use "LunarLander-v3", which replaced it. Or use --backend envpool.' in refused.stderr
    (seed,) = answer(pgzoo(tmp_path, *run, "--backend", "envpool", "--json"))["seeds"]
    (again,) = answer(pgzoo(tmp_path, "evaluate", seed["run_key"], "--episodes", "4", "--json"))
    assert again["return_mean"] == pytest.approx(seed["return_mean"])
    assert pgzoo(tmp_path, "export", seed["run_key"], "--to", "policy").returncode == 0
    alone = ("evaluate", "./policy", "--episodes", "4", "--json")
    assert pgzoo(tmp_path, *alone).stderr.rstrip().endswith("Or use --backend envpool.")
    (kept,) = answer(pgzoo(tmp_path, *alone, "--backend", "envpool"))
    assert kept["episodes"] == 4


def test_pgzoo_envs_lists_the_backends_of_an_environment(tmp_path: Path) -> None:
    known = answer(pgzoo(tmp_path, "envs", "LunarLander-v3", "--json"))
    assert known["backends"] == ["sync", "async", "envpool"] and known["auto"] == "envpool"
    assert "sync, async, envpool (auto)" in pgzoo(tmp_path, "envs", "LunarLander-v3").stdout
    refused = pgzoo(tmp_path, "envs", "Taxi-v3", "--json")
    assert refused.returncode == 2
    told = json.loads(refused.stdout)
    assert (told["runs"], told["backends"], told["auto"]) == (False, ["envpool"], None)
    assert told["problem"].endswith('Use "Taxi-v4", which replaced it. Or use --backend envpool.')
