"""Everything that is registered keeps to its contract; what is registered next is covered at once."""

from __future__ import annotations

import pytest

from pgzoo.registry import Entry, PluginInfo, discover
from pgzoo.testing.checks import CHECKS, PLUGIN_CHECKS, CheckTarget, NotApplicable

CATALOG = discover(inline=False)
SLOW = {("env_backend", "async")}
"""They start processes."""

COMPONENTS = [
    pytest.param(
        entry, check, id=f"{entry.name}-{check}", marks=[pytest.mark.slow] if (kind, entry.name) in SLOW else []
    )
    for kind, checks in CHECKS.items()
    for entry in CATALOG.entries(kind)
    for check in checks
]


@pytest.mark.parametrize(("entry", "check"), COMPONENTS)
def test_every_component_keeps_to_its_contract(entry: Entry, check: str) -> None:
    try:
        CHECKS[entry.kind][check](CheckTarget(entry.plugin, CATALOG, entry))
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("check", PLUGIN_CHECKS)
@pytest.mark.parametrize("plugin", CATALOG.plugins, ids=lambda plugin: plugin.name)
def test_every_plugin_keeps_to_its_contract(plugin: PluginInfo, check: str) -> None:
    try:
        PLUGIN_CHECKS[check](CheckTarget(plugin, CATALOG))
    except NotApplicable as reason:
        pytest.skip(str(reason))
