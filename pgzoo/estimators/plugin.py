"""Registers the built-in return estimators: pure functions of `pgzoo.ops.returns`."""

from __future__ import annotations

from typing import Any

from pgzoo.registry import hookimpl


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register by dotted name, so that listing them imports no torch."""
    registry.estimator(
        "reward-to-go",
        "pgzoo.ops.returns:reward_to_go",
        summary="discounted rewards from each step to the end of its episode",
    )
    registry.estimator(
        "total-return",
        "pgzoo.ops.returns:total_return",
        summary="the whole episode's discounted return, at each of its steps",
    )
    registry.estimator(
        "notebook",
        "pgzoo.ops.returns:notebook",
        summary="(reward + t) read backwards, discounted and divided by its maximum",
    )
