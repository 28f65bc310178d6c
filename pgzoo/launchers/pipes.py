"""Writing to an unbuffered pipe."""

from __future__ import annotations

from typing import IO

__all__ = ["write_all"]


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write all of `data` to an unbuffered file: one write ends early if a signal arrives in the middle of it.

    Raises OSError.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]
