"""The diagnostic centers the rewards of the trajectory in place: `inputs-unchanged`."""

import pgzoo
from pgzoo.ops.losses import weighted_mean


class RewardSpread:
    """The standard deviation of the rewards."""

    def measure(self, ctx, state, trajectory):
        rewards, weights = trajectory.rewards, trajectory.valid.float()
        rewards -= weighted_mean(rewards, weights)[:, None, None]
        return weighted_mean(rewards.square(), weights).sqrt()


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.diagnostic("reward-spread", RewardSpread)
