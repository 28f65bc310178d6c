"""Environments whose dynamics are array operations: all rows in one step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

from pgzoo.types import Array, EnvRequest, StepResult

__all__ = ["NativeBackend"]

IDS = ("CartPole-v0", "CartPole-v1")
KEYWORDS = ("sutton_barto_reward",)
PUSH = np.array([-10.0 / 1.1, 10.0 / 1.1])
"""Acceleration of the total mass by each action's force, in m/s²."""


class NativeBackend:
    """CartPole in numpy, equal to gymnasium's up to rounding."""

    width = 128

    def fits(self, request: EnvRequest) -> str:
        """Return an empty string for CartPole-v0 and -v1, also with the keyword that changes their reward."""
        if request.id not in IDS:
            return f"it runs {' and '.join(IDS)} only"
        unknown = sorted(set(request.kwargs) - set(KEYWORDS))
        return f"it takes no environment keyword {', '.join(unknown)}" if unknown else ""

    def preferred(self, request: EnvRequest) -> bool:
        """Return True: it is faster for any number of rows, and its state can be saved."""
        return True

    def open(self, request: EnvRequest) -> NativeCartPole:
        """Make `request.rows` CartPoles."""
        limit = request.max_episode_steps or gym.spec(request.id).max_episode_steps or 500
        return NativeCartPole(request.rows, limit, bool(request.kwargs.get("sutton_barto_reward", False)))


class NativeCartPole:
    """The cart and pole of Barto, Sutton & Anderson (1983), in float64, by Euler steps of 0.02 s.

    gymnasium's own vector version draws all resets from one generator, so that an episode would depend on how many
    others there are; here every row has its own random stream. In-place operations make it three times as fast.
    """

    def __init__(self, rows: int, max_episode_steps: int, sutton_barto_reward: bool) -> None:
        plain = CartPoleEnv()
        self.observation_space, self.action_space = plain.observation_space, plain.action_space
        self.action_mask = None
        self._limits = np.array([[plain.x_threshold], [plain.theta_threshold_radians]])
        self._max_episode_steps, self._sutton_barto_reward = max_episode_steps, sutton_barto_reward
        self._state = np.zeros((2, 2, rows))  # positions and velocities of cart and pole
        self._ones = np.ones(rows)
        self._steps = np.zeros(rows, np.int64)
        self._ended = np.zeros(rows, np.bool_)
        self._streams = np.zeros(rows, np.uint64)

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Start a new episode in every row from its seed."""
        self._streams = _mix(seeds.astype(np.uint64))
        self._state[:] = _start_states(self._streams)
        self._steps[:], self._ended[:] = 0, False
        return self._observe()

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every row."""
        places, speeds = self._state  # [2, rows] each: of the cart and of the pole
        angle, spin = places[1], speeds[1]
        cosine, sine = np.cos(angle), np.sin(angle)
        # total mass 1.1 kg, pole 0.1 kg with half length 0.5 m, force 10 N
        push = PUSH[actions] + (0.05 / 1.1) * spin * spin * sine
        spin_rate = (9.8 * sine - cosine * push) / (2.0 / 3.0 - (0.05 / 1.1) * cosine * cosine)
        places += 0.02 * speeds
        speeds[0] += 0.02 * (push - (0.05 / 1.1) * spin_rate * cosine)
        spin += 0.02 * spin_rate
        self._steps += 1
        outside = np.abs(places) > self._limits
        terminated = outside[0] | outside[1]
        truncated = self._steps >= self._max_episode_steps
        rewards = -terminated.astype(np.float64) if self._sutton_barto_reward else self._ones
        over = self._ended & live
        if np.count_nonzero(over):
            rewards = rewards.copy()
            self._restart(np.flatnonzero(over), rewards, terminated, truncated)
        self._ended = terminated | truncated
        return StepResult(self._observe(), rewards, terminated, truncated)

    def select(self, rows: NDArray[np.int64]) -> NativeCartPole:
        """Return only these rows."""
        part = copy.copy(self)
        part._state, part._steps = self._state[:, :, rows], self._steps[rows]
        part._ones = self._ones[rows]
        part._ended, part._streams = self._ended[rows], self._streams[rows]
        return part

    def save(self) -> list[Any]:
        """Return the state of each row: four variables, step count, whether the episode is over, random stream."""
        leaves = (self._state.transpose(2, 0, 1).reshape(-1, 4), self._steps, self._ended, self._streams)
        return [list(row) for row in zip(*(leaf.tolist() for leaf in leaves), strict=True)]

    def restore(self, states: Sequence[Any]) -> None:
        """Restore every row whose state isn't None."""
        rows = [row for row, saved in enumerate(states) if saved is not None]
        state, steps, ended, streams = zip(*(states[row] for row in rows), strict=True)
        self._state[:, :, rows] = np.array(state, np.float64).reshape(-1, 2, 2).transpose(1, 2, 0)
        self._steps[rows], self._ended[rows] = steps, ended
        self._streams[rows] = np.array(streams, np.uint64)

    def close(self) -> None:
        """Do nothing."""

    def _observe(self) -> Array:
        """Return position and velocity of the cart, angle and angular velocity of the pole: `[rows, 4]`."""
        return self._state.transpose(2, 1, 0).astype(np.float32).reshape(-1, 4)

    def _restart(self, rows: NDArray[np.int64], rewards: Array, *flags: Array) -> None:
        self._streams[rows] = _mix(self._streams[rows])
        self._state[:, :, rows] = _start_states(self._streams[rows])
        self._steps[rows], rewards[rows] = 0, 0.0
        for flag in flags:
            flag[rows] = False


def _start_states(streams: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Four numbers uniform in +-0.05 for each row, `[rows] -> [2, 2, rows]`."""
    words = _mix(streams + np.arange(1, 5, dtype=np.uint64).reshape(2, 2, 1))
    return np.asarray((words >> np.uint64(11)) * (0.1 / 2**53) - 0.05, np.float64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea & Flood 2014): a good hash of 64 bits, on whole arrays."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
