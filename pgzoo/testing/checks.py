"""All conformance checks, as plain functions for pytest, the command line or a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from pgzoo.registry import ComponentKind, Entry, PluginCatalog, PluginInfo
from pgzoo.testing import algorithms, backends, estimators, plugins, policies
from pgzoo.testing.target import Check, CheckFailed, CheckTarget, NotApplicable

__all__ = ["CHECKS", "PLUGIN_CHECKS", "CheckFailed", "NotApplicable", "check_component", "check_plugin"]

CHECKS: Mapping[ComponentKind, Mapping[str, Check]] = {
    "algorithm": algorithms.CHECKS,
    "policy": policies.CHECKS,
    "estimator": estimators.CHECKS,
    "env_backend": backends.CHECKS,
    "dynamics": backends.DYNAMICS_CHECKS,
}
"""The checks of components, by kind and name. Components of other kinds are checked with their plugin only."""

PLUGIN_CHECKS: Mapping[str, Check] = plugins.CHECKS


def check_component(entry: Entry, catalog: PluginCatalog) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield each check of a component: its name, and a function without arguments that runs it.

    The function returns if the check passes; else it raises CheckFailed, or NotApplicable.
    """
    target = CheckTarget(entry.plugin, catalog, entry)
    for name, check in CHECKS.get(entry.kind, {}).items():
        yield name, partial(check, target)


def check_plugin(plugin: PluginInfo, catalog: PluginCatalog) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the checks of a plugin itself, like `check_component`. The checks of its components aren't among them."""
    for name, check in PLUGIN_CHECKS.items():
        yield name, partial(check, CheckTarget(plugin, catalog))
