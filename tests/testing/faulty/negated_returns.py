"""The estimator returns costs, so that good actions become rarer: `rewards`."""

import pgzoo
from pgzoo.ops.returns import reward_to_go


def estimate(*, rewards, terminated, truncated, valid, gamma):
    """Reward-to-go (Williams 1992)."""
    return -reward_to_go(rewards=rewards, terminated=terminated, truncated=truncated, valid=valid, gamma=gamma)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.estimator("negated-returns", estimate)
