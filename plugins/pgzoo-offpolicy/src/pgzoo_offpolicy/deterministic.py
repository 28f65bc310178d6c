"""A policy that computes one action, and explores by adding noise to it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field, PositiveInt
from scipy.special import erf
from torch import Tensor

from pgzoo.config import ComponentConfig
from pgzoo.errors import UnfitError
from pgzoo.ops.distributions import DiagonalGaussian
from pgzoo.ops.families import family_for
from pgzoo.ops.heads import ObsEncoder
from pgzoo.ops.nets import Activation, init_mlp, layers_of, mlp, mlp_numpy, numpy_layers
from pgzoo.types import ActorInputs, Array, Inputs, NoiseKind, Output, Params, Spec

NAME = 'policy "deterministic"'


class DeterministicConfig(ComponentConfig):
    """Settings of the `deterministic` policy."""

    hidden: Annotated[tuple[PositiveInt, ...], Field(description="sizes of the hidden layers; empty: linear")] = (
        64,
        64,
    )
    activation: Annotated[Activation, Field(description="activation function of the hidden layers")] = "relu"


class Deterministic:
    """A multilayer perceptron with outputs a = tanh(...) in [-1, 1], which are mapped linearly onto the Box.

    Greedy actions are a. Sampled actions are a + σ z with z ~ N(0, I), clipped to [-1, 1] for the environment, or
    uniform in [-1, 1] during the warm-up. σ and the warm-up are buffers that the algorithm sets: `policy.noise_std
    [S, 1]` (initially 0.1) and `policy.warm_up [S, 1]` (1: uniform actions; initially 0).

    Raises:
        UnfitError: the actions aren't a bounded Box, the observations are images, or the algorithm needs a critic or
            a distribution of this policy.
    """

    compiles = True
    noise: NoiseKind = "normal"

    def __init__(self, config: DeterministicConfig, spec: Spec, needs: frozenset[str]) -> None:
        space: Any = spec.action_space
        if not isinstance(space, gym.spaces.Box):
            raise UnfitError(f"{NAME} doesn't fit the action space {space}: it supports only Box actions.")
        if needs:
            raise UnfitError(
                f"{NAME} doesn't provide what the algorithm or the estimator needs: {', '.join(sorted(needs))}. "
                "It fits algorithms ddpg and td3; use --policy mlp for others."
            )
        if not space.is_bounded():
            raise UnfitError(
                f"{NAME} maps its actions onto the whole action space, and {space} has no finite bounds. Choose an "
                "algorithm for unbounded actions, such as ppo."
            )
        self.config, self.encoder = config, ObsEncoder(spec.observation_space, NAME)
        self.to_env = family_for(space, NAME, distribution="gaussian", rescale=True).to_env
        self.noise_size = int(np.prod(space.shape))

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's layers; the last has small weights, so that the first actions are near 0."""
        c = self.config
        sizes = (self.encoder.size, *c.hidden, self.noise_size)
        return init_mlp(rng, sizes, activation=c.activation, init="orthogonal", last_gain=0.01)

    def buffers(self) -> Params:
        """Return the standard deviation of the noise, and whether actions are uniform."""
        return {"noise_std": torch.full((1,), 0.1), "warm_up": torch.zeros(1)}

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return a Gaussian with mean a and standard deviation σ, for obs `[S, T, B, *O]`."""
        x = self.encoder.encode(inputs.obs).flatten(1, 2)
        mean = torch.tanh(mlp(layers_of(params), x, self.config.activation)).reshape(*inputs.obs.shape[:3], -1)
        std, warm_up = (params[name][:, None, None] for name in ("noise_std", "warm_up"))
        log_std = std.clamp(min=1e-6).log().expand_as(mean)
        return Output(DiagonalGaussian(mean, log_std, partial(_perturbation, mean, std, warm_up)))

    def actor(self, params: Params) -> DeterministicActor:
        """Return an actor on numpy views that share memory with the parameters."""
        return DeterministicActor(self, params)


class DeterministicActor:
    """The forward pass in numpy, which is faster than torch for small batches."""

    def __init__(self, policy: Deterministic, params: Params) -> None:
        self.policy = policy
        self.layers = numpy_layers({name: value.detach().numpy() for name, value in layers_of(params).items()})
        self.std, self.warm_up = (params[name].numpy()[:, None] for name in ("noise_std", "warm_up"))

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, None]:
        """Return actions `[S, N, A]` for `obs [S, N, *O]` and `noise [S, N, A]` or None."""
        x = self.policy.encoder.encode_numpy(seen.obs)
        mean = np.tanh(mlp_numpy(self.layers, x, self.policy.config.activation))
        return (mean if noise is None else mean + perturbation(mean, self.std, self.warm_up, noise)), None


def perturbation(mean: Array, std: Array, warm_up: Array, noise: Array) -> Array:
    """Return what is added to the mean for standard normal `noise`, so that the action is a + σ z or uniform.

    erf(z / √2) is uniform in [-1, 1] for a standard normal z.
    """
    uniform = erf(noise * np.float32(2**-0.5))
    return np.asarray(np.where(warm_up > 0, uniform - mean, std * noise), np.float32)


def _perturbation(mean: Tensor, std: Tensor, warm_up: Tensor, noise: Array) -> Array:
    first, second, third = (leaf.detach().cpu().numpy() for leaf in (mean, std, warm_up))
    return perturbation(first, second, third, noise)
