"""Observations are centered over the rows of the batch: `rows-independent`."""

import torch
from gymnasium.spaces import Box, Discrete

import pgzoo
from pgzoo.errors import UnfitError
from pgzoo.ops.distributions import Categorical


class CenteredBatch:
    """A linear policy for vectors and Discrete actions."""

    noise_size = 1

    def __init__(self, config, spec, needs):
        space, actions = spec.observation_space, spec.action_space
        if (
            not (isinstance(space, Box) and len(space.shape) == 1 and isinstance(actions, Discrete))
            or needs
            or spec.masked
        ):
            raise UnfitError("centered-batch supports vectors and Discrete actions, without masks or a critic")
        self.inputs, self.actions, self.first = space.shape[0], int(actions.n), int(actions.start)
        self.noise = "logistic" if self.actions == 2 else "uniform"  # what Categorical draws with

    def init(self, rng):
        weights = 0.5 * rng.standard_normal((self.inputs, self.actions))
        return {"weights": torch.from_numpy(weights).float()}

    def apply(self, params, inputs):
        centered = inputs.obs - inputs.obs.mean(-2, keepdim=True)
        return pgzoo.Output(Categorical(linear(params["weights"], centered)))

    def to_env(self, actions):
        return actions + self.first


def linear(weights, x):
    """Return x @ weights, row by row: x [S, T, B, I], weights [S, I, K]."""
    return (x.unsqueeze(-1) * weights[:, None, None]).sum(-2)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.policy("centered-batch", CenteredBatch)
