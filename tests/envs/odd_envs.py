"""Unusual and broken environments. Workers import this module on its own, so it doesn't import pgzoo."""

from __future__ import annotations

import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete


class EvenMask(gym.Env[Any, Any]):
    """Ten steps; action 2 has reward 1. By default only even steps send a mask, which forbids actions 0 and 1."""

    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Discrete(4)

    def __init__(self, sends: str = "even", mask: Any = (0, 0, 1, 1)) -> None:
        self.sends, self.mask = sends, mask

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(1, np.float32), float(action == 2), self.t == 10, False, self._info()

    def _info(self) -> dict[str, Any]:
        sent = {"even": self.t % 2 == 0, "odd": self.t % 2 == 1, "late": self.t >= 8, "always": True}[self.sends]
        return {"action_mask": np.array(self.mask) if isinstance(self.mask, tuple) else self.mask} if sent else {}


class TwoParts(EvenMask):
    """Its actions have two components."""

    action_space = MultiDiscrete([2, 3])


class NotAMethod(EvenMask):
    """Its `action_masks` is an array instead of a method."""

    action_masks = np.ones(4, np.bool_)


class Costly(gym.Env[Any, Any]):
    """Three steps with info["cost"], ten times the step plus the action; from step 2 on, `sends` may change it."""

    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Discrete(2)

    def __init__(self, sends: Any = "cost") -> None:
        self.sends = sends

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        cost: Any = np.float32(10 * self.t + action)
        info = {"other": 1, "cost": cost if self.sends == "cost" or self.t < 2 else self.sends}
        if self.sends == "nothing" and self.t == 2:
            info.pop("cost")
        return np.zeros(1, np.float32), 1.0, self.t == 3, False, info


SPACES = {
    "vector": Box(-1.0, 1.0, (3,)),
    "whole": Box(0, 10, (1,), np.int32),
    "pixel": Box(0, 255, (1,), np.uint8),
    "bits": Box(0, 1, (2,), np.bool_),
    "category": Discrete(3),
    "shifted": Discrete(3, start=-1),
    "pair": gym.spaces.Tuple((Discrete(3), Box(-1.0, 1.0, (1,)))),
    "named": gym.spaces.Dict({"place": Discrete(3)}),
    "mission": gym.spaces.Dict({"mission": gym.spaces.Text(5), "place": Discrete(3)}),
    "camera": gym.spaces.Dict({"camera": Box(0, 255, (16, 16, 1), np.uint8), "place": Discrete(3)}),
    "sequence": gym.spaces.Sequence(Box(-1.0, 1.0, (2,))),
    "text": gym.spaces.Text(5),
    "graph": gym.spaces.Graph(Box(-1.0, 1.0, (2,)), None),
}


class Returns(gym.Env[Any, Any]):
    """Returns the given observation, reward and flag `terminated`, from step number `at` on."""

    action_space = Discrete(2)

    def __init__(
        self,
        space: str = "vector",
        obs: Any = (0.0, 0.0, 0.0),
        dtype: str = "",
        reward: Any = 1.0,
        at: int = 0,
        ended: Any = None,
    ):
        self.ended = ended
        self.observation_space, self.odd, self.at, self.reward = SPACES[space], obs, at, reward
        self.fine = self.observation_space.sample()
        if dtype:
            self.odd = np.array(obs, dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return (self.odd if self.at == 0 else self.fine), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.t += 1
        odd = self.t >= self.at
        ended = self.ended if odd and self.ended is not None else self.t == 50
        return self.odd if odd else self.fine, self.reward if odd else 1.0, ended, False, {}


class WholeNumbers(gym.Env[Any, Any]):
    """Takes integers from -1 to 2 in an array of shape (2, 1); the reward is their sum."""

    observation_space = Discrete(1)
    action_space = Box(-1, 2, (2, 1), np.int32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"not an action: {action!r}")
        return 0, float(action.sum()), False, False, {}


class Raises(gym.Env[Any, Any]):
    """Fails in the way that `how` names; failures in `step` happen from step `at` on."""

    action_space = Discrete(2)

    def __init__(self, how: str, at: int = 1) -> None:
        self.how, self.at = how, at
        if how == "constructor":
            raise KeyError("no such map")
        if how == "exit in constructor":
            sys.exit(3)

    @property
    def observation_space(self) -> Any:  # type: ignore[override]
        if self.how == "observation_space":
            raise RuntimeError("not connected")
        return None if self.how == "no space" else Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        if self.how == "reset":
            raise RuntimeError("no license")
        obs = np.zeros(2, np.float32)
        return obs if self.how == "old reset" else (obs, {})

    def step(self, action: Any) -> Any:
        self.t += 1
        obs = np.zeros(2, np.float32)
        if self.how == "old step":
            return obs, 1.0, False, {}
        if self.t >= self.at:
            if self.how == "step":
                raise ValueError("out of fuel")
            if self.how == "exit":
                sys.exit(3)
            if self.how == "die":
                os._exit(7)
        return obs, 1.0, self.t == 50, False, {}

    def close(self) -> None:
        if self.how == "close":
            raise OSError("port is busy")


class NoSeed(Raises):
    """Its `reset` takes no seed, as in old versions of gym."""

    def __init__(self) -> None:
        super().__init__("never")

    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class Reusing(gym.Env[Any, Any]):
    """Counts its steps across resets, in an array that is also every observation."""

    observation_space = Box(-np.inf, np.inf, (1,))
    action_space = Discrete(2)

    def __init__(self) -> None:
        self.buffer = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return self.buffer, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.buffer += 1.0
        return self.buffer, 0.0, self.t == 5, False, {}


class Growing(Reusing):
    """Adds a number to the list that it is made with."""

    def __init__(self, goals: list[int]) -> None:
        super().__init__()
        goals.append(0)
        self.observation_space = Box(-np.inf, np.inf, (len(goals),))
        self.buffer = np.zeros(len(goals), np.float32)


class Empty(Returns):
    """Its action space is empty."""

    action_space = Box(-1.0, 1.0, (0,))  # type: ignore[assignment]


class Unseeded(gym.Env[Any, Any]):
    """Draws from `generator` instead of self.np_random: "global", "own" (unseeded) or "late" (only in a step)."""

    observation_space = Box(-np.inf, np.inf, (1,))
    action_space = Discrete(2)

    def __init__(self, generator: str = "global") -> None:
        self.draws_from, self.own = generator, np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._draw(), 0.0, self.t == 5, False, {}

    def _draw(self) -> Any:
        ignored = self.t > 0 if self.draws_from == "late" else True
        if self.draws_from == "own":
            return self.own.normal(size=1).astype(np.float32)
        return np.random.normal(size=1).astype(np.float32) if ignored else np.zeros(1, np.float32)


class OnlyOneReset(Reusing):
    """Raises in its second reset, and returns NaN."""

    def __init__(self) -> None:
        self.buffer, self.t = np.full(1, np.nan, np.float32), -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if self.t >= 0:
            raise RuntimeError("can't be reset again")
        return super().reset(seed=seed, options=options)


class OnlyNaN(OnlyOneReset):
    """Returns NaN."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = -1
        return super().reset(seed=seed, options=options)


CLASSES = EvenMask, TwoParts, NotAMethod, Costly, Returns, Raises, NoSeed, Reusing, Growing, Empty, WholeNumbers
for _class in (*CLASSES, Unseeded, OnlyOneReset, OnlyNaN):
    if f"odd/{_class.__name__}-v0" not in gym.registry:
        gym.register(f"odd/{_class.__name__}-v0", f"{__name__}:{_class.__name__}")
