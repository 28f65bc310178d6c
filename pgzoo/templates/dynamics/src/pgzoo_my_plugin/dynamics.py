"""The same environment as functions of one row, which the backend `compiled` compiles: change both together.

Every function gets `state`, an array of `size` numbers. `random` has numbers that are uniform in [0, 1).
"""

import math
from typing import Any

import pgzoo

from .environment import MyPlugin


def reset(state: Any, random: Any, constants: Any) -> None:
    """Start an episode."""
    state[0], state[1] = -1.0 + 2.0 * random[0], 0.0


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """Take a step; return the reward, and whether the episode has terminated."""
    state[1] += 0.05 * (action - 1)
    state[0] += 0.1 * state[1]
    lost = abs(state[0]) > 2.0
    return math.exp(-abs(state[0])) - lost, lost


def observe(state: Any, obs: Any, constants: Any) -> None:
    """Write the observation."""
    obs[0], obs[1] = state[0], state[1]


def read(env: MyPlugin) -> list[float]:
    """Return the state of the environment in environment.py, for the check `equals-gymnasium`."""
    return [env.place, env.speed]


def dynamics(env: MyPlugin) -> pgzoo.Dynamics:
    """Return the dynamics; `env` was made with the keyword arguments of the run."""
    return pgzoo.Dynamics(size=2, reset=reset, step=step, observe=observe, read=read, reset_randoms=1)
