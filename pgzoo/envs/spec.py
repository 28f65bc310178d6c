"""What one environment shows and takes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from pgzoo.errors import UnfitError
from pgzoo.types import Spec

__all__ = ["make_spec"]


def make_spec(original: gym.Space[Any], action_space: gym.Space[Any], *, masked: bool = False) -> Spec:
    """Return the specification of an environment that shows `original`: all but Box and Discrete is flattened.

    Raises:
        UnfitError: an image is among the parts of a Tuple or Dict; flattened, it would be no image any more.
    """
    parts = original.spaces.values() if isinstance(original, gym.spaces.Dict) else getattr(original, "spaces", ())
    if any(isinstance(part, gym.spaces.Box) and part.dtype == np.uint8 and len(part.shape) == 3 for part in parts):
        raise UnfitError(f"The observation space {original} has images among its parts; no policy takes those yet.")
    plain = isinstance(original, gym.spaces.Box | gym.spaces.Discrete)
    return Spec(original if plain else gym.spaces.flatten_space(original), action_space, original, masked)
