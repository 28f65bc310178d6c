"""An estimator that needs a value of the environment's info."""

import pgzoo
from pgzoo.ops.returns import reward_to_go


def estimate(*, rewards, terminated, truncated, valid, info, gamma):
    """The discounted rewards minus costs (Williams 1992)."""
    net = rewards - 0.1 * info["cost"] * valid
    return reward_to_go(rewards=net, terminated=terminated, truncated=truncated, valid=valid, gamma=gamma)


estimate.needs = {"info:cost"}


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.estimator("net-of-costs", estimate)
