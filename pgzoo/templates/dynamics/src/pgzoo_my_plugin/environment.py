"""The environment, for every backend but `compiled`."""

import math
from typing import Any

import gymnasium as gym
import numpy as np


class MyPlugin(gym.Env[Any, Any]):
    """Fly to the origin of a line and stop there, with a thruster that pushes left, not at all, or right."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
        self.action_space = gym.spaces.Discrete(3)
        self.place = self.speed = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.speed = self.np_random.uniform(-1.0, 1.0), 0.0
        return self.observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.speed += 0.05 * (action - 1)
        self.place += 0.1 * self.speed
        lost = abs(self.place) > 2.0
        return self.observation(), math.exp(-abs(self.place)) - lost, lost, False, {}

    def observation(self) -> Any:
        return np.array([self.place, self.speed], np.float32)


gym.register(
    "MyPlugin-v0",
    "pgzoo_my_plugin.environment:MyPlugin",
    max_episode_steps=200,
)
