"""CartPole whose steps take at least a given CPU time, for `rollouts.py`."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

__all__ = ["Busy"]


class Busy(gym.Wrapper[Any, Any, Any, Any]):
    """Computes for `cost` seconds of CPU time in each step. Waiting for a core doesn't count."""

    def __init__(self, cost: float = 0.0) -> None:
        super().__init__(CartPoleEnv())
        self.cost = cost

    def step(self, action: Any) -> Any:
        """Take a step."""
        end = time.thread_time() + self.cost
        result = self.env.step(action)
        while time.thread_time() < end:
            pass
        return result


gym.register("Busy-v0", entry_point="busy:Busy", max_episode_steps=500)
