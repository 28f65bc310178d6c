"""Write the checkpoints of a run, and beside each state what is needed to resume it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pgzoo.ops.members import one_member
from pgzoo.runs.provenance import versions
from pgzoo.training import checkpoint
from pgzoo.training.loop import Progress
from pgzoo.training.plan import Plan

__all__ = ["CheckpointWriter"]

_log = logging.getLogger("pgzoo")


@dataclass
class CheckpointWriter:
    """Writes checkpoints of the members of a run below `runs`, the folder of all runs.

    `sync` flushes the records of the run with a given key to disk and returns whether that worked. It is called before
    the checkpoint, because a resumed run continues from its checkpoint and doesn't write earlier records again.
    `warned` is True once the user has been warned that a resumed run won't be exact. `unsaved` are the names of
    listeners whose snapshot failed, of which the user has been warned, too.
    """

    plan: Plan
    runs: Path
    listeners: Mapping[str, Any]
    sync: Callable[[str], bool]
    warned: bool = False
    unsaved: set[str] = field(default_factory=set)
    said: set[str] = field(default_factory=set)

    def __call__(self, progress: Progress, members: tuple[int, ...]) -> None:
        """Write a checkpoint of each of these members. If the disk is full, warn and continue without it."""
        if not (progress.exact or self.warned or "failed" in progress.statuses):
            self._warn_inexact()
        for member in members:
            recent, key = progress.state.recent[member], self.plan.run_keys[member]
            one, about = one_member(progress.state, member), self._about(progress, member)
            score = float(np.nanmean(recent)) if np.isfinite(recent).any() and not np.isinf(recent).any() else None
            if not self.sync(key) and progress.statuses[member] == "running":
                self._warn_once(
                    f"The checkpoint of run {key} isn't written, because its journal can't be written: a run resumed "
                    "from it would lack the records in between. Training continues."
                )
                continue
            try:
                checkpoint.save(self.runs / key / checkpoint.FOLDER_NAME, one, about, score=score)
            except OSError as error:
                self._warn_once(f"The checkpoint of run {key} can't be written: {error.strerror}. Training continues.")

    def _warn_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            _log.warning("%s", text)

    def _about(self, progress: Progress, member: int) -> dict[str, Any]:
        """Return what is stored beside a member's state, as plain data."""
        plan = self.plan
        return {
            "run_key": plan.run_keys[member],
            "group": plan.group,
            "status": progress.statuses[member],
            "reason": progress.reasons[member],
            "resume": "exact" if progress.exact else "episode-boundary",
            "config": {k: v for k, v in plan.members[member].config.nested().items() if k != "tracking_uri"},
            "versions": versions(),
            "listeners": self._snapshots(member),
        }

    def _snapshots(self, member: int) -> dict[str, Any]:
        """Return what listeners keep in the checkpoint of a member. Without one that fails, training continues."""
        found = {}
        for name, listener in self.listeners.items():
            if (snapshot := getattr(listener, "snapshot", None)) is None:
                continue
            try:
                taken = snapshot(member)
                json.dumps(taken)
            except Exception as error:
                if name not in self.unsaved:
                    what = f"{type(error).__name__}: {error}"
                    _log.warning(
                        'The snapshot of listener "%s" isn\'t saved in checkpoints: %s. Training continues.', name, what
                    )
                    _log.debug("Traceback of listener %s", name, exc_info=error)
                    self.unsaved.add(name)
            else:
                found[name] = taken
        return found

    def _warn_inexact(self) -> None:
        self.warned = True
        if not (self.plan.spec.seeded or self.plan.forgets):
            return  # the run has begun with a warning that its numbers can't be reproduced at all
        cause, loss = "does not start identically after each reset with the same seed", ""
        if self.plan.forgets:
            cause = f"can't be saved in the middle of an episode on backend {self.plan.config.backend}"
            loss = " open episodes are restarted, and"
        _log.warning(
            "%s %s. If this run is interrupted and resumed,%s its numbers will differ from those of an uninterrupted "
            "run.",
            *(self.plan.config.env, cause, loss),
        )
