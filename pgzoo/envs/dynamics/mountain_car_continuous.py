"""MountainCarContinuous: drive an underpowered car up a hill, with any force in a range."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pgzoo.types import Array, Dynamics

__all__ = ["dynamics"]

MIN_POSITION, MAX_POSITION, GOAL, MAX_SPEED, MAX_FORCE, POWER = -1.2, 0.6, 0.45, 0.07, 1.0, 0.0015


def dynamics(env: Any) -> Dynamics:
    """Return the dynamics of gymnasium's MountainCarContinuous-v0; the constant is the minimum speed at the goal.

    gymnasium keeps the state in float32 after the first step, and in float64 before. The third value of the state is 1
    before the first step.
    """
    return Dynamics(
        size=3,
        reset=reset,
        step=step,
        observe=observe,
        read=lambda env: [*env.state, float(env.state.dtype == np.float64)],
        reset_randoms=1,
        constants=np.array([float(env.goal_velocity)]),
    )


def reset(state: Array, random: Array, constants: Array) -> None:
    """Start at rest in the valley, from -0.6 to -0.4."""
    state[0], state[1], state[2] = -0.6 + (-0.4 - -0.6) * random[0], 0.0, 1.0


def step(state: Array, action: Array, random: Array, constants: Array) -> tuple[float, bool]:
    """Apply the force."""
    if state[2] != 0.0:
        position, speed = first_step(state, action[0])
        over = position >= GOAL and speed >= constants[0]
    else:
        position, speed = later_step(state, action[0])
        over = position >= np.float64(np.float32(GOAL)) and speed >= np.float64(np.float32(constants[0]))
    state[0], state[1], state[2] = np.float32(position), np.float32(speed), 0.0
    cost = np.float64(action[0]) * np.float64(action[0]) * 0.1
    return (100.0 if over else 0.0) - cost, over


def first_step(state: Array, force: Any) -> tuple[float, float]:
    """Return the next position and speed, computed in float64 but for the acceleration."""
    position, speed = state[0], state[1]
    force = np.float32(min(max(force, -MAX_FORCE), MAX_FORCE))
    speed += np.float64(force * np.float32(POWER) - np.float32(0.0025 * math.cos(3 * position)))
    speed = min(max(speed, -MAX_SPEED), MAX_SPEED)
    position = min(max(position + speed, MIN_POSITION), MAX_POSITION)
    if position == MIN_POSITION and speed < 0:
        speed = 0.0
    return position, speed


def later_step(state: Array, force: Any) -> tuple[float, float]:
    """Return the next position and speed, computed in float32."""
    position, speed = np.float32(state[0]), np.float32(state[1])
    force = np.float32(min(max(force, -MAX_FORCE), MAX_FORCE))
    pull = np.float32(0.0025 * math.cos(np.float64(np.float32(3.0) * position)))
    speed = speed + (force * np.float32(POWER) - pull)
    fast = np.float32(MAX_SPEED)
    speed = min(max(speed, -fast), fast)
    position = min(max(position + speed, np.float32(MIN_POSITION)), np.float32(MAX_POSITION))
    if position == np.float32(MIN_POSITION) and speed < 0:
        speed = np.float32(0.0)
    return np.float64(position), np.float64(speed)


def observe(state: Array, obs: Array, constants: Array) -> None:
    """Show position and speed."""
    obs[0], obs[1] = state[0], state[1]
