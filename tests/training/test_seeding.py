"""Random numbers depend on seed, stream and index: streams are disjoint, and neighboring seeds share nothing."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgzoo.training.seeding import EVALUATION_ROOT, generator, reset_seeds, sequence

STREAMS = ("init", "act", "reset", "evaluate", "shuffle")


def test_different_seeds_streams_and_indices_give_different_random_numbers() -> None:
    addresses = list(
        itertools.product((*range(60), 2**31, 2**40, EVALUATION_ROOT), STREAMS, ((), (0,), (1,), (2,), (0, 0)))
    )
    words = np.concatenate([sequence(s, name, *index).generate_state(4, np.uint64) for s, name, index in addresses])
    assert len(np.unique(words)) == 4 * len(addresses)


@given(st.integers(0, 2**70), st.lists(st.integers(0, 2**40), max_size=3))
def test_a_sequence_equals_numpys_with_the_stream_and_index_as_spawn_key(seed: int, index: list[int]) -> None:
    expected = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(b"act"), *index))
    assert np.array_equal(sequence(seed, "act", *index).generate_state(8), expected.generate_state(8))


def test_negative_seeds_and_indices_are_refused() -> None:
    for address in ((-1, "act"), (0, "act", -1)):
        with pytest.raises(ValueError, match="non-negative"):
            sequence(*address)


def test_neighboring_seeds_share_no_environment_seed() -> None:
    drawn = np.concatenate([reset_seeds(seed, "reset", 16, update) for seed in range(50) for update in range(20)])
    assert len(np.unique(drawn)) == drawn.size


def test_environment_seeds_of_evaluation_and_training_are_disjoint() -> None:
    training = [reset_seeds(seed, "reset", 64, 0) for seed in (*range(20), EVALUATION_ROOT)]
    assert not np.isin(reset_seeds(EVALUATION_ROOT, "evaluate", 1000), training).any()


@given(st.integers(0, 2**62), st.integers(1, 50), st.integers(0, 50))
def test_adding_environments_keeps_the_seeds_of_the_first_ones(seed: int, count: int, more: int) -> None:
    assert np.array_equal(reset_seeds(seed, "reset", count, 3), reset_seeds(seed, "reset", count + more, 3)[:count])


def test_environment_seeds_are_non_negative_int64() -> None:
    seeds = reset_seeds(0, "reset", 10_000)
    assert seeds.dtype == np.int64 and seeds.min() >= 0


def test_the_same_seed_stream_and_index_always_give_the_same_generator() -> None:
    first, again = generator(3, "act", 5), generator(3, "act", 5)
    assert np.array_equal(first.random(10), again.random(10))
    assert not np.array_equal(generator(3, "act", 5).random(10), generator(3, "act", 6).random(10))
