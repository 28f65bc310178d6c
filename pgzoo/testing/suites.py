"""Suites for pytest: subclass one and set `name` to your component to run all checks on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import ClassVar

import pytest

from pgzoo.errors import UnknownName
from pgzoo.registry import ComponentKind, PluginCatalog, discover
from pgzoo.testing.checks import CHECKS, DECLARATIONS, PLUGIN_CHECKS, ComponentChecks
from pgzoo.testing.target import CheckTarget, KnownException, NotApplicable

__all__ = [
    "AlgorithmSuite",
    "DiagnosticSuite",
    "DynamicsSuite",
    "EnvBackendSuite",
    "EstimatorSuite",
    "ListenerSuite",
    "PluginSuite",
    "PolicySuite",
]

Test = Callable[..., None]


def _over(names: Iterable[str]) -> Callable[[Test], Test]:
    return pytest.mark.parametrize("check", names)


def _run(check: Callable[[], None]) -> None:
    try:
        check()
    except KnownException as reason:
        pytest.xfail(str(reason))
    except NotApplicable as reason:
        pytest.skip(str(reason))


class _Suite:
    """The base of the suites. `name` is the name of the component; override `catalog` to use other plugins.

    `known_exceptions` are the checks that the component may fail, each with the reason.
    """

    name: ClassVar[str]
    kind: ClassVar[ComponentKind]
    known_exceptions: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    def catalog(self) -> PluginCatalog:
        """Return the installed plugins. Override it to test a component that isn't installed."""
        return discover(inline=False)

    def conforms(self, catalog: PluginCatalog, check: str) -> None:
        """Run one check."""
        entry = catalog.get(self.kind, self.name)
        checks = ComponentChecks(CheckTarget(entry.plugin, catalog, entry), self.known_exceptions)
        _run(partial(checks.run, check))


class AlgorithmSuite(_Suite):
    """Checks of an algorithm."""

    kind = "algorithm"

    @_over([*CHECKS["algorithm"], DECLARATIONS])
    def test_algorithm(self, catalog: PluginCatalog, check: str) -> None:
        """The component passes each check."""
        self.conforms(catalog, check)


class PolicySuite(_Suite):
    """Checks of a policy."""

    kind = "policy"

    @_over([*CHECKS["policy"], DECLARATIONS])
    def test_policy(self, catalog: PluginCatalog, check: str) -> None:
        """The component passes each check."""
        self.conforms(catalog, check)


class EstimatorSuite(_Suite):
    """Checks of a return estimator."""

    kind = "estimator"

    @_over([*CHECKS["estimator"], DECLARATIONS])
    def test_estimator(self, catalog: PluginCatalog, check: str) -> None:
        """The component passes each check."""
        self.conforms(catalog, check)


class EnvBackendSuite(_Suite):
    """Checks of an environment backend."""

    kind = "env_backend"

    @_over([*CHECKS["env_backend"], DECLARATIONS])
    def test_env_backend(self, catalog: PluginCatalog, check: str) -> None:
        """The component passes each check."""
        self.conforms(catalog, check)


class DynamicsSuite(_Suite):
    """Checks of the dynamics of an environment."""

    kind = "dynamics"

    @_over([*CHECKS["dynamics"], DECLARATIONS])
    def test_dynamics(self, catalog: PluginCatalog, check: str) -> None:
        """The component passes each check."""
        self.conforms(catalog, check)


class DiagnosticSuite(_Suite):
    """Checks of a diagnostic."""

    kind = "diagnostic"

    @_over([*CHECKS["diagnostic"], DECLARATIONS])
    def test_diagnostic(self, catalog: PluginCatalog, check: str) -> None:
        """The component passes each check."""
        self.conforms(catalog, check)


class ListenerSuite(_Suite):
    """Checks of a listener."""

    kind = "listener"

    @_over([*CHECKS["listener"], DECLARATIONS])
    def test_listener(self, catalog: PluginCatalog, check: str) -> None:
        """The component passes each check."""
        self.conforms(catalog, check)


class PluginSuite(_Suite):
    """Checks of a plugin as a whole; `name` is that of its entry point."""

    @_over(PLUGIN_CHECKS)
    def test_plugin(self, catalog: PluginCatalog, check: str) -> None:
        """The component passes each check."""
        plugin = next((plugin for plugin in catalog.plugins if plugin.name == self.name), None)
        if plugin is None:
            raise UnknownName(f'No plugin "{self.name}" is installed. Install its package: pip install --editable .')
        _run(partial(PLUGIN_CHECKS[check], CheckTarget(plugin, catalog)))
