"""Registers the built-in policies."""

from __future__ import annotations

from typing import Any

from pgzoo.registry import hookimpl


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register by dotted name, so that listing them imports no torch."""
    registry.policy(
        "mlp",
        "pgzoo.policies.mlp:MLP",
        config="pgzoo.policies.mlp:MLPConfig",
        summary="multilayer perceptron for flat observations; every simple action space",
    )
