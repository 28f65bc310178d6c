"""The observation normalizer is updated whenever the policy acts, in evaluations too: `acting-has-no-effect`."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

import pgzoo
from pgzoo.errors import UnfitError
from pgzoo.ops.distributions import Categorical


class NormalizerInEvaluation:
    """A linear policy for vectors and Discrete actions."""

    noise_size = 1

    def __init__(self, config, spec, needs):
        space, actions = spec.observation_space, spec.action_space
        if (
            not (isinstance(space, Box) and len(space.shape) == 1 and isinstance(actions, Discrete))
            or needs
            or spec.masked
        ):
            raise UnfitError(
                "normalizer-in-evaluation supports vectors and Discrete actions, without masks or a critic"
            )
        self.inputs, self.actions, self.first = space.shape[0], int(actions.n), int(actions.start)
        self.noise = "logistic" if self.actions == 2 else "uniform"  # what Categorical draws with

    def init(self, rng):
        weights = 0.5 * rng.standard_normal((self.inputs, self.actions))
        return {"weights": torch.from_numpy(weights).float()}

    def buffers(self):
        return {"mean": torch.zeros(self.inputs)}

    def apply(self, params, inputs):
        return pgzoo.Output(Categorical(linear(params["weights"], inputs.obs - params["mean"][:, None, None])))

    def actor(self, params):
        def act(seen, noise):
            mean = params["mean"].numpy()
            mean += 0.01 * (seen.obs.mean(1) - mean)
            logits = np.einsum("snk,ska->sna", seen.obs - mean[:, None], params["weights"].numpy())
            dist = Categorical(torch.from_numpy(logits))
            return (dist.mode() if noise is None else dist.draw(noise)), None

        return act

    def to_env(self, actions):
        return actions + self.first


def linear(weights, x):
    """Return x @ weights, row by row: x [S, T, B, I], weights [S, I, K]."""
    return (x.unsqueeze(-1) * weights[:, None, None]).sum(-2)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.policy("normalizer-in-evaluation", NormalizerInEvaluation)
