"""Environments with endless episodes, output on stdout, or slow steps. Imported by name, also by `--import`."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Endless(gym.Env[Any, Any]):
    """The reward is 1 per step. Episodes never end; with `some`, about half of them end after 3 steps."""

    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, some: bool = False, render_mode: str | None = None) -> None:
        self.some, self.render_mode = some, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        self.end = 3 if self.some and self.np_random.random() < 0.5 else None
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == self.end, False, {}

    def render(self) -> Any:
        return np.zeros((32, 32, 3), np.uint8)


class Loud(Endless):
    """Prints in its constructor, and in every step, from Python and from C. Episodes have 5 steps."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        print("from the constructor")

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        print("from print")
        os.write(1, b"from os.write\n")
        ctypes.CDLL(None).puts(b"from puts")
        obs, reward, *_ = super().step(action)
        return obs, reward, self.t == 5, False, {}


class Slow(Endless):
    """Each step takes 50 ms. Episodes have 40 steps."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(0.05)
        obs, reward, *_ = super().step(action)
        return obs, reward, self.t == 40, False, {}


for _class in (Endless, Loud, Slow):
    if f"endless/{_class.__name__}-v0" not in gym.registry:
        gym.register(f"endless/{_class.__name__}-v0", f"{__name__}:{_class.__name__}")
