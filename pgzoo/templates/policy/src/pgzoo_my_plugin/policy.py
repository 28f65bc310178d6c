"""The policy. Change `build`."""

from math import prod

import pgzoo
from torch import nn


def build(inputs: int | tuple[int, ...], outputs: int) -> nn.Module:
    """Two layers with normalized features.

    `inputs` is the size of an observation, or its shape if it has several dimensions. `outputs` is the number of
    parameters of the action distribution. If the algorithm needs a critic, it is built by another call, with 1 output.
    """
    size = inputs if isinstance(inputs, int) else prod(inputs)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(size, 64),
        nn.LayerNorm(64),
        nn.Tanh(),
        nn.Linear(64, 64),
        nn.LayerNorm(64),
        nn.Tanh(),
        nn.Linear(64, outputs),
    )


my_plugin = pgzoo.module_policy(build, name="my-plugin")
