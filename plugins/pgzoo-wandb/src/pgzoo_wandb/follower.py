"""The process that copies journals to Weights & Biases: `python -m pgzoo_wandb.follower MODE JOURNAL...`.

It polls the journals until its standard input is closed, which happens when the trainer ends or is killed. Then it
copies the rest and finishes the runs.

In offline mode the W&B run of a resumed run is written again from the journal, so that it contains each point once. In
online mode it is continued where the last upload ended, which is stored in `wandb.json` next to the journal.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgzoo.tracking import records

__all__ = ["RunCopy", "main", "number", "project_name"]

EVERY = 1.0
"""Polling interval of the journals, in seconds."""
STEP = "env_step"
"""The x-axis of all curves: environment steps of the seed."""
FILES = ("config.yaml", "policy/*")
"""The artifacts that are copied, as patterns."""
QUIET: Mapping[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""Settings with which wandb collects nothing by itself: no machine, git repository, packages, code or console output.

pgzoo stores versions and commit itself, in the tags of a run.
"""


class RunCopy:
    """The W&B run of the seed whose journal is in the folder `journal`."""

    def __init__(self, journal: Path, mode: str) -> None:
        self.journal, self.mode = journal, mode
        self.status = "KILLED"  # unless the journal says how the run ended
        self._run: Any = None
        self._state = journal / "wandb.json"
        self._offset = self._uploaded = self._stored_offset() if mode == "online" else 0

    def follow(self) -> None:
        """Copy new journal records."""
        if self._run is None and not self._open():
            return
        for record, end in records(self.journal, self._offset):
            if record is not None:
                self._write(record)
            self._offset = end
        if self.mode == "online" and self._offset != self._uploaded:
            self._state.write_text(json.dumps({"offset": self._offset}))
            self._uploaded = self._offset

    def finish(self) -> None:
        """Copy the rest, and close the run with its status."""
        self.follow()
        if self._run is None:
            return
        files = Path(self._run.dir)
        source = self.journal / "artifacts"
        for pattern in FILES:
            for path in filter(Path.is_file, sorted(source.glob(pattern))):
                copy = files / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                self._run.save(str(copy), base_path=str(files), policy="end")
        self._run.finish(exit_code=0 if self.status == "FINISHED" else 1)

    def _stored_offset(self) -> int:
        try:
            return int(json.loads(self._state.read_text())["offset"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _open(self) -> bool:
        start = next((record for record, _ in records(self.journal) if record and record["t"] == "start"), None)
        if start is None:
            return False
        import wandb

        folder = Path(os.environ.get("WANDB_DIR") or ".")
        if self.mode == "offline":
            for old in (folder / "wandb").glob(f"offline-run-*-{start['key']}"):  # the journal contains all of it
                shutil.rmtree(old)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or project_name(start["experiment"]),
            group=start["group"],
            id=start["key"],
            name=start["name"],
            notes=start["tags"].get("mlflow.note.content"),
            config={name: number(value) for name, value in start["params"].items()},
            tags=[start["algorithm"], start["env"][:64]],
            dir=str(folder),
            mode=self.mode,
            resume="allow" if self.mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(**QUIET),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        return True

    def _write(self, record: Mapping[str, Any]) -> None:
        match record["t"]:
            case "start":  # also where a run was resumed
                self.status = "KILLED"
            case "update":
                for step in record.get("steps", ()):
                    self._log(record, step, record["m"])
            case "evaluation":
                import wandb

                values: dict[str, Any] = dict(record["m"])
                if returns := [value for value in record["returns"] if value is not None]:
                    name = "eval/returns" if record["mode"] == "sampled" else f"eval/{record['mode']}_returns"
                    values[name] = wandb.Histogram(returns)
                self._log(record, record["step"], values)
            case "end":
                self.status = record["status"]

    def _log(self, record: Mapping[str, Any], step: int, values: Mapping[str, Any]) -> None:
        self._run.log({**values, STEP: step, "_timestamp": record["ts"] / 1000})


def project_name(experiment: str) -> str:
    """Return a valid W&B project name for an experiment: `pgzoo-CartPole-v1` for `pgzoo/CartPole-v1`."""
    return re.sub(r"[/\\#?%:]+", "-", experiment)[:128]


def number(value: str) -> int | float | bool | str:
    """Return a setting as a number or bool if possible, so that W&B can sort and filter by it."""
    if value in ("True", "False"):
        return value == "True"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def main(mode: str, *journals: str) -> None:
    """Copy the journals until the standard input is closed."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports of errors to wandb's authors
    copies = [RunCopy(Path(journal), mode) for journal in journals]
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    while not ended.is_set():
        for copy in copies:
            copy.follow()
        ended.wait(EVERY)
    for copy in copies:
        copy.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
