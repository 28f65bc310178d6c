"""What the factory of a listener is given."""

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
    """What the factory of a listener is given, once per run, before it starts.

    The factory returns an object with event hooks, or None if it has nothing to do in this run. `progress` is how to
    show it: "bar", "plain" or "none". `resumed` is empty for a fresh run; else it has what the listener of this name
    gave as `snapshot(member)` for each member's checkpoint, empty where it gave nothing.
    """

    plan: Plan
    session: Session
    command: str
    tags: Mapping[str, str]
    progress: str
    resumed: tuple[Mapping[str, Any], ...] = ()

    @property
    def experiment(self) -> str:
        """The MLflow experiment of the run."""
        c = self.plan.config
        return c.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"pgzoo/{c.env}"

    def artifact(self, member: int, path: str, data: bytes | Path) -> None:
        """Keep a file with a member's run, between RunStarted and RunEnded; it is shipped to MLflow."""
        self.session.journals[self.plan.run_keys[member]].artifact(path, data)
