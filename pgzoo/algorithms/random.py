"""Random: what is to be had without learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.types import Episodes, TrainState, Trajectory


class Random:
    """Act at random and learn nothing: the score that an algorithm must beat.

        π(a|s) = 1 / |A|

    Only as good as its policy, which is `uniform` unless another is asked for.

    Source: every table of normalized scores has this as its zero, e.g. Mnih et al. (2015), Human-level control through
        deep reinforcement learning.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    learns = False
    defaults: ClassVar[Mapping[str, Any]] = {"policy": "uniform", "total_steps": 10_000}

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Nothing."""
        return state
