"""The stop rule for who learns nothing more: how long ago the mean return of 100 episodes was better than ever."""

from __future__ import annotations

import torch

from pgzoo.types import Params, TrainState

__all__ = ["begin", "stagnant", "with_best"]

BEST = ("stop.best", "stop.best_at")
"""What it remembers of a member: the best mean return of 100 episodes, and the step that gave it."""


def begin() -> Params:
    """What it remembers at first, of one member."""
    return dict(
        zip(BEST, (torch.full((), -torch.inf, dtype=torch.float64), torch.zeros((), dtype=torch.int64)), strict=True)
    )


def with_best(state: TrainState) -> Params:
    """What it remembers after an update."""
    means = torch.tensor([float(recent.mean()) for recent in state.recent], dtype=torch.float64)
    best, at = (state.buffers[name] for name in BEST)
    better = means > best  # never where it is NaN: there were fewer episodes
    return {
        BEST[0]: torch.where(better, means, best),
        BEST[1]: torch.where(better, torch.from_numpy(state.env_steps), at),
    }


def stagnant(state: TrainState, row: int) -> int:
    """Steps since the mean return of a member's last 100 training episodes was better than ever; 0 before any."""
    best, at = (state.buffers[name][row] for name in BEST)
    return int(state.env_steps[row] - int(at)) if best > -torch.inf else 0
