"""The return estimator. Change the function."""

from typing import Annotated

import pgzoo
from pgzoo.ops.returns import reward_to_go
from pydantic import Field
from torch import Tensor


class MyPluginConfig(pgzoo.ComponentConfig):
    """The settings: `limit` becomes the option --estimator.limit, and an argument of the estimator."""

    limit: Annotated[float, Field(gt=0, description="clip rewards to [-limit, limit]")] = 1.0


def my_plugin(
    *, rewards: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, gamma: Tensor, limit: Tensor
) -> Tensor:
    """Sum the clipped rewards, discounted, from each step to the end of its episode.

    All tensors are `[S, T, N]`: seeds, steps, environments. `gamma` and `limit` broadcast.
    The result is the return; a function may also return a pair, (advantages, returns).
    """
    clipped = rewards.clamp(-limit, limit)
    return reward_to_go(rewards=clipped, terminated=terminated, truncated=truncated, valid=valid, gamma=gamma)
