"""Registers the built-in listeners."""

from __future__ import annotations

from pgzoo.markers import hookimpl
from pgzoo.registry import Registry


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register by dotted name, so that listing them imports nothing heavy."""
    registry.listener("mlflow", "pgzoo.listeners.mlflow:create", summary="curves, parameters and tags, to MLflow")
    registry.listener("artifacts", "pgzoo.listeners.artifacts:create", summary="config and policy, with the run")
    registry.listener("best", "pgzoo.listeners.best:create", summary="the policy of the best evaluation (--save-best)")
    registry.listener("video", "pgzoo.listeners.video:create", summary="an evaluation episode as MP4 (--video)")
    registry.listener("progress", "pgzoo.listeners.progress:create", summary="progress in the terminal", display=True)
