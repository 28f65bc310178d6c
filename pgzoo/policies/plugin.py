"""Registers the built-in policies."""

from __future__ import annotations

from typing import Any

from pgzoo.markers import hookimpl


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register by dotted name, so that listing them imports no torch."""
    registry.policy(
        "mlp",
        "pgzoo.policies.mlp:MLP",
        config="pgzoo.policies.mlp:MLPConfig",
        summary="multilayer perceptron for flat observations; every simple action space",
    )
    registry.policy(
        "linear",
        "pgzoo.policies.mlp:MLP",
        config="pgzoo.policies.mlp:LinearConfig",
        summary="one linear layer for flat observations",
    )
    registry.policy(
        "tabular",
        "pgzoo.policies.tabular:Tabular",
        config="pgzoo.policies.tabular:TabularConfig",
        summary="a table with a row for each state, for Discrete observations",
    )
    registry.policy(
        "gru",
        "pgzoo.policies.recurrent:gru",
        config="pgzoo.policies.recurrent:RecurrentConfig",
        summary="gated recurrent units: remembers what it has seen in the episode",
    )
    registry.policy(
        "lstm",
        "pgzoo.policies.recurrent:lstm",
        config="pgzoo.policies.recurrent:RecurrentConfig",
        summary="long short-term memory: remembers what it has seen in the episode",
    )
    registry.policy(
        "uniform",
        "pgzoo.policies.uniform:Uniform",
        summary="nothing to learn: all allowed actions are as likely",
    )
