"""MountainCar: drive an underpowered car up a hill."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pgzoo.types import Array, Dynamics

__all__ = ["dynamics"]

MIN_POSITION, MAX_POSITION, GOAL, MAX_SPEED, FORCE, GRAVITY = -1.2, 0.6, 0.5, 0.07, 0.001, 0.0025


def dynamics(env: Any) -> Dynamics:
    """Return the dynamics of gymnasium's MountainCar-v0; the constant is the minimum speed at the goal."""
    return Dynamics(
        size=2,
        reset=reset,
        step=step,
        observe=observe,
        read=lambda env: env.state,
        reset_randoms=1,
        constants=np.array([float(env.goal_velocity)]),
    )


def reset(state: Array, random: Array, constants: Array) -> None:
    """Start at rest in the valley, from -0.6 to -0.4."""
    state[0], state[1] = -0.6 + (-0.4 - -0.6) * random[0], 0.0


def step(state: Array, action: int, random: Array, constants: Array) -> tuple[float, bool]:
    """Accelerate to the left, not at all, or to the right."""
    position, speed = state[0], state[1]
    speed += (action - 1) * FORCE + math.cos(3 * position) * (-GRAVITY)
    speed = min(max(speed, -MAX_SPEED), MAX_SPEED)
    position = min(max(position + speed, MIN_POSITION), MAX_POSITION)
    if position == MIN_POSITION and speed < 0:
        speed = 0.0
    state[0], state[1] = position, speed
    return -1.0, position >= GOAL and speed >= constants[0]


def observe(state: Array, obs: Array, constants: Array) -> None:
    """Show position and speed."""
    obs[0], obs[1] = state[0], state[1]
