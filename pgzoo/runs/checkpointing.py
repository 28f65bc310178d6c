"""Keeping a run: its checkpoints, and beside each state what it takes to go on from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgzoo.ops.members import select
from pgzoo.runs.provenance import versions
from pgzoo.training import checkpoint
from pgzoo.training.loop import Progress
from pgzoo.training.plan import Plan

__all__ = ["CheckpointWriter"]

_log = logging.getLogger("pgzoo")


@dataclass
class CheckpointWriter:
    """Writes the checkpoints of a run, under its folder among the `runs`; says once if they won't resume exactly."""

    plan: Plan
    runs: Path
    listeners: Mapping[str, Any]
    told: bool = False

    def __call__(self, standing: Progress, members: tuple[int, ...]) -> None:
        """Write a checkpoint for each of these members. A full disk costs the checkpoint, not the run."""
        if not (standing.exact or self.told or "failed" in standing.statuses):
            self._tell()
        for member in members:
            recent, key = standing.state.recent[member], self.plan.run_keys[member]
            one, about = select(standing.state, [member]), self._about(standing, member)
            score = float(np.nanmean(recent)) if np.isfinite(recent).any() and not np.isinf(recent).any() else None
            try:
                checkpoint.save(self.runs / key / checkpoint.FOLDER_NAME, one, about, score=score)
            except OSError as error:
                _log.warning("The checkpoint of run %s can't be kept: %s. Training goes on.", key, error.strerror)

    def _about(self, standing: Progress, member: int) -> dict[str, Any]:
        """What is told beside a member's state."""
        plan = self.plan
        snapshots = {name: getattr(of, "snapshot", None) for name, of in self.listeners.items()}
        return {
            "run_key": plan.run_keys[member],
            "group": plan.group,
            "status": standing.statuses[member],
            "reason": standing.reasons[member],
            "resume": "exact" if standing.exact else "episode-boundary",
            "config": plan.members[member].config.nested(),
            "versions": versions(),
            "listeners": {name: snapshot(member) for name, snapshot in snapshots.items() if snapshot},
        }

    def _tell(self) -> None:
        """Say what is lost when the run is cut off, and why."""
        self.told = True
        what, then = "doesn't show the same after each reset by one seed", ""
        if self.plan.forgets:
            what = f"can't be saved in the middle of an episode on backend {self.plan.config.backend}"
            then = " open episodes begin anew, and"
        _log.warning(
            "%s %s: if this run is cut off and resumed,%s its numbers are no longer those of a run that was never "
            "left.",
            *(self.plan.config.env, what, then),
        )
