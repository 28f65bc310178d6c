"""Fuzzes the readers of pgzoo with Atheris: `make fuzz MINUTES=10`.

An input for which a reader raises anything but an error of pgzoo, or takes 30 s or 2 GiB, is written to
tests/fuzz/corpus.
Commit it: tests/fuzz/test_corpus.py reads it from then on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).parent.parent))

with atheris.instrument_imports(
    include=["pgzoo.config", "pgzoo.tracking", "pgzoo.search", "pgzoo.export", "pgzoo.training.checkpoint"]
):
    from fuzz import readers

CORPUS = Path(__file__).parent / "corpus"
FLAGS = ["-timeout=30", "-rss_limit_mb=2048", f"-artifact_prefix={CORPUS}/", "-max_len=4096"]


def main() -> None:
    with tempfile.TemporaryDirectory() as grown:
        for place, reader in enumerate(readers.READERS):
            Path(grown, reader.__name__).write_bytes(bytes([place]) + readers.SEEDS[reader.__name__])
        atheris.Setup([sys.argv[0], *FLAGS, *sys.argv[1:], grown, str(CORPUS)], readers.read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
