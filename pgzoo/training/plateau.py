"""What `stop_on_plateau` needs: the best mean return of 100 episodes so far, and the steps since. The loop decides."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pgzoo.ops.members import to_device
from pgzoo.types import Params, TrainState

__all__ = ["initial_buffers", "steps_since_best", "update_best"]

BEST = ("stop.best", "stop.best_at")
"""Buffers of the stop rule: the best mean return of 100 episodes, and the step at which it was reached."""


def initial_buffers() -> Params:
    """Return one member's initial buffers."""
    return dict(
        zip(BEST, (torch.full((), -torch.inf, dtype=torch.float64), torch.zeros((), dtype=torch.int64)), strict=True)
    )


def update_best(state: TrainState) -> Params:
    """Return the buffers after an update."""
    best, at = (state.buffers[name] for name in BEST)
    means = torch.tensor([float(recent.mean()) for recent in state.recent], dtype=torch.float64)
    means, steps = to_device(means, best.device), to_device(torch.from_numpy(state.env_steps), at.device)
    better = means > best  # False for NaN, before 100 episodes
    return {
        BEST[0]: torch.where(better, means, best),
        BEST[1]: torch.where(better, steps, at),
    }


def steps_since_best(state: TrainState) -> NDArray[np.int64]:
    """Return the steps `[S]` since the mean return of 100 episodes was at its best; 0 before 100 episodes."""
    best, at = (state.buffers[name].cpu().numpy() for name in BEST)
    return np.where(best > -np.inf, state.env_steps - at, 0)
