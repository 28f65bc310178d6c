"""The entries of an observation: which are images, and how several are stored as one array. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

__all__ = ["PLAIN", "VECTOR", "PackedSpace", "array_space", "entries_of", "is_image", "is_image_stack", "learnable"]

IMAGE_SIDE, IMAGE_CHANNELS = 16, 4
"""Minimum height and width of an image in pixels, and maximum number of its channels."""

VECTOR = "vector"
"""Name of the vector of all entries that are not images."""

PLAIN = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)


def is_image(space: gym.Space[Any]) -> bool:
    """Return whether observations are images: a uint8 Box of three dimensions that is large enough.

    An image has at least 16 x 16 pixels, and 1 to 4 channels in its first or last dimension. Smaller or deeper arrays,
    such as the one-hot 4 x 4 x 16 board of 2048, are treated as vectors, except by policies for images.
    """
    if not (isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3):
        return False
    layouts = ((space.shape[0], space.shape[1:]), (space.shape[2], space.shape[:2]))
    return any(channels <= IMAGE_CHANNELS and min(pixels) >= IMAGE_SIDE for channels, pixels in layouts)


def is_image_stack(space: gym.Space[Any]) -> bool:
    """Return whether observations are several images, stacked in the first of four dimensions."""
    shape = space.shape or ()
    return len(shape) == 4 and space.dtype == np.uint8 and is_image(gym.spaces.Box(0, 255, shape[1:], np.uint8))


def entries_of(space: gym.Space[Any]) -> Iterator[tuple[str, gym.Space[Any]]]:
    """Yield the entries of a Dict or Tuple, also of nested ones, with names such as "camera" or "arm.0".

    The order is that in which gymnasium flattens them. Any other space is its own only entry, with an empty name. Names
    are unique and not `VECTOR`: an underscore is appended to a name that is taken.
    """
    taken = {VECTOR}
    for name, part in _entries(space, ""):
        while name in taken:
            name += "_"
        taken.add(name)
        yield name, part


def _entries(space: gym.Space[Any], name: str) -> Iterator[tuple[str, gym.Space[Any]]]:
    if isinstance(space, gym.spaces.Dict):
        parts: Any = space.spaces.items()
    elif isinstance(space, gym.spaces.Tuple):
        parts = enumerate(space.spaces)
    else:
        yield name, space
        return
    for key, part in parts:
        yield from _entries(part, f"{name}.{key}" if name else str(key) or "_")


def array_space(space: gym.Space[Any]) -> gym.Space[Any]:
    """Return the space of the arrays that a policy gets for observations in `space`.

    Dicts and Tuples with an image among their entries are packed, others are flattened, and so are MultiDiscrete and
    MultiBinary. Categories are int64. Numbers of the types uint16, uint32 and uint64, with which torch can't index or
    add, get the next larger type: int32, int64 and float64.
    """
    if not isinstance(space, gym.spaces.Box | gym.spaces.Discrete):
        if any(is_image(entry) for _, entry in entries_of(space)):
            return PackedSpace(space)
        space = gym.spaces.flatten_space(space)
    if isinstance(space, gym.spaces.Discrete) and space.dtype != np.int64:
        return gym.spaces.Discrete(int(space.n), start=int(space.start))
    if isinstance(space, gym.spaces.Box) and space.dtype in (np.uint16, np.uint32, np.uint64):
        larger: Any = np.promote_types(space.dtype, np.int8)
        return gym.spaces.Box(space.low.astype(larger), space.high.astype(larger), dtype=larger.type)
    return space


def learnable(space: gym.Space[Any]) -> tuple[gym.Space[Any], tuple[str, ...]]:
    """Return the space without the entries of Dicts that no policy can learn from, and a description of each of these.

    Such entries are of a type without a fixed size: Text, Sequence, Graph and the like. A Dict in which nothing else is
    left, and entries of a Tuple, are kept.
    """
    if not isinstance(space, gym.spaces.Dict):
        return space, ()
    kept: list[tuple[Any, gym.Space[Any]]] = []
    dropped: list[str] = []
    for key, part in space.spaces.items():
        part, inner = learnable(part)
        if all(isinstance(entry, PLAIN) for _, entry in entries_of(part)):
            kept.append((key, part))
            dropped += [f"{key}.{text}" for text in inner]
        else:
            dropped.append(f"{key} ({type(part).__name__})")
    return (gym.spaces.Dict(kept), tuple(dropped)) if kept and dropped else (space, ())


class PackedSpace(gym.Space[Any]):
    """Observations with images and other entries, stored in one array of bytes, so that pixels stay one byte each.

    The array holds the other entries, flattened by gymnasium to one float32 vector, then the images one after the
    other, then zeros up to a multiple of four bytes.

    Attributes:
        original: the Dict or Tuple.
        images: name, shape and first byte of each image.
        vector_size: number of float32 values before the images.
    """

    def __init__(self, original: gym.Space[Any]) -> None:
        self.original = original
        entries = list(entries_of(original))
        self._is_image = [is_image(space) for _, space in entries]
        self._spaces = [space for _, space in entries]
        self.vector_size = sum(gym.spaces.flatdim(space) for _, space in entries if not is_image(space))
        end, images = 4 * self.vector_size, []
        for name, space in entries:
            if is_image(space):
                images.append((name, space.shape or (), end))
                end += prod(space.shape or ())
        self.images = tuple(images)
        super().__init__((-(-end // 4) * 4,), np.uint8)

    @property
    def is_np_flattenable(self) -> bool:
        """Whether `gymnasium.spaces.flatten_space` supports it: no, because it is flat."""
        return False

    def pack(self, obs: Any) -> NDArray[np.uint8]:
        """Return the bytes `[size]` of an observation of the original space; other keys of a Dict are ignored."""
        packed = np.zeros(self.shape or (), np.uint8)
        values = list(_values(self.original, obs))
        rest = [
            np.ravel(cast(Any, gym.spaces.flatten(space, value)))
            for space, value, image in zip(self._spaces, values, self._is_image, strict=True)
            if not image
        ]
        if rest:
            packed[: 4 * self.vector_size] = np.concatenate(rest).astype(np.float32).view(np.uint8)
        pixels = (value for value, image in zip(values, self._is_image, strict=True) if image)
        for (_, shape, start), value in zip(self.images, pixels, strict=True):
            packed[start : start + prod(shape)] = np.ravel(value)
        return packed

    def unpack(self, packed: Any) -> dict[str, Any]:
        """Return views on packed arrays or tensors `[..., size]`: the vector `[..., V]` and images `[..., *shape]`."""
        if isinstance(packed, np.ndarray):
            float32: Any = np.float32
        else:
            import torch

            float32 = torch.float32
        parts = {
            name: packed[..., start : start + prod(shape)].reshape(*packed.shape[:-1], *shape)
            for name, shape, start in self.images
        }
        if self.vector_size:
            parts[VECTOR] = packed[..., : 4 * self.vector_size].view(float32)
        return parts

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.uint8]:
        """Return a packed random observation."""
        return self.pack(self.original.sample())

    def seed(self, seed: Any = None) -> Any:
        """Seed the generator of `sample`."""
        return self.original.seed(seed)

    def contains(self, x: Any) -> bool:
        """Return whether `x` is an array of bytes of this size."""
        return isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.shape == self.shape

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedSpace) and self.original == other.original

    def __repr__(self) -> str:
        return f"PackedSpace({self.original})"


def _values(space: gym.Space[Any], obs: Any) -> Iterator[Any]:
    """Yield the values of the entries of an observation, in the order of `entries_of`."""
    if isinstance(space, gym.spaces.Dict):
        for key, part in space.spaces.items():
            yield from _values(part, obs[key])
    elif isinstance(space, gym.spaces.Tuple):
        for part, value in zip(space.spaces, obs, strict=True):
            yield from _values(part, value)
    else:
        yield obs
