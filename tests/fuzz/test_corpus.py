"""Inputs for which the fuzzer has found a defect, and the initial inputs from which it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import readers

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", [reader.__name__ for reader in readers.READERS])
def test_a_reader_handles_its_initial_input_and_an_empty_one(name: str, tmp_path: Path) -> None:
    place = [reader.__name__ for reader in readers.READERS].index(name)
    readers.read(bytes([place]) + readers.SEEDS[name])
    readers.read(bytes([place]))


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_each_input_in_the_corpus_is_read_or_refused(file: Path) -> None:
    readers.read(file.read_bytes())
