"""The uniform random policy, which has nothing to learn."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch

from pgzoo.config import ActionConfig, ComponentConfig
from pgzoo.errors import UnfitError
from pgzoo.ops.heads import ActionHead
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, Spec

BETA_ONE = -1e4
"""With both outputs at this value, the distribution is Beta(1, 1), which is uniform."""


class Uniform:
    """Uniform over the allowed actions, or over a bounded Box. It ignores observations and has no parameters.

    A Box without bounds has no uniform distribution: each dimension gets a standard normal, clipped to the bounds that
    exist. The mode of a uniform distribution means little (the first allowed action, all bits 0, the middle of a Box),
    so as a baseline use the sampled evaluation.
    """

    def __init__(self, config: ComponentConfig, spec: Spec, needs: frozenset[str]) -> None:
        who, space = 'policy "uniform"', spec.action_space
        if needs:
            raise UnfitError(
                f"{who} has no parameters, but the algorithm has to train some ({', '.join(sorted(needs))}). "
                "Choose another policy (pgzoo policies) or algorithm."
            )
        bounded = isinstance(space, gym.spaces.Box) and space.is_bounded() and np.issubdtype(space.dtype, np.floating)
        self.head = ActionHead(spec, ActionConfig(distribution="beta" if bounded else "auto"), needs, who)
        self.noise, self.noise_size, self.to_env = self.head.noise, self.head.noise_size, self.head.to_env
        self.output = BETA_ONE if bounded else 0.0
        self.log_std = torch.zeros(1, self.head.family.scale_size)

    def init(self, rng: np.random.Generator) -> Params:
        """Return no parameters."""
        return {}

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return the same distribution for all observations: obs `[S, T, B, *O]`."""
        outputs = torch.full((*inputs.obs.shape[:3], self.head.outputs), self.output, device=inputs.obs.device)
        return Output(self.head.distribution(outputs, {"log_std": self.log_std.to(outputs.device)}, inputs.action_mask))

    def actor(self, params: Params) -> UniformActor:
        """Return an actor that samples from the same distribution at every step."""
        return UniformActor(self)


class UniformActor:
    """Samples from the same distribution at every step."""

    def __init__(self, policy: Uniform) -> None:
        self.policy = policy

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, None]:
        """Return actions `[S, N, *A]` for `obs [S, N, *O]` and `noise [S, N, K]` or None."""
        policy = self.policy
        outputs = np.full((*seen.obs.shape[:2], policy.head.outputs), policy.output, np.float32)
        return policy.head.choose(outputs, policy.log_std.numpy(), seen.action_mask, noise), None
