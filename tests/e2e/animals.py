"""Unusual environments and faulty algorithms, for the tests of the program."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pydantic import Field
from torch import Tensor

import pgzoo


class Random(gym.Env[Any, Any]):
    """Random observations and episodes of seven steps; an action outside the action space is an error."""

    observation_space: gym.Space[Any] = spaces.Box(-1.0, 1.0, (2,))
    action_space: gym.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 7, False, {}


class Mixed(Random):
    observation_space = spaces.Dict({"place": spaces.Discrete(3), "speed": spaces.Box(-1.0, 1.0, (2,))})
    action_space = spaces.MultiDiscrete([2, 3])


class Bits(Random):
    observation_space = spaces.MultiDiscrete([3, 4])
    action_space = spaces.MultiBinary(4)


class Pixels(Random):
    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)


class Words(Random):
    action_space = spaces.Text(3)


class Slow(Random):
    """Episodes that don't end, with steps of 10 ms. The first step creates `slow-step` in the working directory."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Path("slow-step").touch()
        time.sleep(0.01)
        return self.observation_space.sample(), 1.0, False, False, {}


for kind in (Mixed, Bits, Pixels, Words, Slow):
    gym.register(f"{kind.__name__}-v0", cast(Any, kind))


class Nan:
    """An algorithm whose loss is NaN from the fourth update on."""

    collect = pgzoo.Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"total_steps": 5000}
    updates = 0

    def loss(self, policy: Any, params: Any, batch: pgzoo.Batch, hyper: pgzoo.Hyper) -> Tensor:
        self.updates += 1
        dist = policy.apply(params, batch.inputs).dist
        loss: Tensor = -(dist.log_prob(batch.actions) * batch.advantages * batch.weights).mean((-2, -1))
        return loss * float("nan") if self.updates > 3 else loss


class Raising(Nan):
    """An algorithm that raises an exception in its fourth update."""

    def loss(self, policy: Any, params: Any, batch: pgzoo.Batch, hyper: pgzoo.Hyper) -> Tensor:
        if self.updates > 2:
            raise ValueError("what a pity")
        return super().loss(policy, params, batch, hyper)


class ClashConfig(pgzoo.AlgorithmConfig):
    gamma: Annotated[float, Field(description="also the run's")] = 0.5


@pgzoo.hookimpl
def pgzoo_register(registry: Any) -> None:
    registry.algorithm("nan", Nan)
    registry.algorithm("raising", Raising)
    registry.algorithm("clash", Nan, config=ClashConfig)
    registry.algorithm("gone", "not_there:Gone")
