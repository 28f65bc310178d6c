"""Every check of a plugin itself can fail: for each there is a plugin with one fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from failing_checks import assert_fails, named_by_faulty_plugins

from pgzoo.registry import PluginCatalog, PluginInfo, Registry, discover
from pgzoo.testing.checks import CAUSES, CHECKS, PLUGIN_CHECKS, CheckFailed, CheckTarget, NotApplicable


def plugin_failing(info: PluginInfo, register: Callable[[Registry], None]) -> dict[str, str]:
    catalog, registry = PluginCatalog(), Registry(info)
    register(registry)
    builtin = discover(inline=False)
    for kind in ("algorithm", "policy", "estimator"):
        for entry in builtin.entries(kind):
            catalog._entries[entry.kind, entry.name] = entry
    catalog.add(info, object(), registry.entries.values())
    failed = {}
    for name, check in PLUGIN_CHECKS.items():
        try:
            check(CheckTarget(info, catalog))
        except CheckFailed as failure:
            failed[name] = str(failure)
        except NotApplicable:
            pass
    return failed


FINE = PluginInfo("broken", "entry point", "pgzoo_example.plugin", "pgzoo-broken", "1.0")


PLUGINS: list[tuple[PluginInfo, Callable[[Registry], None], str, str]] = [
    (
        PluginInfo("broken", "entry point", "pgzoo_example.plugin", "pgzoo-broken", "1.0", "broken", "it is late"),
        lambda registry: None,
        "registers",
        "is broken: it is late",
    ),
    (
        PluginInfo("broken", "entry point", "pgzoo.types", "pgzoo-broken", "1.0"),
        lambda registry: None,
        "light",
        "imports numpy, torch when it registers",
    ),
    (FINE, lambda r: r.estimator("x", "pgzoo.ops.returns:nothing", summary="x"), "resolves", "nothing"),
    (FINE, lambda r: r.estimator("x", "pgzoo.ops.returns:gae"), "summaries", "has no summary for x"),
    (
        FINE,
        lambda r: r.preset("x", algorithm="reinforce", settings={"gama": 1}, summary="x"),
        "presets",
        'Did you mean "gamma"?',
    ),
]


@pytest.mark.parametrize(("info", "register", "check", "said"), PLUGINS, ids=[p[2] for p in PLUGINS])
def test_a_plugin_with_one_fault_fails_only_the_check_for_it(
    info: PluginInfo, register: Callable[[Registry], None], check: str, said: str
) -> None:
    assert_fails(
        {k: v.replace("Plugin", "P of plugin", 1) for k, v in plugin_failing(info, register).items()}, check, said, "P"
    )


def test_every_check_of_a_plugin_has_one_that_fails_it() -> None:
    assert set(PLUGIN_CHECKS) == {check for _, _, check, _ in PLUGINS}


def test_every_check_of_a_diagnostic_has_one_that_fails_it() -> None:
    assert named_by_faulty_plugins("diagnostic") == set(CHECKS["diagnostic"])


def test_causes_of_failures_are_checks_and_are_never_mutual() -> None:
    for kind, causes in CAUSES.items():
        for check, others in causes.items():
            assert {check, *others} <= set(CHECKS[kind])
            assert not any(check in causes.get(other, ()) for other in others)
