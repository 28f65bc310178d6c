"""The catalog of components: their plugins, misspelled names, imports that fail on loading, and presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgzoo.errors import ConfigError, PluginError, UnknownName
from pgzoo.registry import KINDS, PluginCatalog, PluginInfo, Registry

MINE = PluginInfo("mine", "entry point", "mine.plugin", "zoo-mine", "1.0")


def catalog_of(registry: Registry) -> PluginCatalog:
    catalog = PluginCatalog()
    catalog.add(registry.plugin, object(), registry.entries.values())
    return catalog


def everything() -> Registry:
    registry = Registry(MINE)
    registry.algorithm("reinforce", "json:JSONDecoder", config="json:JSONEncoder", summary="One.")
    registry.policy("mlp", "json:JSONDecoder")
    registry.estimator("plain", dict)
    registry.env_backend("sync", "json:JSONDecoder")
    registry.env_state("kept", "json:JSONDecoder")
    registry.dynamics("cart", "json:JSONDecoder", envs=("Cart-v0", "Cart-v1"))
    registry.listener("bar", "json:JSONDecoder")
    registry.diagnostic("skew", "json:JSONDecoder")
    registry.launcher("cluster", "json:JSONDecoder")
    registry.preset("small", algorithm="reinforce", settings={"gamma": 0.9})
    registry.command("play", "json:JSONDecoder")
    return registry


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_component_can_be_registered_and_loaded(kind: Any) -> None:
    (entry,) = catalog_of(everything()).entries(kind)
    assert entry.plugin == MINE
    assert entry.load() is not None


def test_a_target_can_be_an_object_or_an_import_string() -> None:
    import json

    catalog = catalog_of(everything())
    assert catalog.get("algorithm", "reinforce").load() is json.JSONDecoder
    assert catalog.get("algorithm", "reinforce").load_config() is json.JSONEncoder
    assert catalog.get("policy", "mlp").load_config() is None
    assert catalog.get("estimator", "plain").load() is dict
    assert catalog.get("estimator", "plain").summary.startswith("dict()")


def test_the_error_for_a_misspelled_name_suggests_the_right_one() -> None:
    with pytest.raises(UnknownName) as caught:
        catalog_of(everything()).get("algorithm", "reinfroce")
    assert str(caught.value) == 'No algorithm "reinfroce". Did you mean "reinforce"? See: pgzoo algorithms'
    assert caught.value.exit_code == 2


def test_the_error_for_an_unknown_backend_calls_it_an_environment_backend() -> None:
    with pytest.raises(UnknownName, match=r'No environment backend "synk"\. Did you mean "sync"'):
        catalog_of(everything()).get("env_backend", "synk")


@pytest.mark.parametrize(
    ("target", "error"),
    [("not_there:X", "ModuleNotFoundError: No module named 'not_there'"), ("json:nope", "AttributeError")],
)
def test_the_error_for_a_component_that_cannot_be_imported_names_the_plugin(target: str, error: str) -> None:
    registry = Registry(MINE)
    registry.algorithm("late", target)
    with pytest.raises(PluginError, match=r'The algorithm "late" of plugin "mine" \(zoo-mine 1.0\)') as caught:
        catalog_of(registry).get("algorithm", "late").load()
    assert error in str(caught.value)
    assert "--no-plugin mine" in str(caught.value)


def test_presets_copy_their_settings_and_auto_presets_depend_on_the_env() -> None:
    registry = Registry(MINE)
    settings = {"gamma": 0.9}
    registry.preset("any", algorithm="reinforce", settings=settings, auto=True)
    registry.preset("cart", algorithm="reinforce", env="CartPole-v1", settings={}, auto=True)
    registry.preset("asked", algorithm="ppo", settings={})
    settings["gamma"] = 0.1
    catalog = catalog_of(registry)
    assert catalog.get("preset", "any").load().settings == {"gamma": 0.9}
    for algorithm, env, name in [("reinforce", "CartPole-v1", "cart"), ("reinforce", "Taxi-v4", "any")]:
        entry = catalog.auto_preset(algorithm, env)
        assert entry is not None
        assert entry.name == name
    assert catalog.auto_preset("ppo", "CartPole-v1") is None


def test_presets_can_be_registered_from_a_folder(tmp_path: Path) -> None:
    for path, text in {
        "ppo/Pendulum-v1.yml": "# short\ngamma: 0.9\n",
        "ppo/ALE/Ms_Pacman-v5.yml": "gamma: 0.99\n",
        "reinforce/small.yml": "# few steps\ntotal_steps: 10\n",
        "reinforce/broken.yml": "# wrong\ntotal_steps: [\n",
        "ignored.yml": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    registry = Registry(MINE)
    registry.presets(tmp_path)
    catalog = catalog_of(registry)
    assert catalog.names("preset") == ["ppo-ms-pacman", "ppo-pendulum", "broken", "small"]
    pendulum = catalog.get("preset", "ppo-pendulum")
    assert pendulum.summary == "short"
    assert pendulum.target.env == "Pendulum-v1" and dict(pendulum.target.settings) == {"gamma": 0.9}
    assert catalog.auto_preset("ppo", "ALE/Ms_Pacman-v5") == catalog.get("preset", "ppo-ms-pacman")
    assert catalog.auto_preset("reinforce", "CartPole-v1") is None
    with pytest.raises(ConfigError, match=r"broken.yml, line \d: not valid YAML"):
        dict(catalog.get("preset", "broken").target.settings)


def test_two_auto_presets_for_the_same_algorithm_are_an_error() -> None:
    catalog = PluginCatalog()
    for plugin, name in [("one", "a"), ("two", "b")]:
        registry = Registry(PluginInfo(plugin, "entry point", plugin, f"zoo-{plugin}", "1"))
        registry.preset(name, algorithm="reinforce", settings={}, auto=True)
        if plugin == "two":
            with pytest.raises(PluginError, match='would be the default preset where "a" of plugin "one"'):
                catalog.add(registry.plugin, object(), registry.entries.values())
            assert catalog.names("preset") == ["a"]
        else:
            catalog.add(registry.plugin, object(), registry.entries.values())


def test_two_dynamics_for_one_environment_are_an_error() -> None:
    catalog, registry = catalog_of(everything()), Registry(PluginInfo("two", "entry point", "two", "zoo-two", "1"))
    registry.dynamics("other", "json:JSONDecoder", envs=("Cart-v1", "Cart-v2"))
    with pytest.raises(PluginError, match=r'"other" of plugin "two".* are for Cart-v1, as are the dynamics "cart" of'):
        catalog.add(registry.plugin, object(), registry.entries.values())


def test_the_environments_of_dynamics_may_be_any_iterable_of_ids() -> None:
    registry = Registry(MINE)
    registry.dynamics("other", "json:JSONDecoder", envs=(f"Cart-v{k}" for k in range(2)))  # type: ignore[arg-type]
    (entry,) = registry.entries.values()
    assert entry.facts["envs"] == ("Cart-v0", "Cart-v1")


@pytest.mark.parametrize("envs", ["Cart-v1", [1], []])
def test_dynamics_that_are_not_for_a_list_of_ids_are_refused(envs: Any) -> None:
    with pytest.raises(PluginError, match=r'The dynamics "other" have envs=.*; expected a list of environment ids'):
        Registry(MINE).dynamics("other", "json:JSONDecoder", envs=envs)


@pytest.mark.parametrize("path", ["missing", "a_file"])
def test_presets_need_a_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    with pytest.raises(PluginError, match=rf"{path}' isn't a folder of presets"):
        Registry(MINE).presets(tmp_path / path)
