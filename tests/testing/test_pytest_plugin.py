"""The fixtures that pgzoo provides for tests of plugins, and the code in docs/testing.md."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import pgzoo
from pgzoo.errors import UnknownName
from pgzoo.registry import PluginCatalog
from pgzoo.testing import pytest_plugin

# for environments where pgzoo was installed before it had an entry point for pytest
globals().update({name: getattr(pytest_plugin, name) for name in pytest_plugin.__all__})

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def names_of(words: str, **given: Any) -> dict[str, Any]:
    """Run the code block of the page that contains `words`, and return the names that it defines."""
    names: dict[str, Any] = dict(given)
    exec(
        compile(next(block for block in BLOCKS if words in block), "docs/testing.md", "exec", dont_inherit=True), names
    )
    return names


def test_the_documented_example_of_pgzoo_play_passes(pgzoo_play: Callable[..., Any]) -> None:
    example = names_of("test_it_finds_the_best_arm")["test_it_finds_the_best_arm"]
    example(lambda name, **settings: pgzoo_play("reinforce", **settings))


def test_the_documented_known_exception_passes_and_invalid_ones_fail(
    pgzoo_check: Callable[..., dict[str, str]],
) -> None:
    from pgzoo.ops.returns import reward_to_go

    total_reward = names_of("known_exceptions", reward_to_go=reward_to_go)["total_reward"]
    assert pgzoo_check("estimator", total_reward) == {}
    total_reward.known_exceptions = {"zeros": "there are none", "gama": "a misspelt name", "pure": " "}
    failed = pgzoo_check("estimator", total_reward)
    assert list(failed) == ["zeros", "gamma", "pure", "known-exceptions"]
    assert 'declares an exception from the check "zeros" (there are none), but passes the check' in failed["zeros"]
    assert 'Did you mean "gamma"?' in failed["known-exceptions"]


def test_the_catalog_contains_installed_components_only(pgzoo_catalog: PluginCatalog) -> None:
    assert "reinforce" in pgzoo_catalog.names("algorithm")
    with pytest.raises(UnknownName):
        pgzoo_catalog.get("algorithm", "checked-here")


def test_the_probes_are_registered_environments(pgzoo_probes: Mapping[str, type]) -> None:
    assert set(pgzoo_probes) <= set(gym.registry)
    assert all(f"`{name}`" in PAGE for name in ("pgzoo/Bandit-v0", "pgzoo/Target-v0", "pgzoo/Corridor-v0"))


def test_a_run_writes_its_files_to_the_home_of_the_test(pgzoo_home: Path) -> None:
    result = pgzoo.run(
        "random", env="pgzoo/Bandit-v0", total_steps=20, eval_episodes=2, imports=["pgzoo.testing.probes"]
    )
    assert result.runs[0].status == "finished"
    assert [path.name for path in (pgzoo_home / "runs").iterdir()] == [result.runs[0].run_key]


def test_every_fixture_is_documented() -> None:
    assert all(f"| `{name}` |" in PAGE for name in pytest_plugin.__all__)


def test_the_module_of_the_entry_point_imports_no_heavy_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, module),) = project["entry-points"]["pytest11"].items()
    assert name == module  # so that pytest doesn't load it twice
    heavy = ("torch", "numpy", "mlflow", "gymnasium", "pydantic")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_suite_for_a_plugin_that_is_not_installed_raises_an_error(pgzoo_catalog: PluginCatalog) -> None:
    class Absent(pgzoo.testing.PluginSuite):
        name = "not-there"

    with pytest.raises(UnknownName, match='No plugin "not-there" is installed'):
        Absent().test_plugin(pgzoo_catalog, "registers")
