"""Random streams identified by seed, name and index. A generator is created where it is used.

`SeedSequence(seed, spawn_key=(stream, *index))` provides a stream per collection for acting and resets, and one per
round for evaluation. So one member's random numbers can't depend on how long another plays, an additional evaluation
changes no random number, and neighboring seeds share none (unlike `seed + i`).

The seed law: the numbers of a member depend only on its own seed and settings. A member gives the same numbers, bit for
bit, alone or among others, in one process or several.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["EVALUATION_ROOT", "generator", "reset_seeds", "sequence"]

EVALUATION_ROOT = 20_151_216
"""Seed of evaluation episodes: episode k starts in the same state for every seed and algorithm."""

NO_WORDS, LARGEST_WORD = (0, 0, 0), 2**32 - 1
"""What numpy appends to a seed of one word of 32 bits before the spawn key; the largest such word."""


def sequence(seed: int, stream: str, *index: int) -> np.random.SeedSequence:
    """Return the seed sequence of a seed, stream and index; streams of different names are independent."""
    words = seed, *NO_WORDS, zlib.crc32(stream.encode()), *index
    if min(words) < 0 or max(words) > LARGEST_WORD:
        return np.random.SeedSequence(seed, spawn_key=words[4:])
    # the same numbers as above, but numpy takes half the time to read them
    return np.random.SeedSequence(np.array(words, np.uint32))


def generator(seed: int, stream: str, *index: int) -> np.random.Generator:
    """Return the generator of a seed, stream and index (takes about 10 microseconds)."""
    return np.random.Generator(np.random.Philox(sequence(seed, stream, *index)))


def reset_seeds(seed: int, stream: str, count: int, *index: int) -> NDArray[np.int64]:
    """Return `count` environment seeds, `[count]`. A larger `count` appends seeds and doesn't change the first ones.

    They have 32 bits, because environments that use numpy's legacy generator accept no more.
    """
    return sequence(seed, stream, *index).generate_state(count, np.uint32).astype(np.int64)
