"""A gymnasium environment that tells what its episodes returned, in the same way to every library that steps it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import work


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gym.Env[Any, Any], returns: work.Returns) -> None:
        super().__init__(env)
        self.returns, self.so_far = returns, 0.0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.returns.env_steps += 1
        self.so_far += float(reward)
        if terminated or truncated:
            so_far, self.so_far = self.so_far, 0.0
            self.returns.add(so_far)
        return obs, reward, terminated, truncated, info


def make(env: str, returns: work.Returns) -> gym.Env[Any, Any]:
    return Watched(gym.make(env), returns)
