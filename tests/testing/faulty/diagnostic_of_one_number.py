"""The diagnostic returns one number for all seeds together: `measures`."""

import pgzoo


class RewardRate:
    """The fraction of steps with a reward other than 0."""

    def measure(self, ctx, state, trajectory):
        paid = (trajectory.rewards != 0) & trajectory.valid
        return paid.sum() / trajectory.valid.sum()


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.diagnostic("reward-rate", RewardRate)
