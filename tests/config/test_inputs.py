"""Unusual and hostile settings: Python and YAML accept the same forms, and bad input gives one clear error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pgzoo.cli.options import _scalar
from pgzoo.config import Layer, RunConfig, read_yaml
from pgzoo.errors import CheckpointError, ConfigError, UsageError
from pgzoo.registry import PluginCatalog
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import resolve
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home
from pgzoo.training import checkpoint


class Odd:
    """An object that isn't plain data, as a data frame would be."""


BASE = {"algorithm": "ppo", "env": "CartPole-v1"}


def resolved(catalog: PluginCatalog, given: Mapping[str, Any]) -> RunConfig:
    return resolve([Layer(BASE, ".".join), Layer(given, ".".join)], catalog)


@pytest.mark.parametrize("value", [100_000, 100_000.0, "100000", "1e5", " 1e5 ", "100000.0"])
def test_an_integer_setting_accepts_floats_and_numeric_strings(
    catalog: PluginCatalog, tmp_path: Path, value: Any
) -> None:
    given = {"total_steps": value, "num_envs": value, "epochs": value, "policy": {"hidden": [value]}}
    config = resolved(catalog, given)
    assert config.total_steps == config.num_envs == config.settings.epochs == 100_000  # type: ignore[attr-defined]
    assert config.policy.nested()["hidden"] == [100_000] and isinstance(config.total_steps, int)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    assert resolve([Layer(BASE, ".".join), read_yaml(tmp_path / "run.yaml")], catalog) == config


def test_the_number_of_seeds_may_be_one_of_numpy(catalog: PluginCatalog) -> None:
    assert resolved(catalog, {"seeds": np.int64(3)}).seeds == (0, 1, 2)


def test_large_whole_numbers_are_not_rounded(catalog: PluginCatalog) -> None:
    assert resolved(catalog, {"total_steps": str(2**53 + 1)}).total_steps == 2**53 + 1


@pytest.mark.parametrize("value", [None, "none", "None"])
def test_the_string_none_means_none_where_none_is_allowed(catalog: PluginCatalog, value: Any) -> None:
    config = resolved(catalog, {"max_grad_norm": value, "checkpoint_every": value, "name": value})
    assert (config.settings.max_grad_norm, config.checkpoint_every, config.name) == (None, None, None)  # type: ignore[attr-defined]
    assert resolved(catalog, {"algorithm": "reinforce", "baseline": "none"}).settings.baseline == "none"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="gamma: must be a valid number"):
        resolved(catalog, {"gamma": value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_envs": True}, "num_envs: must be a number (got True)"),
        ({"gamma": True}, "gamma: must be a number (got True)"),
        ({"total_steps": 1e5 + 0.5}, "total_steps: must be a valid integer, got a number with a fractional part"),
        ({"total_steps": float("inf")}, "total_steps: "),
        ({"total_steps": "1e400"}, "total_steps: must be a valid integer (got '1e400')"),
        ({"seeds": [True, 2]}, "seeds: must be a number"),
        ({"seeds": []}, "seeds: give at least one seed (got [])"),
        ({"seeds": None}, "seeds: give a count (10: seeds 0 to 9) or a list (3,5,8) (got none)"),
        ({"seeds": 1.5}, "seeds: give a count (10: seeds 0 to 9) or a list (3,5,8) (got 1.5)"),
        ({"seeds": {"a": 1}}, "seeds: give a count (10: seeds 0 to 9) or a list (3,5,8) (got a=1)"),
        ({"wrappers": Odd}, "wrappers: must be a list (got <class"),
        ({"diagnostics": 3}, "diagnostics: must be a list (got 3)"),
        ({"env_kwargs": []}, "env_kwargs: must be a mapping (got [])"),
        ({"tracking_uri": 3}, "tracking_uri: must be text (got 3)"),
        ({"normalize_obs": "x"}, "normalize_obs: must be true or false (got 'x')"),
        ({"seeds": 100_000_000}, "seeds: give at most 10,000 seeds (got 100000000)"),
        ({"seeds": 1e8}, "seeds: give at most 10,000 seeds"),
        ({"seeds": 5000, "sweep_axis": {"gamma": [0.5, 0.9, 0.99]}}, "seeds and sweep_axis give 15,000 members"),
        ({"env_kwargs": {"df": Odd()}}, "env_kwargs: df has a Odd, and keywords must be plain data"),
        ({"env_kwargs": {"x": {"y": [1, {"z": Odd()}]}}}, "x has a Odd"),
        ({"env_kwargs": {"x": {1: 2}}}, "x has a int"),
        ({"policy": {"hidden": ["wide"] * 100_000}}, "and 99,980 more mistakes"),
        ({"policy": {"hidden": [8] * 1_000_000}}, "policy.hidden: must have at most 1000 items"),
        ({"policy": {"name": "simba", "blocks": 10**9}}, "policy.blocks: must be less than or equal to 1000"),
        ({"gamma": "x" * 10**6}, "gamma: must be a valid number"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_invalid_settings_are_rejected_with_a_short_message(
    catalog: PluginCatalog, given: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(catalog, given)
    assert message in str(caught.value) and len(str(caught.value)) < 10_000
    assert caught.value.exit_code == 2


def test_a_policy_that_does_not_fit_into_memory_is_rejected(catalog: PluginCatalog) -> None:
    config = resolved(catalog, {"policy": {"hidden": [1_000_000, 1_000_000]}, "seeds": 3})
    with pytest.raises(
        UsageError, match=r"policy.hidden: 3 networks of 1,000,00\d,000,000 parameters would need .* GiB"
    ):
        make_plan(config, catalog)


@pytest.mark.parametrize(
    "given", [{"policy": {"hidden": [10**400]}}, {"num_envs": 10**400}], ids=["hidden", "num_envs"]
)
def test_a_number_with_hundreds_of_digits_is_rejected_with_a_short_message(
    catalog: PluginCatalog, given: Mapping[str, Any]
) -> None:
    with pytest.raises(UsageError, match="need over 10\\^18 GiB") as caught:
        make_plan(resolved(catalog, given), catalog)
    assert len(str(caught.value)) < 300


def test_memory_that_cannot_be_allocated_is_a_usage_error(catalog: PluginCatalog, home: Home) -> None:
    for policy in ({"critic_hidden": [10**13]}, {"name": "gru", "memory": 10**13}):
        with pytest.raises(UsageError, match=r"don't fit into memory: Unable to allocate .* Choose a smaller policy"):
            run_config(resolved(catalog, {"policy": policy}), catalog)
    assert not home.runs.exists() or not list(home.runs.iterdir())


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    return "\n".join([*lines, "seeds: *a8\n"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy: &a\n  name: mlp\n  hidden: *a\n", "line 1: an alias refers to a value that contains it."),
        ("a: &a [*a]\n", "line 1: an alias refers to a value that contains it."),
        (f"seeds: {'[' * 5000}{']' * 5000}\n", "the settings are nested too deeply."),
        (bomb(), "line 5: aliases expand to over 20,000 values."),
        (f"policy: {{hidden: [{'8, ' * 1_000_000}8]}}\n", "the settings have over 20,000 values."),
    ],
    ids=["self", "list", "deep", "bomb", "long"],
)
def test_hostile_yaml_is_rejected_with_a_one_line_message(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "run.yaml")
    assert str(caught.value).endswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1e-3", "2E4", "-1e+2", "+3e0"])
def test_a_number_with_an_exponent_needs_no_dot(tmp_path: Path, text: str) -> None:
    """The keywords of an environment have no type by which a text could be read."""
    (tmp_path / "run.yaml").write_text(f"env_kwargs: {{x: {text}, y: '{text}', z: e5}}\n")
    assert read_yaml(tmp_path / "run.yaml").values == {"env_kwargs": {"x": float(text), "y": text, "z": "e5"}}
    assert _scalar(text) == float(text) and _scalar("1e") == "1e"


def test_a_yaml_alias_of_an_earlier_value_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("policy: {hidden: &h [8, 8]}\nenv_kwargs: {x: *h}\n")
    assert read_yaml(tmp_path / "run.yaml").values == {"policy": {"hidden": [8, 8]}, "env_kwargs": {"x": [8, 8]}}


def test_a_checkpoint_with_deeply_nested_json_is_reported_as_damaged(
    tmp_path: Path, last_state: Callable[..., Any]
) -> None:
    path = checkpoint.save(tmp_path, last_state(total_steps=20), {})
    (path / "state.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(CheckpointError, match="is damaged: RecursionError"):
        checkpoint.load(path)
