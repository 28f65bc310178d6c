"""The contract of a plugin, clause by clause: plain functions, for pytest, the command line or a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from pgzoo.registry import ComponentKind, Entry, PluginCatalog, PluginInfo
from pgzoo.testing import algorithms, backends, estimators, plugins, policies
from pgzoo.testing.subject import Check, CheckFailed, NotApplicable, Subject

__all__ = ["CHECKS", "PLUGIN_CHECKS", "CheckFailed", "NotApplicable", "check_component", "check_plugin"]

CHECKS: Mapping[ComponentKind, Mapping[str, Check]] = {
    "algorithm": algorithms.CHECKS,
    "policy": policies.CHECKS,
    "estimator": estimators.CHECKS,
    "env_backend": backends.CHECKS,
}
"""The checks of a component, by kind and name. Other kinds are looked at with their plugin."""

PLUGIN_CHECKS: Mapping[str, Check] = plugins.CHECKS


def check_component(entry: Entry, catalog: PluginCatalog) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the checks of a component, by name: call each.

    A check raises CheckFailed, or NotApplicable where there is nothing to look at, or returns.
    """
    subject = Subject(entry.plugin, catalog, entry)
    for name, check in CHECKS.get(entry.kind, {}).items():
        yield name, partial(check, subject)


def check_plugin(plugin: PluginInfo, catalog: PluginCatalog) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the checks of a plugin as a whole, as `check_component` does; not those of its components."""
    for name, check in PLUGIN_CHECKS.items():
        yield name, partial(check, Subject(plugin, catalog))
