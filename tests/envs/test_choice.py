"""The choice of a backend: it depends on the settings and on what backends declare, not on the number of seeds."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pgzoo.config import Layer
from pgzoo.envs.choice import choose_backend, inspect_environment
from pgzoo.envs.native import NativeBackend
from pgzoo.envs.sync import SyncBackend
from pgzoo.errors import EnvError, PluginError
from pgzoo.registry import PluginCatalog, PluginInfo, Registry, discover
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import compose
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home
from pgzoo.types import EnvRequest


class Crowd(SyncBackend):
    """A backend that is preferred for four or more environments."""

    def preferred(self, request: EnvRequest) -> bool:
        return request.rows >= 4


class NoDevice(SyncBackend):
    """A backend that can't be created."""

    def __init__(self) -> None:
        raise OSError("no device")


class Old(NativeBackend):
    """A backend that runs Acrobot-v0, which gymnasium no longer supports."""

    foreign = True

    def fits(self, request: EnvRequest) -> str:
        return "" if request.id == "Acrobot-v0" else "it runs the old acrobot alone"

    def open(self, request: EnvRequest) -> Any:
        return super().open(request._replace(id="CartPole-v0"))


@pytest.fixture
def catalog() -> PluginCatalog:
    found, info = discover(inline=False), PluginInfo("more", "entry point", "more", "pgzoo-more")
    registry = Registry(info)
    registry.env_backend("crowd", Crowd)
    registry.env_backend("old", Old)
    found.add(info, object(), registry.entries.values())
    return found


def chosen(catalog: PluginCatalog, **given: Any) -> str:
    config = compose(Layer({"algorithm": "reinforce", "env": "Acrobot-v1", **given}, ".".join), catalog)
    return make_plan(config, catalog).config.backend


@pytest.mark.parametrize("seeds", [1, 10])
def test_auto_depends_on_the_number_of_environments_per_seed(catalog: PluginCatalog, seeds: int) -> None:
    assert chosen(catalog, num_envs=3, seeds=seeds) == "sync"
    assert chosen(catalog, num_envs=4, seeds=seeds) == "crowd"
    assert chosen(catalog, num_envs=4, seeds=seeds, backend="sync") == "sync"
    assert chosen(catalog, num_envs=4, seeds=seeds, env="CartPole-v1") == "native"  # registered before crowd


def test_an_id_that_gymnasium_refuses_needs_an_explicit_backend(catalog: PluginCatalog) -> None:
    request = EnvRequest("Acrobot-v0", {}, None, 4)
    for name in ("auto", "sync", "crowd"):
        with pytest.raises(EnvError, match=r"which replaced it\. Or use --backend old\."):
            choose_backend(name, catalog, request)
    name, backend = choose_backend("old", catalog, request)
    assert name == "old" and inspect_environment(request, backend).observation_space.shape == (4,)


def test_no_backend_is_suggested_for_an_id_that_none_supports(catalog: PluginCatalog) -> None:
    with pytest.raises(EnvError) as error:
        choose_backend("auto", catalog, EnvRequest("CartPole-v9", {}, None, 1))
    assert str(error.value).endswith('Use "CartPole-v1", the newest version.')


@pytest.mark.parametrize(("num_envs", "said"), [(4, 1), (2, 0)])
def test_a_run_warns_if_auto_chose_the_backend_of_a_plugin(
    catalog: PluginCatalog, home: Home, num_envs: int, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"algorithm": "random", "env": "Acrobot-v1", "num_envs": num_envs, "total_steps": 10, "eval_episodes": 1}
    config = compose(Layer({**given, "max_episode_steps": 5}, ".".join), catalog)
    with caplog.at_level(logging.WARNING, "pgzoo"):
        result = run_config(config, catalog)
    told = [record.getMessage() for record in caplog.records if "backend crowd of plugin" in record.getMessage()]
    assert len(told) == said and all("--backend sync" in line for line in told)
    assert result.plan.config.backend == ("crowd" if said else "sync")


def test_the_error_of_a_backend_that_cannot_be_created_names_it_and_the_line() -> None:
    catalog, registry = discover(inline=False), Registry(PluginInfo("mine", "entry point", "mine"))
    registry.env_backend("my-sim", NoDevice)
    catalog.add(registry.plugin, object(), registry.entries.values())
    message = (
        r'^The environment backend "my-sim" can\'t be created: OSError: no device \(.*test_choice\.py, line \d+\)\. '
    )
    with pytest.raises(PluginError, match=message):
        choose_backend("my-sim", catalog, EnvRequest("CartPole-v1", {}, None, 1))
