"""An algorithm, an environment and a network that are passed to `pgzoo.run` as objects."""

from __future__ import annotations

from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from pydantic import Field
from torch import Tensor, nn

from pgzoo.config import AlgorithmConfig
from pgzoo.ops.losses import weighted_mean
from pgzoo.types import Batch, Episodes, Hyper, Params


class ScaledConfig(AlgorithmConfig):
    scale: Annotated[float, Field(gt=0, description="weight of the loss")] = 1.0


class Scaled:
    """REINFORCE with a scaled loss."""

    collect, estimator, config = Episodes(per_env=1), "reward-to-go", ScaledConfig

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
        dist = policy.apply(params, batch.inputs).dist
        return -weighted_mean(hyper.scale * dist.log_prob(batch.actions) * batch.advantages, batch.weights)


class Count(gym.Env[Any, Any]):
    """Episodes have `length` steps; the reward is 1 for action 1, else 0."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int = 5) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(3, np.float32), float(action), self.t >= self.length, False, {}


def make_short() -> gym.Env[Any, Any]:
    return Count(length=2)


class Net(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found
