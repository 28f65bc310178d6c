"""The diagnostic compares each seed with the mean of all seeds: `members`."""

import pgzoo
from pgzoo.ops.losses import weighted_mean


class RewardExcess:
    """The mean reward of a seed, relative to that of all seeds."""

    def measure(self, ctx, state, trajectory):
        mean = weighted_mean(trajectory.rewards, trajectory.valid.float())
        return mean / mean.mean()


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.diagnostic("reward-excess", RewardExcess)
