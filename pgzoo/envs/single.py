"""Make one gymnasium environment, its observations a Box or Discrete. Imports no torch: processes start here."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from numpy.typing import NDArray

from pgzoo.envs.checks import blame_environment, check_observation, environment_id, read_mask
from pgzoo.envs.ids import find
from pgzoo.envs.wrappers import Wrap, apply, find_wrappers
from pgzoo.errors import EnvError
from pgzoo.ops.entries import PackedSpace, array_space, learnable
from pgzoo.quiet import without_warnings

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from pgzoo.types import EnvRequest

__all__ = ["action_mask", "integer_choices", "make", "make_single", "recipe"]

MAX_CHOICES = 1024
"""Maximum number of values of each number of an integer Box of actions."""


def make_single(request: EnvRequest, *, flatten: bool = True, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make the environment; Tuple, Dict, MultiDiscrete and MultiBinary observations become one array (see `spec`)."""
    spec, settings, wrappers = recipe(request)
    return make(spec, {**settings, **kwargs}, wrappers, flatten=flatten)


def recipe(request: EnvRequest) -> tuple[EnvSpec, dict[str, Any], tuple[Wrap, ...]]:
    """Return the arguments of `make`, also for a process that registers and imports nothing itself."""
    limit = {} if request.max_episode_steps is None else {"max_episode_steps": request.max_episode_steps}
    wrappers = find_wrappers(request.wrappers, request.frame_stack)
    return find(request.id, request.make), {**request.kwargs, **limit}, wrappers


def make(
    spec: EnvSpec, settings: Mapping[str, Any], wrappers: Iterable[Wrap] = (), *, flatten: bool = True
) -> gym.Env[Any, Any]:
    """Make the environment of a specification, inside `wrappers`. Raises EnvError if it can't be made.

    Actions in an integer Box become MultiDiscrete, because policies choose among whole numbers as among categories.

    The checks that gymnasium adds for authors of environments are left out: they cost a fifth of a step.
    """
    # `pgzoo.envs.ids` has a better message on old versions than the warnings
    with without_warnings(), blame_environment(spec.id, "its constructor"):
        # a copy: the environment may change a list or dict that it is made with
        env = gym.make(spec, disable_env_checker=True, **copy.deepcopy(dict(settings)))
    env = apply(env, spec.id, wrappers)
    for name in ("observation_space", "action_space"):
        with blame_environment(spec.id, name):
            space = getattr(env, name)
        if not isinstance(space, gym.Space):
            raise EnvError(f'environment "{spec.id}" has {space!r:.60} as its {name}; expected a gymnasium space.')
    choices = integer_choices(env.action_space)
    if choices is not None:
        env = IntegerActions(env, choices)
    if flatten and not isinstance(env.observation_space, gym.spaces.Box | gym.spaces.Discrete):
        space, _ = learnable(env.observation_space)
        array = array_space(space)
        env = PackObservation(env, array) if isinstance(array, PackedSpace) else FlattenObservation(env, space)
    return env


def integer_choices(space: gym.Space[Any]) -> MultiDiscrete | None:
    """Return the MultiDiscrete space with the values of an integer Box, a component for each of its numbers.

    None for any other space, and if a number has more than `MAX_CHOICES` values.
    """
    if not isinstance(space, Box) or space.dtype is None or space.dtype.kind not in "iu":
        return None
    counts = space.high.ravel().astype(np.float64) - space.low.ravel().astype(np.float64) + 1
    if not counts.size or counts.max() > MAX_CHOICES:
        return None
    return MultiDiscrete(counts.astype(np.int64), start=space.low.ravel().astype(np.int64))


class IntegerActions(gym.ActionWrapper[Any, Any, Any]):  # don't rename: saved states contain the name
    """Takes MultiDiscrete actions in place of those of an integer Box."""

    def __init__(self, env: gym.Env[Any, Any], choices: MultiDiscrete) -> None:
        super().__init__(env)
        self.action_space = choices

    def action(self, action: Any) -> Any:
        """Return the action in the shape and dtype of the Box."""
        box = self.env.action_space
        return np.asarray(action, box.dtype).reshape(box.shape or ())


class FlattenObservation(gym.ObservationWrapper[Any, Any, Any]):  # don't rename: saved states contain the name
    """Flattens observations in `space` to a vector.

    It checks them first: flattening would map out-of-range categories to other categories.
    """

    def __init__(self, env: gym.Env[Any, Any], space: gym.Space[Any]) -> None:
        super().__init__(env)
        self._space, self.observation_space = space, gym.spaces.flatten_space(space)

    def observation(self, observation: Any) -> Any:
        """Return the observation as a vector. Raises EnvError if it isn't in its space."""
        check_observation(environment_id(self.env), self._space, observation)
        return gym.spaces.flatten(self._space, observation)


class PackObservation(gym.ObservationWrapper[Any, Any, Any]):  # don't rename: saved states contain the name
    """Packs observations that contain images into bytes."""

    def __init__(self, env: gym.Env[Any, Any], packed: PackedSpace) -> None:
        super().__init__(env)
        self._packed = packed
        self.observation_space = gym.spaces.Box(0, 255, self._packed.shape, np.uint8)

    def observation(self, observation: Any) -> Any:
        """Return the bytes of the observation. Raises EnvError if it isn't in its space."""
        check_observation(environment_id(self.env), self._packed.original, observation)
        return self._packed.pack(observation)


def action_mask(env: gym.Env[Any, Any], info: Mapping[str, Any], *, ended: bool = False) -> NDArray[np.bool_] | None:
    """Return which actions the environment allows now, `[K]`; None if it has no mask, which allows all of them.

    The mask comes from `info["action_mask"]` or a method `action_masks()`. Actions in a Box can't be forbidden. With
    `ended`, the episode is over, and no action needs to be allowed.

    Raises:
        EnvError: the mask has another length or type than its actions ask for, or allows nothing.
    """
    if isinstance(env.action_space, gym.spaces.Box):
        return None
    mask = info.get("action_mask")
    if mask is None and env.has_wrapper_attr("action_masks"):
        method = env.get_wrapper_attr("action_masks")
        if not callable(method):
            raise EnvError(
                f'environment "{environment_id(env)}" has an attribute action_masks that isn\'t a method '
                f"({type(method).__name__}); expected a method action_masks() that returns the mask."
            )
        mask = method()
    return None if mask is None else read_mask(environment_id(env), env.action_space, mask, ended=ended)
