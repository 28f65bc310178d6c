"""Registers the built-in environment backends, and the classes that save an environment's state."""

from __future__ import annotations

from typing import Any

from pgzoo.markers import hookimpl

DYNAMICS = {
    "acrobot": ("Acrobot-v1",),
    "blackjack": ("Blackjack-v1",),
    "cartpole": ("CartPole-v0", "CartPole-v1"),
    "mountain-car": ("MountainCar-v0",),
    "mountain-car-continuous": ("MountainCarContinuous-v0",),
    "pendulum": ("Pendulum-v1",),
    "table": ("FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v4"),
}
"""The environments with built-in dynamics, by the module of `pgzoo.envs.dynamics`."""


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
    registry.env_backend(
        "compiled",
        "pgzoo.envs.compiled:CompiledBackend",
        summary="registered dynamics, compiled with numba together with the policy",
    )
    for name, envs in DYNAMICS.items():
        target = f"pgzoo.envs.dynamics.{name.replace('-', '_')}:dynamics"
        registry.dynamics(name, target, envs=envs, summary=f"{', '.join(envs)}, compiled")
    registry.env_state("classic-control", "pgzoo.envs.state:classic_control", summary="gymnasium's classic control")
    registry.env_state("toy-text", "pgzoo.envs.state:toy_text", summary="gymnasium's toy text")
    registry.env_state("mujoco", "pgzoo.envs.state:MuJoCo", summary="gymnasium's MuJoCo environments, version 5")
