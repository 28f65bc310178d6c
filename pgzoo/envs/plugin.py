"""Registers the built-in environment backends, and the classes that save an environment's state."""

from __future__ import annotations

from typing import Any

from pgzoo.markers import hookimpl


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register by dotted name, so that listing them imports no gymnasium."""
    registry.env_backend(
        "sync", "pgzoo.envs.sync:SyncBackend", summary="one after the other in this process; runs every environment"
    )
    registry.env_backend(
        "async", "pgzoo.envs.asynchronous:AsyncBackend", summary="one process each; for slow environments"
    )
    registry.env_backend(
        "native", "pgzoo.envs.native:NativeBackend", summary="all at once in numpy; CartPole only, many times faster"
    )
    registry.env_state("classic-control", "pgzoo.envs.state:classic_control", summary="gymnasium's classic control")
    registry.env_state("toy-text", "pgzoo.envs.state:toy_text", summary="gymnasium's toy text")
    registry.env_state("mujoco", "pgzoo.envs.state:MuJoCo", summary="gymnasium's MuJoCo environments, version 5")
