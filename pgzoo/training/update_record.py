"""Metrics, finished episodes and failures of one update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.ops.members import surely_empty, to_device
from pgzoo.training.failures import FailedStep
from pgzoo.training.metrics import UpdateMetrics
from pgzoo.training.tape import FinishedEpisodes, concatenate_episodes
from pgzoo.types import Batch, Params, PolicyEvaluation, Targets, TrainState, Trajectory

__all__ = ["Estimated", "UpdateRecord"]


class Estimated(NamedTuple):
    """Targets that were computed together with the evaluation of the policy, and for what."""

    evaluated: PolicyEvaluation
    trajectory: Trajectory
    buffers: Params
    targets: Targets

    def fits(self, evaluated: PolicyEvaluation | None, trajectory: Trajectory, buffers: Params) -> bool:
        """Return whether the targets are those of this evaluation."""
        return evaluated is self.evaluated and trajectory is self.trajectory and buffers is self.buffers


class UpdateRecord:
    """Metrics, finished episodes, the last trajectory, and failures of members. The engine creates one per update.

    It doesn't affect computations.
    """

    def __init__(self) -> None:
        self.metrics = UpdateMetrics()
        self.trajectory: Trajectory | None = None
        """The last trajectory, on the device of the state."""
        self.valid: NDArray[np.bool_] | None = None
        """`trajectory.valid` on the CPU."""
        self.collected_by: TrainState | None = None
        """The state with whose parameters the last trajectory was collected."""
        self.estimated: Estimated | None = None
        """The targets that the next `ctx.estimate` returns, if it asks for these."""
        self._collections = 0
        self._finished: list[FinishedEpisodes] = []
        self._failures: dict[int, str] = {}
        self._failed_step: FailedStep | None = None
        self._like: Params = {}

    def next_collection(self) -> int:
        """Return the index of the next collection: 0 for the first one of the update."""
        self._collections += 1
        return self._collections - 1

    def add_collection(self, trajectory: Trajectory, valid: NDArray[np.bool_], finished: FinishedEpisodes) -> None:
        """Keep a trajectory and the episodes that ended in it."""
        self.trajectory, self.valid = trajectory, valid
        self._finished.append(finished)

    def finished(self, members: int) -> FinishedEpisodes:
        """Return all episodes that ended in the update."""
        return concatenate_episodes(self._finished, members)

    def add_failure(self, member: int, reason: str) -> None:
        """Record that a member has failed; only its first reason is kept."""
        self._failures.setdefault(member, reason)

    def add_failed_step(self, bad: Tensor, batch: Callable[[], Batch], params: Params, *tensors: Tensor) -> None:
        """Keep the tensors of a step that left the members in `bad [S]` non-finite; see `FailedStep.of` for the rest.

        The non-finite tensor is determined later, in `failures`, because reading it may wait for the device.
        """
        if not surely_empty(bad):
            fresh = FailedStep.of(bad, batch(), params, *tensors)
            self._failed_step = fresh if self._failed_step is None else fresh.merged_with(self._failed_step)
            self._like = params

    def failures(self) -> Mapping[int, str]:
        """Return the members that failed, each with the first tensor that is not finite. Waits for the device."""
        failed_step, self._failed_step = self._failed_step, None
        if failed_step is not None and failed_step.bad.any():
            failed_step = to_device(failed_step, torch.device("cpu"))
            rewards = None if self.trajectory is None else self.trajectory.rewards
            for row in np.flatnonzero(failed_step.bad.numpy()):
                self.add_failure(int(row), failed_step.first_non_finite(int(row), rewards, self._like))
        return self._failures
