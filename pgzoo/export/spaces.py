"""Spaces as JSON. Sizes from a file are checked before memory is allocated. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from pgzoo.errors import ConfigError

if TYPE_CHECKING:
    from pgzoo.types import Array

__all__ = ["LARGEST", "from_json", "to_json"]

LARGEST = 2**24
"""Largest number of values in an observation or action, with categories one-hot."""

DTYPES = {"bool", "float16", "float32", "float64"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


def to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Return what `from_json` reads. Raises ConfigError for a space that can't be written."""
    match space:
        case gym.spaces.Box():
            low, high = _bounds(space.low), _bounds(space.high)
            return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), "low": low, "high": high}
        case gym.spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), **_integer(space)}
        case gym.spaces.MultiDiscrete():
            nvec, start = space.nvec.tolist(), space.start.tolist()
            return {"type": "MultiDiscrete", "nvec": nvec, "start": start, **_integer(space)}
        case gym.spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case gym.spaces.Tuple():
            return {"type": "Tuple", "spaces": [to_json(part) for part in space.spaces]}
        case gym.spaces.Dict():
            return {"type": "Dict", "spaces": {key: to_json(part) for key, part in space.spaces.items()}}
    raise ConfigError(f"A policy can't be saved for the space {space}.")


def from_json(data: Mapping[str, Any]) -> gym.Space[Any]:
    """Return the space. Raises ValueError, KeyError, TypeError or ArithmeticError for data that don't describe one."""
    match data["type"]:
        case "Box":
            shape, of = _shape(data["shape"]), _dtype(data["dtype"])
            with np.errstate(over="raise"):
                low, high = (np.array([*map(of.type, data[key])], of).reshape(shape) for key in ("low", "high"))
            return gym.spaces.Box(low, high, shape, of.type)
        case "Discrete":
            return gym.spaces.Discrete(_count(data["n"]), start=data["start"], **_given_dtype(data))
        case "MultiDiscrete":
            _check_size(_leaves(data["nvec"]))
            nvec, start = np.asarray(data["nvec"]), np.asarray(data["start"])
            return gym.spaces.MultiDiscrete(nvec, start=start, **_given_dtype(data))
        case "MultiBinary":
            shape = _shape(data["shape"])
            return gym.spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        case "Tuple":
            return gym.spaces.Tuple([from_json(part) for part in data["spaces"]])
        case "Dict":
            # as pairs, because gymnasium sorts a mapping and flattening depends on the order
            return gym.spaces.Dict([(key, from_json(part)) for key, part in data["spaces"].items()])
    raise ValueError(f"unknown space {data['type']!r:.40}")


def _bounds(values: Array) -> list[float | str]:
    """Return bounds as JSON, which has no infinity: that becomes a string, which numpy can read."""
    return [v if np.isfinite(v) else str(v) for v in values.ravel().tolist()]


def _integer(space: gym.Space[Any]) -> dict[str, str]:
    """Return the dtype of a space of categories as an item of its JSON data; nothing for int64, gymnasium's default."""
    return {} if space.dtype == np.int64 else {"dtype": str(space.dtype)}


def _given_dtype(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument `dtype` of a space of categories, if its JSON data has one."""
    return {"dtype": _dtype(data["dtype"]).type} if "dtype" in data else {}


def _dtype(name: Any) -> np.dtype[Any]:
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r:.40}")
    found: np.dtype[Any] = np.dtype(name)
    return found


def _shape(sizes: Any) -> tuple[int, ...]:
    shape = tuple(_count(size) for size in sizes)
    if prod(shape) > LARGEST:
        raise ValueError(f"a shape of {shape!s:.40}; at most {LARGEST:,} numbers are accepted")
    return shape


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise ValueError(f"a size of {value!r:.40}; sizes are whole numbers up to {LARGEST:,}")
    return value


def _leaves(nested: Any) -> Iterator[int]:
    if isinstance(nested, list):
        for part in nested:
            yield from _leaves(part)
    else:
        yield _count(nested)


def _check_size(counts: Iterator[int]) -> None:
    if sum(counts) > LARGEST:
        raise ValueError(f"more than {LARGEST:,} choices")
