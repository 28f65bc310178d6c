"""Checkpoints are never ahead of the records of their run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgzoo.runs.checkpoint_writer import CheckpointWriter
from pgzoo.training import checkpoint
from pgzoo.training.engine import Engine
from pgzoo.training.loop import Progress
from pgzoo.training.plan import Plan


def test_no_checkpoint_is_written_while_the_journal_cannot_be(
    plan: Callable[..., Plan], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = plan(seeds=(4, 7))
    engine = Engine(made)
    state = engine.snapshot(environments=False)
    engine.close()
    written = {key: tmp_path / key / checkpoint.FOLDER_NAME for key in made.run_keys}
    first, second = made.run_keys
    writer = CheckpointWriter(made, tmp_path, {}, lambda key: key == first)
    writer(Progress(state, ("running", "running"), ("", ""), True), (0, 1))
    assert checkpoint.paths(written[first]) and not written[second].exists()
    assert f"The checkpoint of run {second} isn't written, because its journal can't be written" in caplog.text
    writer(Progress(state, ("running", "finished"), ("", ""), True), (1,))  # the last one, which isn't resumed from
    assert checkpoint.paths(written[second])
