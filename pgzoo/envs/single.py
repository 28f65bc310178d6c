"""Make one gymnasium environment, its observations a Box or Discrete."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym

from pgzoo.protocols import EnvRequest

__all__ = ["make_single"]


def make_single(request: EnvRequest, *, flatten: bool = True, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make the environment; Tuple, Dict, MultiDiscrete and MultiBinary observations are flattened to a vector.

    The checks that gymnasium adds for authors of environments are left out: they cost a fifth of a step.
    """
    settings = {**request.kwargs, **kwargs}
    if request.max_episode_steps is not None:
        settings["max_episode_steps"] = request.max_episode_steps
    with warnings.catch_warnings():  # what it has to say of versions, `pgzoo.envs.info` has said better
        warnings.simplefilter("ignore")
        env = gym.make(request.id, disable_env_checker=True, **settings)
    if flatten and not isinstance(env.observation_space, gym.spaces.Box | gym.spaces.Discrete):
        env = gym.wrappers.FlattenObservation(env)
    return env
