"""Registers the built-in diagnostics."""

from __future__ import annotations

from typing import Any

from pgzoo.markers import hookimpl


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register the diagnostics as strings, so that listing them doesn't import torch."""
    registry.diagnostic(
        "gradient-snr",
        "pgzoo.diagnostics.gradient_snr:GradientSNR",
        summary="signal-to-noise ratio of the gradient, and its variance between minibatches",
    )
    registry.diagnostic(
        "dead-units",
        "pgzoo.diagnostics.dead_units:DeadUnits",
        summary="fraction of hidden units of the mlp policy that are 0 (relu) or saturated (tanh) everywhere",
    )
    registry.diagnostic(
        "advantage-skew",
        "pgzoo.diagnostics.advantage_skew:AdvantageSkew",
        summary="skewness of the advantages",
    )
