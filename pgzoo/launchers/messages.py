"""Messages between a run and its rollout workers: JSON, followed by the numbers of its arrays.

Reading a message executes nothing that it contains.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pgzoo import errors
from pgzoo.export import spaces
from pgzoo.launchers.pipes import write_all
from pgzoo.training.rollout_parts import Part
from pgzoo.types import EnvRequest, StepResult

__all__ = ["read_message", "write_message"]

LENGTH = struct.Struct("<Q")
RECORDS: dict[str, Any] = {record.__name__: record for record in (EnvRequest, Part, StepResult)}
BIT_GENERATORS: dict[str, Any] = {
    bits.__name__: bits
    for bits in (np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64)
}


def write_message(file: IO[bytes], value: object) -> None:
    """Write a value.

    Raises:
        TypeError, ConfigError: it contains something that can't be sent.
        OSError: the reader has ended.
    """
    arrays: list[NDArray[Any]] = []
    content = _encode(value, arrays)
    header = [[array.dtype.str, array.shape] for array in arrays]
    text = json.dumps([content, header]).encode()
    parts: list[bytes | memoryview] = [LENGTH.pack(len(text)), text]
    parts += [_bytes(np.ascontiguousarray(array)) for array in arrays]
    for part in parts:
        write_all(file, part)


def read_message(file: IO[bytes]) -> Any:
    """Return a value that `write_message` wrote. Raises EOFError if the writer has ended."""
    (size,) = LENGTH.unpack(_read(file, LENGTH.size))
    content, header = json.loads(_read(file, size))
    arrays = []
    for name, shape in header:
        array = np.empty(shape, np.dtype(name))
        _fill(file, _bytes(array))
        arrays.append(array)
    return _decode(content, arrays)


def _bytes(array: NDArray[Any]) -> memoryview:
    """Return the memory of a contiguous array."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def _encode(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """Return `value` as JSON; arrays are appended to `arrays`, and their positions take their places."""

    def each(values: Any) -> list[Any]:
        return [_encode(one, arrays) for one in values]

    match value:
        case np.ndarray() | np.generic():
            array = np.asarray(value)
            if array.dtype.kind not in "biufc":
                raise TypeError(f"an array of {array.dtype}")
            arrays.append(array)
            return {"array" if isinstance(value, np.ndarray) else "number": len(arrays) - 1}
        case None | bool() | int() | float() | str():
            return value
        case tuple() if RECORDS.get(type(value).__name__) is type(value):
            return {"record": [type(value).__name__, each(value)]}
        case tuple():
            return {"tuple": each(value)}
        case list():
            return each(value)
        case Mapping() if all(isinstance(key, str) for key in value):
            return {"mapping": {key: _encode(one, arrays) for key, one in value.items()}}
        case np.random.Generator():
            bits = value.bit_generator
            return {"generator": [type(bits).__name__, _encode(bits.state, arrays)]}
        case gym.Space():
            return {"space": spaces.to_json(value)}
        case Exception():
            return {"error": [type(value).__name__, str(value)]}
    raise TypeError(f"an object of {type(value).__module__}.{type(value).__qualname__}")


def _decode(content: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(content, list):
        return [_decode(one, arrays) for one in content]
    if not isinstance(content, dict):
        return content
    ((kind, of),) = content.items()
    match kind:
        case "array":
            return arrays[of]
        case "number":
            return arrays[of][()]
        case "record":
            return RECORDS[of[0]](*_decode(of[1], arrays))
        case "tuple":
            return tuple(_decode(of, arrays))
        case "mapping":
            return {key: _decode(one, arrays) for key, one in of.items()}
        case "generator":
            bits = BIT_GENERATORS[of[0]]()
            bits.state = _decode(of[1], arrays)
            return np.random.Generator(bits)
        case "space":
            return spaces.from_json(of)
        case "error":
            kind_of_error = getattr(errors, of[0], None) if of[0] in errors.__all__ else None
            return RuntimeError(of[1]) if kind_of_error is None else kind_of_error(of[1])
    raise ValueError(f"unknown content {kind!r:.40}")


def _read(file: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    _fill(file, memoryview(data))
    return data


def _fill(file: IO[bytes], rest: memoryview) -> None:
    while rest:
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        rest = rest[count:]
