"""Acrobot: swing a pendulum of two links up with a torque at the joint between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pgzoo.errors import UnfitError
from pgzoo.types import Array, Dynamics

__all__ = ["dynamics"]

DT, GRAVITY, PI = 0.2, 9.8, math.pi
MAX_SPEED_1, MAX_SPEED_2 = 4 * math.pi, 9 * math.pi


def dynamics(env: Any) -> Dynamics:
    """Return the dynamics of gymnasium's Acrobot-v1."""
    if env.book_or_nips != "book" or env.torque_noise_max != 0.0:
        raise UnfitError("its dynamics are those of the book, without noise")
    return Dynamics(size=4, reset=reset, step=step, observe=observe, read=lambda env: env.state, reset_randoms=4)


def reset(state: Array, random: Array, constants: Array) -> None:
    """Start with all four variables uniform in +-0.1, as float32 numbers."""
    for i in range(4):
        state[i] = np.float32(-0.1 + 0.2 * random[i])


def step(state: Array, action: int, random: Array, constants: Array) -> tuple[float, bool]:
    """Apply the torque -1, 0 or 1 for one Runge-Kutta step of the fourth order."""
    torque = action - 1.0
    a, b, c, d = state[0], state[1], state[2], state[3]
    half = DT / 2.0
    a1, b1, c1, d1 = derivatives(a, b, c, d, torque)
    a2, b2, c2, d2 = derivatives(a + half * a1, b + half * b1, c + half * c1, d + half * d1, torque)
    a3, b3, c3, d3 = derivatives(a + half * a2, b + half * b2, c + half * c2, d + half * d2, torque)
    a4, b4, c4, d4 = derivatives(a + DT * a3, b + DT * b3, c + DT * c3, d + DT * d3, torque)
    sixth = DT / 6.0
    a = wrap(a + sixth * (a1 + 2 * a2 + 2 * a3 + a4))
    b = wrap(b + sixth * (b1 + 2 * b2 + 2 * b3 + b4))
    c = c + sixth * (c1 + 2 * c2 + 2 * c3 + c4)
    d = d + sixth * (d1 + 2 * d2 + 2 * d3 + d4)
    c = min(max(c, -MAX_SPEED_1), MAX_SPEED_1)
    d = min(max(d, -MAX_SPEED_2), MAX_SPEED_2)
    state[0], state[1], state[2], state[3] = a, b, c, d
    over = -math.cos(a) - math.cos(b + a) > 1.0
    return 0.0 if over else -1.0, over


def derivatives(
    theta1: float, theta2: float, speed1: float, speed2: float, torque: float
) -> tuple[float, float, float, float]:
    """Return the derivatives of both angles and both speeds; all masses, lengths and moments of inertia are 1."""
    d1 = 0.25 + (1.0 + 0.25 + 2 * 0.5 * math.cos(theta2)) + 1.0 + 1.0
    d2 = (0.25 + 0.5 * math.cos(theta2)) + 1.0
    phi2 = 0.5 * GRAVITY * math.cos(theta1 + theta2 - PI / 2.0)
    phi1 = (
        -0.5 * (speed2 * speed2) * math.sin(theta2)
        - 2 * 0.5 * speed2 * speed1 * math.sin(theta2)
        + (0.5 + 1.0) * GRAVITY * math.cos(theta1 - PI / 2)
        + phi2
    )
    rate2 = (torque + d2 / d1 * phi1 - 0.5 * (speed1 * speed1) * math.sin(theta2) - phi2) / (0.25 + 1.0 - d2 * d2 / d1)
    rate1 = -(d2 * rate2 + phi1) / d1
    return speed1, speed2, rate1, rate2


def wrap(angle: float) -> float:
    """Return the angle in +-pi."""
    while angle > PI:
        angle = angle - 2 * PI
    while angle < -PI:
        angle = angle + 2 * PI
    return angle


def observe(state: Array, obs: Array, constants: Array) -> None:
    """Show the cosine and the sine of both angles, and both speeds."""
    obs[0], obs[1] = math.cos(state[0]), math.sin(state[0])
    obs[2], obs[3] = math.cos(state[1]), math.sin(state[1])
    obs[4], obs[5] = state[2], state[3]
