"""Pendulum: swing a pendulum up with a limited torque."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pgzoo.types import Array, Dynamics

__all__ = ["dynamics"]

MAX_SPEED, MAX_TORQUE, DT = 8.0, 2.0, 0.05


def dynamics(env: Any) -> Dynamics:
    """Return the dynamics of gymnasium's Pendulum-v1; `g` is the gravity."""
    return Dynamics(
        size=2,
        reset=reset,
        step=step,
        observe=observe,
        read=lambda env: env.state,
        reset_randoms=2,
        constants=np.array([float(env.g)]),
    )


def reset(state: Array, random: Array, constants: Array) -> None:
    """Start at any angle, with a speed in +-1."""
    state[0] = -math.pi + 2 * math.pi * random[0]
    state[1] = -1.0 + 2.0 * random[1]


def step(state: Array, action: Array, random: Array, constants: Array) -> tuple[float, bool]:
    """Apply the torque for one step; gymnasium computes what depends on the torque alone in float32."""
    angle, speed = state[0], state[1]
    torque = np.float32(min(max(action[0], -MAX_TORQUE), MAX_TORQUE))
    turned = ((angle + math.pi) % (2 * math.pi)) - math.pi
    costs = turned * turned + 0.1 * (speed * speed) + np.float64(np.float32(0.001) * (torque * torque))
    push = np.float64(np.float32(3.0) * torque)
    speed = speed + (3 * constants[0] / 2.0 * math.sin(angle) + push) * DT
    speed = min(max(speed, -MAX_SPEED), MAX_SPEED)
    state[0], state[1] = angle + speed * DT, speed
    return -costs, False


def observe(state: Array, obs: Array, constants: Array) -> None:
    """Show the cosine and the sine of the angle, and the speed."""
    obs[0], obs[1], obs[2] = math.cos(state[0]), math.sin(state[0]), state[1]
