"""Fixtures for the tests of plugins. pytest loads this module where pgzoo is installed, so it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pgzoo.registry import ComponentKind, PluginCatalog
    from pgzoo.training.events import Event

__all__ = ["pgzoo_catalog", "pgzoo_check", "pgzoo_home", "pgzoo_play", "pgzoo_probes"]


@pytest.fixture
def pgzoo_catalog() -> PluginCatalog:
    """Return the installed plugins and their components, without ./pgzoo_plugin.py."""
    from pgzoo.registry import discover

    return discover(inline=False)


@pytest.fixture
def pgzoo_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a temporary folder in which runs of this test store their files, without uploading them to MLflow."""
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    return tmp_path


@pytest.fixture
def pgzoo_probes() -> Mapping[str, type]:
    """Return small environments with known solutions by id, such as pgzoo/Bandit-v0, registered with gymnasium."""
    from pgzoo.testing.probes import PROBES

    return PROBES


@pytest.fixture
def pgzoo_play(pgzoo_probes: Mapping[str, type]) -> Callable[..., list[Event]]:
    """Return `play(algorithm, env=..., **settings)`: it trains without writing anything and returns all events.

    Its arguments are those of `pgzoo.run`. The last event is RunEnded, which has the state and the statuses.
    """
    from pgzoo.runs.runner import plan
    from pgzoo.training.loop import train

    def play(algorithm: str | type, env: str = "pgzoo/Bandit-v0", **settings: Any) -> list[Event]:
        small: dict[str, Any] = {"total_steps": 1000, "eval_episodes": 2, "seeds": 2}
        return list(train(plan(algorithm, env=env, **small | settings)))

    return play


@pytest.fixture
def pgzoo_check() -> Callable[..., dict[str, str]]:
    """Return `check(kind, target, **registration)`: it returns the failed checks of a component, with their messages.

    The component need not be registered: `check("estimator", my_function) == {}`. `registration` are the other
    arguments of the registry's method, such as `config`.
    """

    def check(kind: ComponentKind, target: object, **registration: Any) -> dict[str, str]:
        from pgzoo.registry import PluginInfo, Registry, discover
        from pgzoo.testing.checks import CheckFailed, NotApplicable, check_component

        name = "checked-here"
        registry = Registry(PluginInfo(name, "import", "the test"))
        getattr(registry, kind)(name, target, **registration)
        catalog = discover(inline=False)
        catalog.add(registry.plugin, object(), registry.entries.values())
        failed = {}
        for check_name, run in check_component(catalog.get(kind, name), catalog):
            try:
                run()
            except CheckFailed as failure:
                failed[check_name] = str(failure)
            except NotApplicable:
                pass
        return failed

    return check
