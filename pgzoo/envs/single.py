"""Make one gymnasium environment, its observations a Box or Discrete. Imports no torch: processes start here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pgzoo.envs.info import find

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from pgzoo.types import EnvRequest

__all__ = ["allowed", "make", "make_single", "recipe"]


def make_single(request: EnvRequest, *, flatten: bool = True, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make the environment; Tuple, Dict, MultiDiscrete and MultiBinary observations are flattened to a vector."""
    spec, settings = recipe(request)
    return make(spec, {**settings, **kwargs}, flatten=flatten)


def recipe(request: EnvRequest) -> tuple[EnvSpec, dict[str, Any]]:
    """Return what `make` needs: a specification and keywords, also for a process that registers nothing itself."""
    limit = {} if request.max_episode_steps is None else {"max_episode_steps": request.max_episode_steps}
    return find(request.id), {**request.kwargs, **limit}


def make(spec: EnvSpec, settings: Mapping[str, Any], *, flatten: bool = True) -> gym.Env[Any, Any]:
    """Make the environment of a specification.

    The checks that gymnasium adds for authors of environments are left out: they cost a fifth of a step.
    """
    with warnings.catch_warnings():  # what it has to say of versions, `pgzoo.envs.info` has said better
        warnings.simplefilter("ignore")
        env = gym.make(spec, disable_env_checker=True, **settings)
    if flatten and not isinstance(env.observation_space, gym.spaces.Box | gym.spaces.Discrete):
        env = gym.wrappers.FlattenObservation(env)
    return env


def allowed(env: gym.Env[Any, Any], info: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Return which actions the environment allows now, `[K]`; None for one that doesn't say.

    It says so by `info["action_mask"]` or a method `action_masks()`, and for discrete actions only.
    """
    if isinstance(env.action_space, gym.spaces.Box):
        return None
    mask = info.get("action_mask")
    if mask is None and env.has_wrapper_attr("action_masks"):
        mask = env.get_wrapper_attr("action_masks")()
    if mask is None:
        return None
    parts = mask if isinstance(mask, tuple | list) else (mask,)  # one for each component, or all in one
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.bool_)
