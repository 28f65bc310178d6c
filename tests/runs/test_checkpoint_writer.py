"""Writing checkpoints: never ahead of the journal, and without failed snapshots of listeners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgzoo.runs.checkpoint_writer import CheckpointWriter
from pgzoo.training import checkpoint
from pgzoo.training.engine import Engine
from pgzoo.training.loop import Progress
from pgzoo.training.plan import Plan


def test_only_the_final_checkpoint_is_written_if_the_journal_is_unwritable(
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
    writer(Progress(state, ("running", "finished"), ("", ""), True), (1,))  # final: no run is resumed from it
    assert checkpoint.paths(written[second])


def test_a_failed_listener_snapshot_is_left_out_of_the_checkpoint(
    plan: Callable[..., Plan], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Listener:
        def __init__(self, snapshot: Callable[[int], Any]) -> None:
            self.snapshot = snapshot

    listeners = {
        "raises": Listener(lambda member: 1 / 0),
        "not-json": Listener(lambda member: np.float32(1.0)),
        "fine": Listener(lambda member: {"member": member}),
    }
    made = plan(seeds=(4, 7))
    engine = Engine(made)
    state = engine.snapshot(environments=False)
    engine.close()
    writer = CheckpointWriter(made, tmp_path, listeners, lambda key: True)
    writer(Progress(state, ("running", "running"), ("", ""), True), (0, 1))
    for member, key in enumerate(made.run_keys):
        about = checkpoint.latest(tmp_path / key / checkpoint.FOLDER_NAME).about
        assert about["listeners"] == {"fine": {"member": member}}
    assert [record.args[0] for record in caplog.records if record.levelname == "WARNING"] == ["raises", "not-json"]
