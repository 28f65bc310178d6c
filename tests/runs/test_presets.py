"""Presets: the built-in files, and files that are named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import pgzoo
from pgzoo.config import Layer, RunConfig
from pgzoo.errors import ConfigError
from pgzoo.registry import PluginCatalog, discover
from pgzoo.runs.resolve import compose

BUILT_IN = [entry.name for entry in discover(inline=False).entries("preset") if entry.plugin.source == "built-in"]


@pytest.fixture(scope="module")
def catalog() -> PluginCatalog:
    return discover(inline=False)


def composed(catalog: PluginCatalog, algorithm: str, env: str, preset: str = "auto") -> RunConfig:
    return compose(Layer({"algorithm": algorithm, "env": env}, ".".join), catalog, preset=preset)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_preset_is_valid_and_has_a_summary(catalog: PluginCatalog, name: str) -> None:
    entry = catalog.get("preset", name)
    own = entry.target
    assert entry.summary and own.settings
    assert composed(catalog, own.algorithm, own.env or "CartPole-v1", name)
    assert own.auto == (own.env is not None)


def test_ppo_presets_keep_their_settings_for_pendulum_cartpole_and_pong(catalog: PluginCatalog) -> None:
    pendulum = composed(catalog, "ppo", "Pendulum-v1")
    assert (pendulum.total_steps, pendulum.num_envs, pendulum.gamma) == (200_000, 4, 0.9)
    assert pendulum == composed(catalog, "ppo", "Pendulum-v1", "ppo-pendulum")
    assert composed(catalog, "ppo", "CartPole-v1").settings.learning_rate == 7e-3
    assert composed(catalog, "ppo", "ALE/Pong-v5").policy.name == "cnn"


def test_an_automatically_chosen_preset_is_reported(catalog: PluginCatalog) -> None:
    lines: list[str] = []
    given = Layer({"algorithm": "ppo", "env": "CartPole-v1"}, ".".join)
    for preset in ("auto", "none", "ppo-cartpole"):
        compose(given, catalog, preset=preset, report=lines.append)
    assert lines == ["Preset    ppo-cartpole; without it: --preset none"]


def test_the_preset_of_reinforce_on_cartpole_changes_nothing(catalog: PluginCatalog) -> None:
    default = composed(catalog, "reinforce", "CartPole-v1", "none")
    assert composed(catalog, "reinforce", "CartPole-v1").setting_hash() == default.setting_hash()


def test_a_preset_can_be_a_file_and_mistakes_in_it_are_errors(catalog: PluginCatalog, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("gamma: 0.5\npolicy: {hidden: [8]}\nalgorithm: ppo\nenv: CartPole-v1\n")
    config = composed(catalog, "ppo", "CartPole-v1", str(file))
    assert (config.gamma, config.policy.nested()["hidden"]) == (0.5, [8])
    assert pgzoo.plan("ppo", env="CartPole-v1", preset=file).config.gamma == 0.5
    with pytest.raises(ConfigError, match=r'preset: expected a name, a file, "auto" or "none", not None'):
        pgzoo.plan("ppo", env="CartPole-v1", preset=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is for algorithm ppo, not a2c"):
        composed(catalog, "a2c", "CartPole-v1", str(file))
    with pytest.raises(ConfigError, match="is for CartPole-v1, not Acrobot-v1"):
        composed(catalog, "ppo", "Acrobot-v1", str(file))
    file.write_text("gama: 0.5\n")
    with pytest.raises(ConfigError, match=r'mine.yaml, line 1: gama: no setting of that name. Did you mean "gamma"'):
        composed(catalog, "ppo", "CartPole-v1", str(file))


def test_a_config_file_may_name_a_preset_file(catalog: PluginCatalog, tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("gamma: 0.5\nnum_envs: 3\n")
    (tmp_path / "run.yml").write_text(f"env: CartPole-v1\npreset: {tmp_path / 'mine.yml'}\nnum_envs: 2\n")
    config = compose(Layer({"algorithm": "ppo"}, ".".join), catalog, file=str(tmp_path / "run.yml"))
    assert (config.gamma, config.num_envs) == (0.5, 2)
