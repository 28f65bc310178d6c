"""Writes the journals of runs, the source of MLflow's data, to TensorBoard event files.

Both show the same metrics at the same steps. When a run is resumed, its event file is rewritten from the journal, so
that no record is lost or duplicated.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo.registry import hookimpl
from pgzoo.tracking import records

if TYPE_CHECKING:
    from pgzoo.runs.context import RunContext
    from pgzoo.training.events import RunEnded

__all__ = ["EventFile", "TensorBoard", "create"]

EVERY = 1.0
"""Polling interval of the journals, in seconds."""
BINS = 50


def create(context: RunContext) -> TensorBoard | None:
    """Return the listener of a run; None unless PGZOO_TENSORBOARD names a folder."""
    folder = os.environ.get("PGZOO_TENSORBOARD", "").strip()
    return TensorBoard(context, Path(folder).expanduser()) if folder else None


class TensorBoard:
    """One event file for each seed, below `folder`: ENVIRONMENT/ALGORITHM/RUN_KEY."""

    def __init__(self, context: RunContext, folder: Path) -> None:
        self._context, self._folder = context, folder
        self._files: list[EventFile] = []
        self._looked = 0.0

    @hookimpl(trylast=True)
    def pgzoo_run_started(self) -> None:
        """Create an event file for each run."""
        config = self._context.plan.config
        place = self._folder / plain(config.env) / plain(config.algorithm)
        for key in self._context.plan.run_keys:
            self._files.append(EventFile(self._context.session.journals[key].path, place / key))

    @hookimpl(trylast=True)
    def pgzoo_update_done(self) -> None:
        """Write new records, at most once per second to keep the overhead small."""
        if time.monotonic() - self._looked >= EVERY:
            self._follow()

    @hookimpl(trylast=True)
    def pgzoo_evaluated(self) -> None:
        """Write new records."""
        self._follow()

    @hookimpl(trylast=True)
    def pgzoo_run_ended(self, event: RunEnded) -> None:
        """Write the rest, with the status of each run and its learning curve."""
        for file, status in zip(self._files, event.statuses, strict=True):
            file.follow()
            file.end(status)

    def _follow(self) -> None:
        for file in self._files:
            file.follow()
        self._looked = time.monotonic()


class EventFile:
    """The event file in `folder` of the run whose journal is in the folder `journal`."""

    def __init__(self, journal: Path, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):  # of the same run; the journal contains all of its records
            old.unlink()
        self._journal, self._offset = journal, 0
        self._start: Mapping[str, Any] = {}
        self._steps: list[int] = []
        self._returns: list[float] = []
        self.writer: Any = SummaryWriter(str(folder))
        self.follow()

    def follow(self) -> None:
        """Write new journal records and flush the file."""
        start = self._offset
        for record, end in records(self._journal, start):
            if record is not None:
                self._write(record)
            self._offset = end
        if self._offset > start:
            self.writer.flush()

    def end(self, status: str) -> None:
        """Write the status and the learning curve, and close the file."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        if self._returns:
            self._draw()
        code = api_pb2.STATUS_FAILURE if status == "failed" else api_pb2.STATUS_SUCCESS
        ended = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=time.time())
        about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=ended))
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
        self.writer.file_writer.add_summary(Summary(value=[value]))
        self.writer.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        at = record["ts"] / 1000
        match record["t"]:
            case "start" if not self._start:
                self._start = record
                self._describe(record)
            case "update":
                for step in record.get("steps", ()):
                    self._scalars(record["m"], step, at)
                steps, returns, _ = record.get("e", ((), (), ()))
                self._steps += steps
                self._returns += returns
            case "evaluation":
                self._scalars(record["m"], record["step"], at)
                if returns := [value for value in record["returns"] if value is not None]:
                    name = "eval/returns" if record["mode"] == "sampled" else f"eval/{record['mode']}_returns"
                    self.writer.add_histogram(name, np.array(returns), record["step"], bins=BINS, walltime=at)

    def _scalars(self, metrics: Mapping[str, float], step: int, at: float) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step, walltime=at)

    def _describe(self, start: Mapping[str, Any]) -> None:
        """Write settings and description of the run. TensorBoard averages over the seeds of one command.

        Settings and metrics aren't declared in advance, because they differ between algorithms.
        """
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        settings = {name: number(value) for name, value in start["params"].items() if name != "seed"}
        started = start["ts"] / 1000
        self.writer.file_writer.add_summary(hparams_pb(settings, trial_id=start["group"], start_time_secs=started))
        self.writer.add_text("description", start["tags"].get("mlflow.note.content", start["name"]), walltime=started)

    def _draw(self) -> None:
        from pgzoo.tracking.plots import learning_curve

        start = self._start
        threshold = start["tags"].get("pgzoo.reward_threshold")
        figure = learning_curve(
            self._steps,
            self._returns,
            title=f"{start['algorithm']} on {start['env']}",
            subtitle=f"seed {start['seed']} · {len(self._returns):,} training episodes",
            threshold=float(threshold) if threshold else None,
        )
        self.writer.add_figure("learning_curve", figure, self._steps[-1], close=False)


def plain(name: str) -> str:
    """Return a name that is valid for a folder: `ALE-Pong-v5` for `ALE/Pong-v5`."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"


def number(value: str) -> float | bool | str:
    """Return a setting as a number or bool if possible, so that TensorBoard can sort and filter by it."""
    if value in ("True", "False"):
        return value == "True"
    try:
        return float(value)
    except ValueError:
        return value
