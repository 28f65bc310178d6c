"""Inputs with which the fuzzer has found something, and those from which it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import readers

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", [reader.__name__ for reader in readers.READERS])
def test_a_reader_takes_the_input_from_which_the_fuzzer_begins(name: str, tmp_path: Path) -> None:
    place = [reader.__name__ for reader in readers.READERS].index(name)
    readers.read(bytes([place]) + readers.SEEDS[name])
    readers.read(bytes([place]))


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_an_input_of_the_corpus_is_read_or_refused(file: Path) -> None:
    readers.read(file.read_bytes())
