"""All registered components and plugins fulfill their contracts; new ones are tested without a change here."""

from __future__ import annotations

from functools import lru_cache

import pytest

from pgzoo.registry import ComponentKind, Entry, PluginInfo, discover
from pgzoo.testing.checks import CHECKS, PLUGIN_CHECKS, CheckTarget, ComponentChecks, KnownException, NotApplicable

CATALOG = discover(inline=False)
SLOW = {("env_backend", "async")}
"""Components that start processes."""
DISTRIBUTION = ("log-probabilities", "entropy", "draws", "kl", "mapped")
REPRESENTATIVE = {"improves": "ppo", "critic-improves": "ppo", "equals-gymnasium": "cartpole"}
REPRESENTATIVE |= dict.fromkeys(DISTRIBUTION, "mlp")
"""Expensive checks, each with the only component that fast tests run it for.

Tests of algorithms and tests/envs/test_compiled.py cover the others, and all policies have the distributions of `mlp`.
"""


def is_slow(entry: Entry, check: str) -> bool:
    """Return whether a check takes long, or is in the suites of the plugin's own tests, which fast tests run too."""
    own = entry.plugin.source != "built-in"
    return own or (entry.kind, entry.name) in SLOW or REPRESENTATIVE.get(check, entry.name) != entry.name


COMPONENTS = [
    pytest.param(entry, check, id=f"{entry.name}-{check}", marks=[pytest.mark.slow] if is_slow(entry, check) else [])
    for kind, checks in CHECKS.items()
    for entry in CATALOG.entries(kind)
    for check in checks
]


@lru_cache(maxsize=1)
def checks_of(kind: ComponentKind, name: str) -> ComponentChecks:
    """Return the checks of a component, which share objects that are expensive to make."""
    entry = CATALOG.get(kind, name)
    return ComponentChecks(CheckTarget(entry.plugin, CATALOG, entry))


@pytest.mark.parametrize(("entry", "check"), COMPONENTS)
def test_every_component_fulfills_its_contract(entry: Entry, check: str) -> None:
    try:
        checks_of(entry.kind, entry.name).run(check)
    except KnownException as reason:
        if entry.plugin.source != "built-in":
            pytest.xfail(str(reason))
        pytest.fail(f"a built-in component declares an exception: {reason}")
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("check", PLUGIN_CHECKS)
@pytest.mark.parametrize("plugin", CATALOG.plugins, ids=lambda plugin: plugin.name)
def test_every_plugin_fulfills_its_contract(plugin: PluginInfo, check: str) -> None:
    try:
        PLUGIN_CHECKS[check](CheckTarget(plugin, CATALOG))
    except NotApplicable as reason:
        pytest.skip(str(reason))
