"""Worker processes of a search."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from pgzoo.search.jobs import Workers


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (40, "signal 40")])  # signal 40 has no name
def test_the_signal_that_killed_a_worker_is_reported(
    number: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nread spec\nkill -{number} $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with Workers() as workers:
        workers.start({})
        told: list[str] = []
        deadline = time.monotonic() + 30
        while not told and time.monotonic() < deadline:
            told = workers.poll()
            time.sleep(0.01)
    assert [text.partition(" was killed by ")[2] for text in told] == [name]
