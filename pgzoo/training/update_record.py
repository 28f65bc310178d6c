"""Metrics, finished episodes and failures of one update."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.ops.members import moved, none_marked
from pgzoo.training.failures import Evidence
from pgzoo.training.metrics import Report
from pgzoo.training.rollout import Finished, joined
from pgzoo.types import Batch, Params, Trajectory

__all__ = ["UpdateRecord"]


class UpdateRecord:
    """Metrics, finished episodes, the last trajectory, and failures of members. The engine creates one per update.

    It doesn't affect computations.
    """

    def __init__(self) -> None:
        self.metrics = Report()
        self.trajectory: Trajectory | None = None
        """The last trajectory, on the device of the state."""
        self.valid: NDArray[np.bool_] | None = None
        """`trajectory.valid` on the CPU."""
        self._finished: list[Finished] = []
        self._failures: dict[int, str] = {}
        self._evidence: Evidence | None = None
        self._like: Params = {}

    def add_collection(self, trajectory: Trajectory, valid: NDArray[np.bool_], finished: Finished) -> None:
        """Keep a trajectory and the episodes that ended in it."""
        self.trajectory, self.valid = trajectory, valid
        self._finished.append(finished)

    def finished(self, members: int) -> Finished:
        """Return all episodes that ended in the update."""
        return joined(self._finished, members)

    def add_failure(self, member: int, reason: str) -> None:
        """Record that a member has failed; only its first reason is kept."""
        self._failures.setdefault(member, reason)

    def add_evidence(self, bad: Tensor, batch: Callable[[], Batch], params: Params, *tensors: Tensor) -> None:
        """Keep the tensors of a step that left the members in `bad [S]` non-finite; see `Evidence.of` for the rest.

        The non-finite tensor is determined later, in `failures`, because reading it may wait for the device.
        """
        if not none_marked(bad):
            fresh = Evidence.of(bad, batch(), params, *tensors)
            self._evidence = fresh if self._evidence is None else fresh.over(self._evidence)
            self._like = params

    def failures(self) -> Mapping[int, str]:
        """Return the members that failed, each with the first tensor that is not finite. Waits for the device."""
        evidence, self._evidence = self._evidence, None
        if evidence is not None and evidence.bad.any():
            evidence = moved(evidence, torch.device("cpu"))
            rewards = None if self.trajectory is None else self.trajectory.rewards
            for row in np.flatnonzero(evidence.bad.numpy()):
                self._failures[int(row)] = evidence.first(int(row), rewards, self._like)
        return self._failures
