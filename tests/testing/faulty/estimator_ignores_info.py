"""The estimator needs a value of the environment's info, and doesn't use it: `info-values`."""

import pgzoo
from pgzoo.ops.returns import reward_to_go


def estimate(*, rewards, terminated, truncated, valid, info, gamma):
    """The discounted rewards minus costs (Williams 1992)."""
    return reward_to_go(rewards=rewards, terminated=terminated, truncated=truncated, valid=valid, gamma=gamma)


estimate.needs = {"info:cost"}


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.estimator("estimator-ignores-info", estimate)
