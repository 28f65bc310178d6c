"""Hyperparameter files of RL Zoo: how keys are translated, which are reported as unused, and what is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgzoo.config import Layer, RunConfig, read_yaml
from pgzoo.config.rl_zoo import Translation, is_rl_zoo, translate
from pgzoo.errors import ConfigError
from pgzoo.registry import PluginCatalog, discover
from pgzoo.runs.resolve import compose

FILE = """
atari:
  env_wrapper:
    - stable_baselines3.common.atari_wrappers.AtariWrapper
  frame_stack: 4
  policy: 'CnnPolicy'
CartPole-v1:
  n_envs: 8
  n_timesteps: !!float 1e5
  policy: 'MlpPolicy'
  n_steps: 32
  batch_size: 64
  gae_lambda: 0.8
  learning_rate: lin_0.001
  clip_range: lin_0.2
  vf_coef: 0.5
Pendulum-v0: &defaults
  normalize: true
  use_sde: True
  sde_sample_freq: 4
  learning_rate: 1e-3
  env_wrapper:
    - rl_zoo3.wrappers.HistoryWrapper:
        horizon: 2
  policy_kwargs: "dict(log_std_init=-2, ortho_init=False,
                       activation_fn=nn.ReLU, net_arch=[dict(pi=[256, 128], vf=[64])])"
Pendulum-v1:
  <<: *defaults
  normalize: "{'norm_obs': False, 'norm_reward': True, 'clip_obs': 5.0}"
  policy_kwargs: "dict(activation_fn=nn.Mish, optimizer_kwargs=dict(eps=1e-5))"
"""


@pytest.fixture(scope="module")
def catalog() -> PluginCatalog:
    return discover(inline=False)


@pytest.fixture
def zoo(tmp_path: Path) -> str:
    path = tmp_path / "ppo.yml"
    path.write_text(FILE)
    return str(path)


def translated(section: dict[str, Any], algorithm: str = "ppo", env: str = "X-v1") -> Translation:
    file = Layer({env: section}, lambda path: f"zoo.yml: {'.'.join(path)}")
    return translate("zoo.yml", file, algorithm, env)[1]


def composed(catalog: PluginCatalog, preset: str, env: str, algorithm: str = "ppo") -> RunConfig:
    return compose(Layer({"algorithm": algorithm, "env": env}, ".".join), catalog, preset=preset)


def test_a_section_is_translated_to_settings(
    catalog: PluginCatalog, zoo: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = composed(catalog, zoo, "CartPole-v1")
    found = config.nested()
    expected = {
        "num_envs": 8,
        "total_steps": 100_000,
        "rollout_steps": 32,
        "minibatches": 4,  # 8 * 32 rows, 64 per minibatch
        "learning_rate": 0.001,
        "learning_rate_schedule": "linear",
        "clip_range": 0.2,
        "clip_range_schedule": "linear",
        "value_coef": 1.0,  # pgzoo's value loss is half the mean squared error
        "gamma": 0.99,  # not in the file: the default of Stable-Baselines3; pgzoo's is 0.98
        "epochs": 10,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["estimator"] == {"name": "gae", "lam": 0.8}
    assert caplog.text == ""  # every key was used, so there is no notice


def test_a_notice_names_the_unused_keys_or_the_section_of_another_version(
    catalog: PluginCatalog, zoo: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = composed(catalog, zoo, "Pendulum-v1")
    assert (config.normalize_obs, config.normalize_reward, config.settings.learning_rate) == (False, True, 1e-3)
    assert [record.getMessage().partition("ignores them: ")[2] for record in caplog.records] == [
        "normalize.clip_obs, env_wrapper rl_zoo3.wrappers.HistoryWrapper, policy_kwargs activation_fn, "
        "policy_kwargs optimizer_kwargs"
    ]
    caplog.clear()
    composed(catalog, zoo, "CartPole-v0")
    assert 'the section "CartPole-v1" is used for CartPole-v0' in caplog.text


def test_policy_kwargs_determine_the_network(catalog: PluginCatalog, zoo: str) -> None:
    policy = composed(catalog, zoo, "Pendulum-v0").policy.nested()
    assert (policy["init"], policy["activation"]) == ("default", "relu")
    assert (policy["sde"], policy["sde_sample_freq"]) == (True, 4)
    # pgzoo's log_std is that of the sum over the 128 features; in Stable-Baselines3 it is that of each feature
    assert policy["log_std"] == pytest.approx(-2 + np.log(128**0.5))
    assert (policy["hidden"], policy["critic_hidden"]) == ([256, 128], [64])


def test_the_atari_section_gives_a_cnn_frame_stacking_and_preprocessing(catalog: PluginCatalog, zoo: str) -> None:
    config = composed(catalog, zoo, "ALE/Pong-v5")
    assert config.policy.name == "cnn" and config.frame_stack == 4
    assert config.wrappers == ("gymnasium.wrappers:AtariPreprocessing",) and config.env_kwargs == {"frameskip": 1}


@pytest.mark.parametrize(
    ("algorithm", "section", "settings"),
    [
        ("a2c", {}, {"optimizer": "rmsprop", "optimizer_eps": 1e-5, "rollout_steps": 5, "estimator": {"lam": 1.0}}),
        ("a2c", {"use_rms_prop": False}, {"optimizer": "adam"}),
        ("trpo", {"target_kl": 0.04, "cg_max_steps": 25}, {"max_kl": 0.04, "cg_steps": 25, "critic_steps": 10}),
        ("ars", {"n_delta": 4, "n_top": 1, "delta_std": 0.1}, {"num_envs": 8, "top": 1, "noise_std": 0.1}),
        ("ars", {"policy": "MlpPolicy"}, {"policy": {"name": "mlp", "activation": "relu"}}),
        ("ppo", {"batch_size": 100_000}, {"minibatches": 1}),
        ("ppo", {"policy_kwargs": "dict(log_std_init=-2)"}, {"policy": {"name": "mlp", "log_std": -2.0}}),
        ("ppo", {"use_sde": True}, {
            "policy": {"name": "mlp", "sde": True, "sde_sample_freq": None, "log_std": pytest.approx(np.log(8))}}),
        ("ppo", {"policy_kwargs": "dict(net_arch=[32])"}, {"policy": {"name": "mlp", "hidden": [32]}}),
        ("ppo", {"policy_kwargs": {"net_arch": [32]}}, {"policy": {"name": "mlp", "hidden": [32]}}),
        ("ppo", {"normalize": True, "normalize_kwargs": "dict(norm_reward=False)"}, {"normalize_reward": False}),
        ("ppo", {"env_wrapper": "gymnasium.wrappers.FlattenObservation"}, {
            "wrappers": ("gymnasium.wrappers:FlattenObservation",)}),
    ],
)  # fmt: skip
def test_keys_are_translated_to_the_settings_of_each_algorithm(
    algorithm: str, section: dict[str, Any], settings: dict[str, Any]
) -> None:
    found = translated(section, algorithm)
    assert found.settings == {**found.settings, **settings}
    assert found.unused == []


@pytest.mark.parametrize(
    ("algorithm", "section", "unused"),
    [
        ("ppo", {"cg_damping": 0.1, "seed": 3, "use_sde": False}, ["cg_damping", "seed"]),
        ("ppo", {"policy_kwargs": "dict(net_arch=[64, dict(pi=[8])])"}, ["policy_kwargs net_arch"]),
        ("ars", {"learning_rate": "lin_0.02", "alive_bonus_offset": -1}, [
            "learning_rate: its decay", "alive_bonus_offset"]),
        ("trpo", {"batch_size": 128}, ["batch_size"]),
        ("ppo", {"use_sde": True, "policy": "CnnPolicy"}, ["use_sde"]),
        ("ppo", {"policy_kwargs": "dict(net_arch=dict(pi=64, vf=64))", "use_sde": True}, ["policy_kwargs net_arch"]),
    ],
)  # fmt: skip
def test_keys_without_an_equivalent_are_listed_as_unused(
    algorithm: str, section: dict[str, Any], unused: list[str]
) -> None:
    assert translated(section, algorithm).unused == unused


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"policy_kwargs": "dict(a=__import__('os').getcwd())"}, "policy_kwargs: expected text such as dict"),
        ({"policy_kwargs": "[].append(1)"}, "isn't a literal"),
        ({"policy_kwargs": "dict(**{})"}, "isn't a literal"),
        ({"policy_kwargs": "dict("}, "policy_kwargs: expected text such as dict"),
        ({"policy_kwargs": "(" * 50_000}, "policy_kwargs: expected text such as dict"),
        ({"policy_kwargs": 3}, "(got 3)"),
        ({"normalize": "yes, please"}, "zoo.yml: X-v1.normalize: expected text"),
        ({"policy": "GnnPolicy"}, "pgzoo has no policy for 'GnnPolicy'"),
        ({"policy": ["MlpPolicy"]}, "pgzoo has no policy for ['MlpPolicy']"),
        ({"learning_rate": "fast"}, "learning_rate: must be a finite number (got 'fast')"),
        ({"n_steps": [1]}, "n_steps: must be a finite number"),
        ({"policy_kwargs": "dict(log_std_init=[2])"}, "policy_kwargs: must be a finite number"),
        ({"batch_size": 0}, "batch_size: must be greater than 0"),
    ],
)
def test_a_value_that_cannot_be_translated_is_an_error(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        translated(section)
    assert message in str(caught.value)


def test_an_invalid_value_is_reported_with_its_line(catalog: PluginCatalog, tmp_path: Path) -> None:
    path = tmp_path / "ppo.yml"
    path.write_text("CartPole-v1:\n  n_epochs: -1\n  gae_lambda: 2\n")
    with pytest.raises(ConfigError) as caught:
        composed(catalog, str(path), "CartPole-v1")
    assert "line 2: CartPole-v1.n_epochs: must be greater than 0" in str(caught.value)
    assert "line 3: CartPole-v1.gae_lambda: must be less than or equal to 1" in str(caught.value)


def test_a_missing_section_and_an_unsupported_algorithm_are_errors(catalog: PluginCatalog, zoo: str) -> None:
    with pytest.raises(ConfigError, match='has no section for "Taxi-v4"'):
        composed(catalog, zoo, "Taxi-v4")
    with pytest.raises(ConfigError, match='can use for ppo, a2c, trpo, ars, not for "vmpo"'):
        composed(catalog, zoo, "CartPole-v1", "vmpo")


def test_a_settings_file_is_not_mistaken_for_an_rl_zoo_file(zoo: str) -> None:
    assert is_rl_zoo(read_yaml(zoo).values)
    assert not is_rl_zoo({}) and not is_rl_zoo({"policy": {"name": "mlp"}}) and not is_rl_zoo({"gamma": 0.9})
