"""The argument of a listener's factory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.tracking import Session
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
        tags: tags of every run of the command: versions, plugins, git commit, the user's own tags.
        progress: how to show progress: "bar", "plain" or "none".
        resumed: empty for a new run. For a resumed one, the `snapshot(member)` of the listener of this name from each
            member's checkpoint, or an empty mapping if it returned none.
    """

    plan: Plan
    session: Session
    command: str
    tags: Mapping[str, str]
    progress: str
    resumed: tuple[Mapping[str, Any], ...] = ()

    @property
    def experiment(self) -> str:
        """The name of the MLflow experiment of the run."""
        c = self.plan.config
        return c.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"pgzoo/{c.env}"

    def artifact(self, member: int, path: str, data: bytes | Path) -> None:
        """Store a file with a member's run, to be uploaded. Call it between RunStarted and RunEnded."""
        self.session.journals[self.plan.run_keys[member]].artifact(path, data)
