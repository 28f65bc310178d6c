"""CartPole: the cart and pole of Barto, Sutton & Anderson (1983)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pgzoo.types import Array, Dynamics

__all__ = ["dynamics"]

FORCE, GRAVITY, LENGTH, POLE_MASS, TAU = 10.0, 9.8, 0.5, 0.1, 0.02
TOTAL_MASS = POLE_MASS + 1.0
POLE_MASS_LENGTH = POLE_MASS * LENGTH
MAX_POSITION, MAX_ANGLE = 2.4, 12 * 2 * math.pi / 360


def dynamics(env: Any) -> Dynamics:
    """Return the dynamics of gymnasium's CartPole-v0 or -v1."""
    return Dynamics(
        size=4,
        reset=reset,
        step=step,
        observe=observe,
        read=lambda env: env.state,
        reset_randoms=4,
        constants=np.array([float(env._sutton_barto_reward)]),
    )


def reset(state: Array, random: Array, constants: Array) -> None:
    """Start with all four variables uniform in +-0.05."""
    for i in range(4):
        state[i] = -0.05 + 0.1 * random[i]


def step(state: Array, action: int, random: Array, constants: Array) -> tuple[float, bool]:
    """Push the cart for one Euler step."""
    x, speed, angle, spin = state[0], state[1], state[2], state[3]
    force = FORCE if action == 1 else -FORCE
    cosine, sine = math.cos(angle), math.sin(angle)
    temp = (force + POLE_MASS_LENGTH * (spin * spin) * sine) / TOTAL_MASS
    spin_rate = (GRAVITY * sine - cosine * temp) / (LENGTH * (4.0 / 3.0 - POLE_MASS * (cosine * cosine) / TOTAL_MASS))
    acceleration = temp - POLE_MASS_LENGTH * spin_rate * cosine / TOTAL_MASS
    x, angle = x + TAU * speed, angle + TAU * spin
    state[0], state[1], state[2], state[3] = x, speed + TAU * acceleration, angle, spin + TAU * spin_rate
    over = x < -MAX_POSITION or x > MAX_POSITION or angle < -MAX_ANGLE or angle > MAX_ANGLE
    if constants[0] != 0.0:
        return -1.0 if over else 0.0, over
    return 1.0, over


def observe(state: Array, obs: Array, constants: Array) -> None:
    """Show the four variables."""
    for i in range(4):
        obs[i] = state[i]
