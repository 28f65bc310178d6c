"""Wrappers and frame stacking as settings: backends and evaluations apply them; files never import their code."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from program import Folder

sys.path.insert(0, str(Path(__file__).parent))

import odd_envs  # noqa: F401  registers the environments

import pgzoo
from pgzoo.envs.asynchronous import AsyncBackend
from pgzoo.envs.choice import choose_backend, inspect_environment
from pgzoo.envs.single import make_single
from pgzoo.envs.state import classic_control
from pgzoo.envs.sync import SyncBackend
from pgzoo.envs.wrappers import find_wrappers
from pgzoo.errors import ConfigError, EnvError, UnfitError, UsageError
from pgzoo.registry import PluginCatalog
from pgzoo.tracking import Home
from pgzoo.types import EnvRequest

HALF = """import gymnasium as gym

class Half(gym.RewardWrapper):
    def reward(self, reward):
        return reward / 2

class Seven(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 9, (1,), "float32")

    def observation(self, observation):
        return (0 * observation + 7)[:1]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the working directory that is not imported yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "halving.py").write_text(HALF)
    yield "halving"
    sys.modules.pop("halving", None)


def request(*wrappers: str, env: str = "CartPole-v1", rows: int = 2, frames: int = 0, **kwargs: Any) -> EnvRequest:
    return EnvRequest(env, kwargs, None, rows, (classic_control(),), wrappers=wrappers, frame_stack=frames)


@pytest.mark.parametrize("backend", [SyncBackend(), AsyncBackend()])
def test_stacked_frames_are_the_last_observations(backend: Any) -> None:
    envs, plain = backend.open(request(frames=3)), SyncBackend().open(request())
    try:
        seeds, go = np.array([3, 4]), np.ones(2, np.bool_)
        seen = [plain.reset(seeds)]
        np.testing.assert_array_equal(envs.reset(seeds), np.stack([seen[0]] * 3, axis=1))
        for _ in range(4):
            seen.append(plain.step(np.array([1, 0]), go).obs)
            frames = envs.step(np.array([1, 0]), go).obs
            assert frames.shape == (2, 3, 4)
            last = ([seen[0]] * 3 + seen[1:])[-3:]
            np.testing.assert_array_equal(frames, np.stack(last, axis=1))
    finally:
        envs.close()


def test_frames_are_copies_of_an_array_that_the_environment_changes() -> None:
    envs = SyncBackend().open(request(env="odd/Reusing-v0", rows=1, frames=3))
    assert envs.reset(np.array([1])).ravel().tolist() == [0, 0, 0]
    seen = [envs.step(np.zeros(1, np.int64), np.ones(1, np.bool_)).obs.ravel().tolist() for _ in range(7)]
    # step 6 resets, and the environment counts on
    assert seen == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [5, 5, 5], [5, 5, 6]]


def test_environments_with_restored_frames_continue_identically() -> None:
    here, there = (SyncBackend().open(request(frames=3)) for _ in range(2))
    seeds, go = np.array([3, 4]), np.ones(2, np.bool_)
    here.reset(seeds)
    for _ in range(5):
        here.step(np.array([1, 0]), go)
    there.reset(seeds + 9)
    saved = here.save()
    assert saved is not None
    there.restore(saved)
    for step in range(80):
        actions = np.array([step % 2, 1])
        for mine, theirs in zip(here.step(actions, go), there.step(actions, go), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_wrappers_are_applied_in_order_and_before_frame_stacking(module: str) -> None:
    importlib.import_module(module)
    twice = "gymnasium.wrappers:FlattenObservation"
    env = make_single(request("halving:Seven", "halving:Half", twice, frames=2))
    assert env.observation_space.shape == (2, 1)
    obs, _ = env.reset(seed=0)
    assert obs.tolist() == [[7.0], [7.0]]
    assert env.step(0)[1] == 0.5
    spec = inspect_environment(request("halving:Seven", frames=2))
    assert spec.observation_space.shape == (2, 1)


def test_the_native_backend_supports_no_wrappers_or_frame_stacking(catalog: PluginCatalog) -> None:
    assert choose_backend("auto", catalog, request())[0] == "native"
    assert choose_backend("auto", catalog, request(frames=2))[0] == "sync"
    with pytest.raises(UnfitError, match=r"native.* can't run CartPole-v1: it can't put wrappers around"):
        choose_backend("native", catalog, request("gymnasium.wrappers:FlattenObservation"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnasium.wrappers:Nothing", 'module "gymnasium.wrappers" has no Nothing'),
        ("os:system", "expected a subclass of gymnasium.Wrapper"),
        ("builtins:dict", "expected a subclass of gymnasium.Wrapper"),
        ("not_here:Half", 'is in module "not_here", which is not imported. .* Add: --import not_here'),
        ("gymnasium.wrappers:NormalizeObservation", "keeps statistics of its own .* Use --normalize-obs"),
        ("gymnasium.wrappers:NormalizeReward", "keeps statistics of its own .* Use --normalize-reward"),
        ("gymnasium.nothing:Half", "can't be imported: ModuleNotFoundError"),
    ],
)
def test_names_that_are_not_wrappers_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_wrappers([name])


def test_the_error_names_a_wrapper_that_needs_arguments() -> None:
    with pytest.raises(EnvError, match=r'wrapper "gymnasium\.wrappers\.\w+:ClipReward" can\'t .* environment alone'):
        make_single(request("gymnasium.wrappers:TimeAwareObservation", "gymnasium.wrappers:ClipReward"))


@pytest.mark.parametrize("name", ["Half", "halving:", "a b:C", "halving:Half()"])
def test_a_wrapper_name_that_is_not_module_and_class_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected module:Class"):
        pgzoo.plan("random", env="CartPole-v1", total_steps=10, wrappers=[name])


def test_wrappers_that_the_user_names_are_imported_but_not_those_of_a_file(module: str, tmp_path: Path) -> None:
    settings = {"algorithm": "random", "env": "CartPole-v1", "total_steps": 10, "wrappers": ["halving:Half"]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UsageError, match="Add: --import halving"):
        pgzoo.plan(config="run.yaml")
    assert module not in sys.modules
    pgzoo.plan(config="run.yaml", imports=[module])
    del sys.modules[module]
    plan = pgzoo.plan("random", env="CartPole-v1", total_steps=10, wrappers=["halving:Half"])
    assert plan.config.flat()["wrappers"] == "halving:Half" and plan.config.backend == "sync"
    one = pgzoo.plan("random", env="CartPole-v1", total_steps=10, wrappers="halving:Half")
    assert one.config == plan.config


def test_the_config_of_a_run_omits_unused_wrapper_settings(home: Home) -> None:
    plan = pgzoo.plan("random", env="CartPole-v1", total_steps=10)
    assert not {"wrappers", "frame_stack", "init_from"} & (plan.config.nested().keys() | plan.config.flat().keys())


@pytest.mark.slow  # starts the program several times
def test_resume_repro_and_evaluate_need_the_import(folder: Folder) -> None:
    (folder.path / "halving.py").write_text(HALF)
    short = "--total-steps 400 --eval-episodes 2 --no-progress --tracking-uri none".split()
    folder.pgzoo("run", "reinforce", "--env", "CartPole-v1", "--wrapper", "halving:Half", "--frame-stack", "2", *short)
    for command in (("evaluate",), ("resume", "--total-steps", "600"), ("repro",)):
        name, *options = command
        err = folder.pgzoo(name, "reinforce", *options, code=2)[1]
        assert 'The wrapper "halving:Half" is in module "halving", which is not imported' in err
        assert "Add: --import halving" in err
        folder.pgzoo(name, "reinforce", *options, "--import", "halving")
    out = folder.pgzoo("evaluate", "reinforce", "--episodes", "3", "--import", "halving", "--json")[0]
    row = json.loads(out)[0]
    assert row["return_mean"] == row["length_mean"] / 2


def test_gymnasium_wrappers_need_no_import() -> None:
    code = """
import sys
from pgzoo.envs.wrappers import find_wrappers
del sys.modules["gymnasium.wrappers.stateful_action"]  # modules that nothing has imported yet need other packages
find_wrappers(["gymnasium.wrappers.stateful_action:StickyAction"])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
