"""Components given as classes, functions and modules instead of names."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import nn

import pgzoo
from pgzoo.algorithms.ppo import PPO
from pgzoo.envs.ids import successor
from pgzoo.errors import ConfigError, EnvError, PluginError, UnfitError, UnknownName, UsageError
from pgzoo.play.evaluation import environment_for
from pgzoo.policies.mlp import MLP
from pgzoo.registry import discover
from pgzoo.registry.objects import find_imported, register_env
from pgzoo.runs.reproduce import reproduce
from pgzoo.runs.resume import resume
from pgzoo.tracking import Home, find
from pgzoo.training.engine import Engine

SHORT: dict[str, Any] = {"total_steps": 200, "eval_episodes": 2, "tracking_uri": "none", "num_envs": 2}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module `given.py`, imported by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield importlib.import_module("given")
    sys.modules.pop("given", None)
    for name in ("Count", "Count-v0", "make_short"):
        gym.registry.pop(name, None)


def test_a_run_accepts_algorithm_environment_and_policy_as_objects(
    given: Any, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    result = pgzoo.run(given.Scaled, env=given.make_short, policy=given.Net, scale=2.0, seeds=2, **SHORT)
    config = result.plan.config
    assert (config.algorithm, config.env, config.policy.name) == ("given:Scaled", "given:make_short", "given:Net")
    assert config.name == "Scaled" and config.settings.scale == 2.0 and result.status == "finished"
    assert all(run.lengths.tolist() == [2, 2] for run in result.runs)
    assert set(result.policy(1).params) == {
        f"net.layers.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    said = "resume and repro need the same objects again (given:Scaled, given:Net, given:make_short): "
    assert said + "give them --import given." in caplog.text


def test_resume_repro_and_evaluate_find_objects_in_imported_modules(given: Any, home: Home) -> None:
    result = pgzoo.run(given.Scaled, env=given.Count, policy=given.Net, **SHORT)
    [found], key = find(result.group, home), result.runs[0].run_key
    with pytest.raises(UnknownName, match=r'No algorithm "given:Scaled"\. It is defined in .* --import given$'):
        resume([found], discover(), total_steps=400)
    with pytest.raises(UnknownName, match=r'No policy "given:Net"\. It is defined in Python'):
        pgzoo.evaluate(key)
    gym.registry.pop("Count")
    catalog = discover(imports=["given"])
    assert reproduce(found, catalog).first is None
    assert resume([found], catalog, total_steps=400).runs[0].env_steps >= 400
    assert pgzoo.evaluate(key, episodes=2, imports=["given"]).length_mean[0] == 5.0


@pytest.mark.parametrize("where", [{"rollout_workers": 1}, {"launcher": "processes", "workers": 2}])
def test_a_run_of_an_imported_class_can_be_resumed_in_other_processes(
    given: Any, home: Home, where: dict[str, Any]
) -> None:
    result = pgzoo.run("reinforce", env=given.Count, seeds=2, **SHORT)
    longer = resume(find(result.group, home), discover(imports=["given"]), total_steps=400, **where)
    assert longer.status == "finished" and all(run.env_steps >= 400 for run in longer.runs)


def test_a_run_with_local_objects_warns_that_it_cannot_be_resumed(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    def build(inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs)

    result = pgzoo.run("reinforce", env=lambda: gym.make("CartPole-v1"), policy=build, **SHORT)
    assert result.status == "finished" and "<locals>.build" in result.plan.config.policy.name
    assert "and can't find " in caplog.text and "Define them at the top level of a module" in caplog.text


def test_runs_whose_environments_have_the_same_name_keep_their_own(given: Any, home: Home) -> None:
    def length(k: int) -> Any:
        return lambda: given.Count(length=k)

    results = [pgzoo.run("reinforce", env=length(k), **SHORT) for k in (3, 7)]
    assert len({result.plan.config.env for result in results}) == 1
    assert [result.evaluate(episodes=2).length_mean[0] for result in results] == [3.0, 7.0]


@pytest.mark.parametrize("class_first", [True, False])
def test_a_class_may_also_be_registered_with_a_version(given: Any, home: Home, class_first: bool) -> None:
    def of_class() -> list[int]:
        return pgzoo.run("reinforce", env=given.Count, **SHORT).runs[0].lengths.tolist()  # type: ignore[no-any-return]

    def of_id() -> list[int]:
        gym.register("Count-v0", given.Count, kwargs={"length": 3})
        return pgzoo.run("reinforce", env="Count-v0", **SHORT).runs[0].lengths.tolist()  # type: ignore[no-any-return]

    assert (of_class(), of_id()) == ([5, 5], [3, 3]) if class_first else (of_id(), of_class()) == ([3, 3], [5, 5])
    assert successor("given:Count") is None


def test_a_run_is_evaluated_in_its_environment_after_another_of_the_same_name_has_failed(
    given: Any, home: Home, tmp_path: Path
) -> None:
    def fail() -> Any:
        raise OSError("no simulator")

    result = pgzoo.run("reinforce", env=(lambda: given.Count(length=3)), **SHORT)
    with pytest.raises(EnvError, match="no simulator"):
        pgzoo.run("reinforce", env=(lambda: fail()), **SHORT)
    assert result.evaluate(episodes=2).length_mean[0] == 3.0
    policy = result.policy()
    assert environment_for(policy).make is result.plan.make_env
    with pytest.raises(EnvError, match="no simulator"):
        environment_for(policy, policy.env.id if policy.env else None)


def test_threads_train_in_their_own_environments_of_the_same_name(given: Any, home: Home) -> None:
    def length(k: int) -> Any:
        return lambda: given.Count(length=k)

    def train(k: int) -> list[int]:
        made.wait()
        lengths: list[int] = pgzoo.run("reinforce", env=length(k), **SHORT).runs[0].lengths.tolist()
        return lengths

    made = threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(train, (2, 4, 6))) == [[2, 2], [4, 4], [6, 6]]


def test_a_policy_of_an_imported_class_can_be_loaded_in_python(given: Any, home: Home, tmp_path: Path) -> None:
    folder = pgzoo.run("reinforce", env="CartPole-v1", policy=given.Net, **SHORT).policy().save(tmp_path)
    with pytest.raises(UnknownName, match=r"\(in Python, with the argument imports\): --import given$"):
        pgzoo.load_policy(folder)
    assert pgzoo.load_policy(folder, imports=["given"]).component.name == "given:Net"


def test_a_policy_of_a_local_function_says_why_it_cannot_be_loaded(home: Home, tmp_path: Path) -> None:
    def build(inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs)

    folder = pgzoo.run("reinforce", env="CartPole-v1", policy=build, **SHORT).policy().save(tmp_path)
    with pytest.raises(UnknownName, match=r"<locals>\.build\"\. It was defined in a notebook, a script or a function"):
        pgzoo.load_policy(folder)


def test_every_seed_starts_with_the_weights_of_a_module_given_as_policy(given: Any, home: Home) -> None:
    net = nn.Linear(4, 2)
    plan = pgzoo.plan("reinforce", env="CartPole-v1", policy=net, seeds=3, **SHORT)
    engine = Engine(plan)
    engine.close()
    for weights in engine.state.params["policy.net.weight"]:
        assert torch.equal(weights, net.weight)
    with pytest.raises(UnfitError, match=r"Linear has 2 outputs, and 1 are needed \(1 for a critic\)"):
        pgzoo.plan("a2c", env="CartPole-v1", policy=net, **SHORT)


def test_component_settings_without_a_name_apply_to_the_default_component() -> None:
    given = {"policy": {"hidden": (5,)}, "estimator": {"lam": 0.5}}
    config = pgzoo.plan("ppo", env="CartPole-v1", **given).config
    assert (config.policy.name, config.policy.settings.hidden) == ("mlp", (5,))
    assert (config.estimator.name, config.estimator.settings.lam) == ("gae", 0.5)


def test_registered_classes_are_recorded_by_their_registered_names() -> None:
    config = pgzoo.plan(PPO, env="CartPole-v1", policy={"name": MLP, "hidden": (8,)}, total_steps=100).config
    assert config.algorithm == "ppo" and config.policy.name == "mlp" and config.name is None
    assert config.policy.nested()["hidden"] == [8]


class Incomplete:
    def loss(self) -> None: ...


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": 3}, "algorithm: expected a name or a class with a method loss, update or loop"),
        ({"algorithm": bytes}, "algorithm: expected a name or a class"),
        ({"algorithm": Incomplete}, "class Incomplete has no attribute estimator"),
        ({"policy": 3}, "policy: expected a name, a torch module, its class, or a function"),
        ({"policy": lambda: nn.Linear(1, 1)}, r"must take \(inputs, outputs\)"),
        ({"env": 3}, "env: expected an id, or a class or function that makes the environment, not int"),
        ({"wrappers": [3]}, "wrappers: expected wrapper classes or their names, not int"),
        ({"wrappers": [type("Local", (gym.Wrapper,), {})]}, "isn't a class at the top level of a module"),
    ],
)
def test_objects_of_the_wrong_kind_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pgzoo.plan(**({"algorithm": "reinforce", "env": "CartPole-v1", "total_steps": 100} | settings))


def test_an_environment_instance_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not an environment \(TimeLimit\).*lambda: MyEnv"):
        pgzoo.plan("reinforce", env=gym.make("CartPole-v1"), total_steps=100)


class NeedsConfig(PPO):
    def __init__(self, config: Any) -> None:
        """Take an argument that pgzoo doesn't pass."""


class RaisesWhenMade(PPO):
    def __init__(self) -> None:
        raise ValueError("no such file.")


def raises_when_built(inputs: int, outputs: int) -> Any:
    raise KeyError("boom")


def forgets_return(inputs: int, outputs: int) -> Any:
    torch.nn.Linear(inputs, outputs)


def forgets_policy(config: Any, spec: Any, needs: Any) -> Any:
    """Return nothing."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"algorithm": NeedsConfig},
            r'algorithm ".*:NeedsConfig" can\'t be created: NeedsConfig takes \(config\), but pgzoo calls it without '
            r"arguments\. Its methods get the settings, as ctx\.settings or hyper\.$",
        ),
        (
            {"algorithm": RaisesWhenMade},
            r'algorithm ".*:RaisesWhenMade" can\'t be created: ValueError: no such file \(.*_objects\.py, line \d+\)\. '
            r"PGZOO_DEBUG=1 shows the traceback\.$",
        ),
        (
            {"policy": raises_when_built},
            r'policy ".*:raises_when_built" can\'t be created: KeyError: \'boom\' \(.*test_objects\.py, line \d+\)\. ',
        ),
        (
            {"policy": forgets_return},
            r'policy ".*:forgets_return" can\'t be created: forgets_return returned None; it must return a torch\.nn',
        ),
        (
            {"policy": forgets_policy},
            r'policy ".*:forgets_policy" can\'t be created: forgets_policy returned None; it must return a policy',
        ),
    ],
)
def test_the_error_of_a_component_that_cannot_be_created_names_it_and_the_line(given: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        pgzoo.plan(**{"algorithm": "ppo", "env": "CartPole-v1", **given})


def test_the_processes_launcher_refuses_objects(given: Any, home: Home) -> None:
    with pytest.raises(ConfigError, match="launcher processes: its processes can't be given the objects given:Scaled"):
        pgzoo.run(given.Scaled, env="CartPole-v1", launcher="processes", **SHORT)


@pytest.mark.parametrize("several", [True, False])
def test_wrappers_may_be_classes(several: bool) -> None:
    wrapper = gym.wrappers.FlattenObservation
    plan = pgzoo.plan("random", env="CartPole-v1", total_steps=9, wrappers=[wrapper] if several else wrapper)
    assert plan.config.wrappers == ("gymnasium.wrappers.transform_observation:FlattenObservation",)


@pytest.mark.parametrize("name", ["os:system", "shutil:rmtree", "given:os.system", "given:gym.make"])
def test_names_of_objects_do_not_resolve_to_code_outside_imported_modules(name: str, given: Any) -> None:
    given.os = __import__("os")
    assert find_imported(name, ["given"]) is None
    register_env(name, ["given"])
    assert name.partition(":")[2] not in gym.registry
    with pytest.raises(UnknownName, match=r'It is defined in Python|given defines no policy "'):
        discover(imports=["given"]).get("policy", name)


@pytest.mark.parametrize("argument", ["imports", "no_plugin"])
@pytest.mark.parametrize("value", [None, 3])
def test_imports_that_are_not_names_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{argument}: expected names or paths, not {type(value).__name__}"):
        pgzoo.plan("random", env="CartPole-v1", total_steps=9, **{argument: value})
