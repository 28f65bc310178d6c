"""The observation and action spaces of an environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from pgzoo.errors import UnfitError
from pgzoo.ops.entries import PLAIN, array_space, learnable
from pgzoo.types import Spec

__all__ = ["check_action_space", "make_spec"]

SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Tuple and Dict of them"


def make_spec(original: gym.Space[Any], action_space: gym.Space[Any], *, masked: bool = False) -> Spec:
    """Return the specification of an environment with these spaces; observations but Box and Discrete are flattened.

    A Dict or Tuple with an image among its entries is packed into bytes, because as floats an image would take four
    times the memory. Entries of a Dict that no policy can learn from are dropped.

    Raises:
        UnfitError: observations are of no fixed size, such as Sequence, Graph and Text, or contain no numbers.
    """
    original, dropped = learnable(original)
    if unknown := _unsupported(original):
        raise UnfitError(
            f"The observation space {original}: {unknown} isn't supported; observations can be {SUPPORTED}."
        )
    if gym.spaces.flatdim(original) == 0:
        raise UnfitError(
            f"The observation space {original} is empty. If there is nothing to observe, let the environment return a "
            "constant: Discrete(1), with the observation 0."
        )
    return Spec(array_space(original), action_space, original, masked, dropped=dropped)


def check_action_space(space: gym.Space[Any]) -> None:
    """Raise UnfitError for an empty action space, or one that can't be saved with a policy."""
    if unknown := _unsupported(space):
        raise UnfitError(
            f"The action space {space}: {unknown} isn't supported (no policy can be saved for it); use {SUPPORTED}."
        )
    if gym.spaces.flatdim(space) == 0:
        raise UnfitError(f"The action space {space} is empty: there is nothing to choose.")


def _unsupported(space: gym.Space[Any]) -> str:
    """The name of a space that isn't supported, or of the first such part; empty if there is none."""
    if isinstance(space, gym.spaces.Tuple | gym.spaces.Dict):
        parts = space.spaces.values() if isinstance(space, gym.spaces.Dict) else space.spaces
        return next((name for part in parts if (name := _unsupported(part))), "")
    return "" if isinstance(space, PLAIN) else type(space).__name__
