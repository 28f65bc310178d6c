"""Random: a baseline that doesn't learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.config import SearchConfig
from pgzoo.protocols import UpdateContext
from pgzoo.types import Episodes, TrainState, Trajectory


class RandomConfig(SearchConfig):
    """Settings of `random`: none."""


class Random:
    """Act at random and learn nothing: the score that an algorithm must beat.

        π(a|s) = 1 / |A|

    The policy is `uniform` unless another is chosen; that policy then acts with its initial parameters.

    Source: the random baseline (score 0) of normalized scores, e.g. Mnih et al. (2015), Human-level control through
        deep reinforcement learning.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    learns = False
    defaults: ClassVar[Mapping[str, Any]] = {"policy": "uniform", "total_steps": 10_000}

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Return the state unchanged."""
        return state
