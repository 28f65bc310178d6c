"""The diagnostic. Change what it measures."""

import pgzoo
from pgzoo.types import TrainState, Trajectory
from torch import Tensor


class MyPlugin:
    """The fraction of steps with a reward other than 0."""

    def measure(self, ctx: pgzoo.UpdateContext, state: TrainState, trajectory: Trajectory) -> Tensor:
        """Return one number per seed, `[S]`, which becomes a metric with the name of the diagnostic.

        The trajectory is the one that the update was computed from, and the state the one that collected it. Nothing
        here can change the run. `ctx` has methods such as `evaluate_policy`, `estimate`, `batch` and `gradient`.
        """
        paid = ((trajectory.rewards != 0) & trajectory.valid).sum((-2, -1))
        return paid / trajectory.valid.sum((-2, -1)).clamp(min=1)
