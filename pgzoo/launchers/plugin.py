"""Registers the built-in launchers."""

from __future__ import annotations

from typing import Any

from pgzoo.markers import hookimpl


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register the launchers as strings, so that listing them imports nothing slow."""
    registry.launcher("local", "pgzoo.launchers.local:launch", summary="all seeds in this process, as one computation")
    registry.launcher("processes", "pgzoo.launchers.processes:launch", summary="seeds split among processes")
