"""Linear policies, one with memory and one with a normalizer, without a critic or masks."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

import pgzoo
from pgzoo.errors import UnfitError
from pgzoo.ops.distributions import Categorical


class Normalizing:
    """A linear policy that subtracts the running mean of its observations."""

    noise_size = 1

    def __init__(self, config, spec, needs):
        space, actions = spec.observation_space, spec.action_space
        if not (isinstance(space, Box) and len(space.shape) == 1 and isinstance(actions, Discrete)):
            raise UnfitError("normalizing and remembering support vectors and Discrete actions")
        if needs or spec.masked:
            raise UnfitError("normalizing and remembering have no critic and no masks")
        self.inputs, self.actions, self.first = space.shape[0], int(actions.n), int(actions.start)
        self.noise = "logistic" if self.actions == 2 else "uniform"  # what Categorical draws with

    def init(self, rng):
        return {"weights": torch.from_numpy(0.5 * rng.standard_normal((self.inputs, self.actions))).float()}

    def buffers(self):
        return {"mean": torch.zeros(self.inputs), "count": torch.ones(())}

    def absorb(self, buffers, obs, valid):
        rows = torch.where(valid[..., None], obs - buffers["mean"][:, None, None], 0.0).flatten(1, 2)
        count = buffers["count"] + valid.sum((-2, -1))
        return {"mean": buffers["mean"] + rows.cumsum(1)[:, -1] / count[:, None], "count": count}

    def apply(self, params, inputs):
        return pgzoo.Output(Categorical(linear(params["weights"], inputs.obs - params["mean"][:, None, None])))

    def actor(self, params):
        def act(seen, noise):
            logits = np.einsum("snk,ska->sna", seen.obs - params["mean"].numpy()[:, None], params["weights"].numpy())
            dist = Categorical(torch.from_numpy(logits))
            return (dist.mode() if noise is None else dist.draw(noise)), None

        return act

    def to_env(self, actions):
        return actions + self.first


class Remembering(Normalizing):
    """A linear policy whose logits depend on a running mean of the episode so far."""

    memory_size = 1
    actor = absorb = property()  # it has no actor and no absorb

    def buffers(self):
        return {}

    def apply(self, params, inputs):
        memory, logits = inputs.memory, []
        for t in range(inputs.obs.shape[1]):
            memory = torch.where(inputs.starts[:, t, :, None], 0.0, memory)
            logits.append(linear(params["weights"], inputs.obs[:, t : t + 1]) * (1 + memory[:, None]))
            memory = 0.5 * memory + inputs.obs[:, t].mean(-1, keepdim=True)
        return pgzoo.Output(Categorical(torch.cat(logits, 1)), memory=memory)


def linear(weights, x):
    """Return x @ weights, row by row: x [S, T, B, I], weights [S, I, K]."""
    return (x.unsqueeze(-1) * weights[:, None, None]).sum(-2)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.policy("normalizing", Normalizing)
    registry.policy("remembering", Remembering)
