"""The built-in estimators as registered, compared with their documentation page."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pgzoo.errors import ConfigError
from pgzoo.registry import Entry, PluginCatalog, PluginInfo, Registry
from pgzoo.registry.components import resolve_component
from pgzoo.types import Trajectory

PAGE = (Path(__file__).parents[2] / "docs" / "estimators.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| `.*", PAGE, re.MULTILINE)]
ESTIMATORS, ARGUMENTS = ([row for row in ROWS if len(row) == columns] for columns in (5, 3))
NAMES = [row[0].strip("`") for row in ESTIMATORS]


def entry(catalog: PluginCatalog, name: str) -> Entry:
    return catalog.get("estimator", name)


def test_the_documentation_lists_every_built_in_estimator(catalog: PluginCatalog) -> None:
    mine = [e.name for e in catalog.entries("estimator") if e.plugin.name == entry(catalog, "gae").plugin.name]
    assert sorted(NAMES) == sorted(mine)


@pytest.mark.parametrize("row", ESTIMATORS, ids=NAMES)
def test_the_documentation_states_the_needs_and_settings_of_an_estimator(
    catalog: PluginCatalog, row: list[str]
) -> None:
    found = entry(catalog, row[0].strip("`"))
    takes = inspect.signature(found.load()).parameters
    words = {"next_values": "critic", "log_rhos": "log-ratios"}
    needs = [word for name, word in words.items() if name in takes]
    if "next_values" in takes and takes["next_values"].default is None:
        needs = ["critic, if there is one"]
    if hasattr(found.load(), "whole_episodes"):
        needs = ["whole episodes"]
    assert row[2] == ", ".join(needs)
    model = found.load_config()
    fields = model.model_fields if model else {}
    assert row[3] == ", ".join(f"`{name}` = {field.default}" for name, field in fields.items())


@pytest.mark.parametrize("name", NAMES)
def test_an_estimator_takes_only_documented_arguments_and_its_settings(catalog: PluginCatalog, name: str) -> None:
    given = {argument for row in ARGUMENTS for argument in re.findall(r"`(\w+)`", row[0])}
    assert given >= {*Trajectory._fields} - {"action_mask", "memory"}
    found = entry(catalog, name)
    model = found.load_config()
    parameters = inspect.signature(found.load()).parameters
    assert set(parameters) <= given | set(model.model_fields if model else ())
    assert set(model.model_fields if model else ()) <= set(parameters), "a setting that nobody reads"
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "gae", "lam": 1.5}, "estimator.lam: must be less than or equal to 1"),
        ({"name": "td-lambda", "lam": -0.5}, "estimator.lam: must be greater than or equal to 0"),
        ({"name": "n-step", "n": 0}, "estimator.n: must be greater than 0"),
        ({"name": "v-trace", "rho_bar": 0.0}, "estimator.rho_bar: must be greater than 0"),
        ({"name": "v-trace", "c_bar": -1.0}, "estimator.c_bar: must be greater than 0"),
        ({"name": "upgo", "lambda": 0.5}, 'estimator.lambda: estimator "upgo" has no setting of that name.'),
        ({"name": "upgo", "lam": float("nan")}, "estimator.lam: must be"),
    ],
)
def test_invalid_settings_are_refused(catalog: PluginCatalog, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve_component("estimator", settings, catalog)


def test_the_documented_example_works() -> None:
    example = re.search(r"```python\n(# pgzoo_plugin.py.*?)```", PAGE, re.DOTALL)
    assert example
    names: dict[str, Any] = {}
    exec(compile(example[1], "estimators.md", "exec", dont_inherit=True), names)
    registry = Registry(PluginInfo("local", "inline", "pgzoo_plugin"))
    names["pgzoo_register"](registry)
    found = registry.entries["estimator", "clipped"]
    never = torch.zeros(2, 3, 1, dtype=torch.bool)
    rewards = torch.tensor([1.0, -8.0, 4.0]).reshape(1, 3, 1).expand(2, 3, 1)
    given = {"rewards": rewards, "terminated": never, "truncated": never, "valid": ~never, "gamma": 0.5}
    limit = torch.tensor([1.0, 4.0]).reshape(2, 1, 1)
    assert found.load()(**given, limit=limit)[..., 0].tolist() == [[0.75, -0.5, 1], [0, -2, 4]]
    with pytest.raises(ValidationError, match="greater than 0"):
        found.load_config()(limit=0)
