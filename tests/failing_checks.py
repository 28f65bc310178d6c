"""Which checks of the test kit a component fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgzoo.registry import ComponentKind, PluginInfo, Registry, discover
from pgzoo.testing.checks import CheckFailed, NotApplicable, check_component

__all__ = ["ALL_CHECKS", "INFO", "assert_fails", "failing", "named_by_faulty_plugins"]

INSTALLED = discover(inline=False)
INFO = PluginInfo("broken", "import", "broken", "pgzoo-broken", "1.0")
ALL_CHECKS = pytest.mark.parametrize("all_checks", [False, pytest.param(True, marks=pytest.mark.slow)])
"""Runs a test with the check that a component must fail, and, as a slow test, with all: it must pass the others."""


def failing(kind: ComponentKind, target: Any, only: str | None = None, **facts: Any) -> dict[str, str]:
    """Return the checks that a component fails, with their messages; `only` runs just the check of this name."""
    catalog, registry = INSTALLED.copy(), Registry(INFO)
    getattr(registry, kind)("broken", target, **facts)
    catalog.add(INFO, object(), registry.entries.values())
    failed = {}
    for name, check in check_component(catalog.get(kind, "broken"), catalog):
        if only not in (None, name):
            continue
        try:
            check()
        except CheckFailed as failure:
            failed[name] = str(failure)
        except NotApplicable:
            pass
    return failed


def assert_fails(failed: dict[str, str], check: str, said: str, who: str) -> None:
    """Assert that `check` is the only check that failed, and that its message names the component and says `said`."""
    assert list(failed) == [check], failed
    assert said in failed[check] and failed[check].startswith(f'{who} of plugin "broken" (pgzoo-broken 1.0) ')


def named_by_faulty_plugins(kind: ComponentKind) -> set[str]:
    """Return the checks that the plugins in testing/faulty fail with their components of a kind."""
    sources = [path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "testing/faulty").glob("*.py")]
    return {source.partition('"""\n')[0].split("`")[1] for source in sources if f"registry.{kind}(" in source}
