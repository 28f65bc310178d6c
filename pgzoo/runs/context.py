"""The argument of a listener's factory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgzoo.runs.waiting import ProgressMode
from pgzoo.tracking import Session
from pgzoo.training.activity import Activity
from pgzoo.training.plan import Plan

__all__ = ["RunContext"]


@dataclass(frozen=True)
class RunContext:
    """The argument of a listener's factory, which is called once per run, before training starts.

    The factory returns an object with event hooks, or None if it has nothing to do in this run.

    Attributes:
        plan: the plan of the run; its config, members and run keys, among others.
        session: the tracking session of the run, with a journal for each member.
        command: what the user typed.
        tags: what every run of the command is tagged with: versions, plugins, git commit, the user's own tags.
        progress: how to show progress: "bar" in a terminal, "notebook" in a Jupyter notebook, "plain" for lines of
            text, or "none".
        resumed: empty for a new run. For a resumed one, the `snapshot(member)` of the listener of this name from each
            member's checkpoint, or an empty mapping where it gave none.
        activity: what the run is doing right now, for a display that looks at it from its own thread. It stays empty
            where the seeds are trained in other processes.
        sources: the Python files that the user named, and `./pgzoo_plugin.py`, by file name.
    """

    plan: Plan
    session: Session
    command: str
    tags: Mapping[str, str]
    progress: ProgressMode
    resumed: tuple[Mapping[str, Any], ...] = ()
    activity: Activity = field(default_factory=Activity)
    sources: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def experiment(self) -> str:
        """The name of the MLflow experiment of the run."""
        c = self.plan.config
        return c.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"pgzoo/{c.env}"

    def artifact(self, member: int, path: str, data: bytes | Path) -> None:
        """Store a file with a member's run, to be uploaded. Call it between RunStarted and RunEnded."""
        self.session.journals[self.plan.run_keys[member]].artifact(path, data)
