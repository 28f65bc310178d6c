"""An estimator that returns 0.0 or -0.0 in rows that are not valid, and one that declares an exception."""

import pgzoo
from pgzoo.ops.returns import reward_to_go


def td_error(*, rewards, values, next_values, terminated, valid, gamma):
    """TD errors, and the targets of the critic (Sutton 1988)."""
    target = rewards + gamma * next_values * ~terminated
    return (target - values) * valid, target * valid


def undiscounted(*, rewards, terminated, truncated, valid):
    """The undiscounted sum of rewards, on purpose."""
    return reward_to_go(rewards=rewards, terminated=terminated, truncated=truncated, valid=valid, gamma=1.0)


undiscounted.known_exceptions = {"gamma": "the return is undiscounted on purpose"}


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.estimator("td-error", td_error)
    registry.estimator("undiscounted", undiscounted)
