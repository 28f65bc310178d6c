"""Checks that a plugin works as pgzoo expects, pytest suites that run them, and probe environments.

    class TestMine(pgzoo.testing.AlgorithmSuite):
        name = "my-algorithm"

Without pytest: `pgzoo plugins check my-algorithm`. Names are imported when they are first used, and only the suites
need pytest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgzoo.testing.checks import CheckFailed, NotApplicable, check_component, check_plugin
    from pgzoo.testing.suites import (
        AlgorithmSuite,
        DiagnosticSuite,
        DynamicsSuite,
        EnvBackendSuite,
        EstimatorSuite,
        ListenerSuite,
        PluginSuite,
        PolicySuite,
    )

_HOMES = {
    "AlgorithmSuite": "suites",
    "CheckFailed": "checks",
    "DiagnosticSuite": "suites",
    "DynamicsSuite": "suites",
    "EnvBackendSuite": "suites",
    "EstimatorSuite": "suites",
    "ListenerSuite": "suites",
    "NotApplicable": "checks",
    "PluginSuite": "suites",
    "PolicySuite": "suites",
    "check_component": "checks",
    "check_plugin": "checks",
}

__all__ = [
    "AlgorithmSuite",
    "CheckFailed",
    "DiagnosticSuite",
    "DynamicsSuite",
    "EnvBackendSuite",
    "EstimatorSuite",
    "ListenerSuite",
    "NotApplicable",
    "PluginSuite",
    "PolicySuite",
    "check_component",
    "check_plugin",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pgzoo.testing' has no attribute {name!r}")
    return getattr(import_module(f"pgzoo.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
