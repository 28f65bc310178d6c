"""Probe environments with known solutions; a failure in one points to a specific bug.

They are registered with gymnasium as `pgzoo/NAME-v0`. In a command, `pgzoo.testing.probes:pgzoo/Bandit-v0` imports this
module first.

Source: Jones (2021), Debugging reinforcement learning systems, on probe environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

__all__ = [
    "OBSERVATIONS",
    "PROBES",
    "SPACES",
    "AnySpaces",
    "Bandit",
    "BrightSide",
    "Corridor",
    "LeakyReset",
    "Scripted",
    "Target",
]

SPACES: dict[str, gym.Space[Any]] = {
    "vector": Box(-1.0, 1.0, (3,)),
    "one": Box(-2.0, 2.0, (1,)),
    "matrix": Box(-1.0, 1.0, (2, 3)),
    "wide": Box(-np.inf, np.inf, (2,), np.float64),
    "discrete": Discrete(3),
    "shifted": Discrete(3, start=-1),
    "pair": Discrete(2),
    "multi-discrete": MultiDiscrete([2, 3]),
    "multi-binary": MultiBinary(4),
    "tuple": Tuple((Discrete(2), Box(-1.0, 1.0, (2,)))),
    "dict": Dict({"place": Discrete(3), "speed": Box(-1.0, 1.0, (1,))}),
}


OBSERVATIONS = SPACES | {
    "image": Box(0, 255, (12, 12, 3), np.uint8),
    "image-and-vector": Dict({"camera": Box(0, 255, (3, 16, 16), np.uint8), "speed": Box(-1.0, 1.0, (2,))}),
}
"""Spaces of observations: all `SPACES`, and others that are no action spaces."""


class Scripted(gym.Env[Any, Any]):
    """Episode k has observations `[k, t]`, rewards 10 k + t at step t = 1, 2, ..., and ends as in `SCRIPT`.

    A reset with seed k starts episode k; a reset without seed starts the next episode.
    """

    SCRIPT = ((3, True, False), (2, False, True), (1, True, True), (4, True, False))
    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Discrete(2)

    episode = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.episode = self.episode + 1 if seed is None else seed
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        length, terminated, truncated = self.SCRIPT[self.episode % len(self.SCRIPT)]
        assert self.t < length, "stepped after the end"
        self.t += 1
        over = self.t == length
        return self._obs(), 10.0 * self.episode + self.t, over and terminated, over and truncated, {}

    def _obs(self) -> Any:
        return np.array([self.episode, self.t], np.float32)


@cache
def _views(observation: str) -> list[Any]:
    """Return the observations of `AnySpaces`. Sampling them takes longer than some runs."""
    space = OBSERVATIONS[observation]
    space.seed(0)
    return [space.sample() for _ in range(50)]


class AnySpaces(gym.Env[Any, Any]):
    """Random observations and episode lengths; raises ValueError for actions that are not in its space.

    The info of a step has a random number between 0 and 1 for each of the keys `info`.
    """

    def __init__(self, observation: str = "vector", action: str = "pair", info: Sequence[str] = ()) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[observation], SPACES[action]
        self.views, self.info = _views(observation), tuple(info)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        one_hot = isinstance(self.action_space, Discrete)
        paid = 1.0 if one_hot else float(np.sum(np.asarray(gym.spaces.flatten(self.action_space, action)) * 1.0))
        ends, cut = self.rng.random(2) < (0.06, 0.03)
        obs, reward = self._obs(), paid + self.rng.normal()
        return obs, reward, bool(ends), bool(cut), {key: self.rng.random() for key in self.info}

    def _obs(self) -> Any:
        return self.views[self.rng.integers(len(self.views))]


class Bandit(gym.Env[Any, Any]):
    """One step, three arms with rewards 0.2, 1.0 and 0.5. The info has 0 for each of the keys `info`."""

    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Discrete(3)

    def __init__(self, info: Sequence[str] = ()) -> None:
        self.info = dict.fromkeys(info, 0.0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        return np.ones(1, np.float32), (0.2, 1.0, 0.5)[int(action)], True, False, dict(self.info)


class Target(gym.Env[Any, Any]):
    """One step; the reward is minus the squared distance of the action from 0.5. Its info is as in `Bandit`."""

    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Box(-2.0, 2.0, (1,))

    def __init__(self, info: Sequence[str] = ()) -> None:
        self.info = dict.fromkeys(info, 0.0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        return np.ones(1, np.float32), -float((action[0] - 0.5) ** 2), True, False, dict(self.info)


class Corridor(gym.Env[Any, Any]):
    """Six cells; each step costs 1 and the right end is the goal, so the best return is -5."""

    observation_space = Discrete(6)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.cell = 0
        return self.cell, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        return self.cell, -1.0, self.cell == 5, False, {}


class BrightSide(gym.Env[Any, Any]):
    """One step; the reward is 1 for naming the brighter half of an image (0: left, 1: right), else 0.

    With `entries`, the observation is a Dict of the image and a Discrete "opposite"; if that is 1, the darker half has
    to be named.
    """

    action_space = Discrete(2)

    def __init__(self, side: int = 8, entries: bool = False) -> None:
        image = Box(0, 255, (side, side, 1), np.uint8)
        self.observation_space = Dict({"image": image, "opposite": Discrete(2)}) if entries else image
        self.side, self.entries = side, entries

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        bright, opposite = self.np_random.integers(2), self.np_random.integers(2) if self.entries else 0
        image = self.np_random.integers(0, 100, (self.side, self.side, 1))
        half = self.side // 2
        image[:, half * bright : half * (bright + 1)] += 100
        self.right, pixels = bright ^ opposite, image.astype(np.uint8)
        self.obs = {"image": pixels, "opposite": opposite} if self.entries else pixels
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        return self.obs, float(action == self.right), True, False, {}


class LeakyReset(gym.Env[Any, Any]):
    """Ten random steps determined by the seed and, incorrectly, by earlier episodes."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Discrete(2)

    depth = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        self.t += 1
        self.depth = 0.9 * self.depth + float(action)
        return self._obs(), float(action), self.t == 10, False, {}

    def _obs(self) -> Any:
        return np.array([self.np_random.normal(), self.depth], np.float32)


PROBES: dict[str, type[gym.Env[Any, Any]]] = {
    f"pgzoo/{probe.__name__}-v0": probe
    for probe in (Scripted, AnySpaces, Bandit, Target, Corridor, BrightSide, LeakyReset)
}
"""The probes by id."""

for _id, _probe in PROBES.items():
    gym.register(_id, f"{__name__}:{_probe.__name__}", max_episode_steps=50 if _probe is Corridor else None)
