"""The environment backend. Change how it runs many environments; the interface is pgzoo.protocols.VectorEnv."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pgzoo.types import Array, EnvRequest, StepResult


class MyPlugin:
    """Steps environments one after the other, with NEXT_STEP autoreset: the step after an end only resets."""

    action_mask: NDArray[np.bool_] | None = None

    def __init__(self, envs: list[gym.Env[Any, Any]]) -> None:
        self.envs, self.ended = envs, [False] * len(envs)
        self.observation_space, self.action_space = envs[0].observation_space, envs[0].action_space

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Start an episode in each row, with the row's seed: `[rows] -> [rows, *O]`."""
        pairs = zip(self.envs, seeds, strict=True)
        self.ended, self.obs = [False] * len(seeds), np.array([env.reset(seed=int(seed))[0] for env, seed in pairs])
        return self.obs

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in each row that is `live`; the results of the others are not used."""
        rewards, terminated, truncated = np.zeros(len(live)), np.zeros_like(live), np.zeros_like(live)
        self.obs = self.obs.copy()  # the run keeps the earlier observations
        for row in live.nonzero()[0]:
            if self.ended[row]:
                self.obs[row], _ = self.envs[row].reset()
            else:
                self.obs[row], rewards[row], terminated[row], truncated[row], _ = self.envs[row].step(actions[row])
            self.ended[row] = bool(terminated[row] or truncated[row])
        return StepResult(self.obs, rewards, terminated, truncated)

    def select(self, rows: NDArray[np.int64]) -> None:
        """Return None: it can't continue with some of the rows alone."""

    def close(self) -> None:
        for env in self.envs:
            env.close()


class MyPluginBackend:
    width = 8  # more copies per seed are not faster

    def fits(self, request: EnvRequest) -> str:
        """Return why this backend can't run the environment, or an empty string."""
        plain = isinstance(make(request).observation_space, gym.spaces.Box | gym.spaces.Discrete)
        return "" if plain and not request.masked else "only Box and Discrete observations without masks are supported"

    def open(self, request: EnvRequest) -> MyPlugin:
        return MyPlugin([make(request) for _ in range(request.rows)])


def make(request: EnvRequest) -> gym.Env[Any, Any]:
    """Create one environment; `request.max_episode_steps` is None for the limit of the environment."""
    return gym.make(request.id, max_episode_steps=request.max_episode_steps, **request.kwargs)
