"""Residual blocks with layer normalization, over flat observations."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from pgzoo.ops.heads import ActionHead, ObsEncoder, unused_critic
from pgzoo.ops.nets import (
    MAX_LAYERS,
    init_mlp,
    last_layer,
    layer_norm,
    layer_norm_numpy,
    layers_of,
    linear,
    numpy_layers,
)
from pgzoo.policies.mlp import LinearConfig
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, Spec

EXPANSION = 4
"""Size of the hidden layer of a block, as a multiple of the block's width."""


class SimbaConfig(LinearConfig):
    """Settings of the `simba` policy."""

    width: Annotated[PositiveInt, Field(description="number of features that each residual block adds to")] = 64
    blocks: Annotated[NonNegativeInt, Field(le=MAX_LAYERS, description="number of residual blocks of the policy")] = 1
    critic_width: Annotated[
        PositiveInt | None, Field(description="number of features of the critic; default: width")
    ] = None
    critic_blocks: Annotated[
        NonNegativeInt, Field(le=MAX_LAYERS, description="number of residual blocks of the critic")
    ] = 2


class Simba:
    """A linear layer, residual blocks, layer normalization, and a linear output layer.

    A block adds W₂ relu(W₁ norm(x)) to its input x; its hidden layer is four times as wide. The normalization has no
    scale and shift of its own, because the linear layer after it can represent both. The critic is a separate network
    of the same kind. The paper also normalizes observations: add `--normalize-obs`.

    Source: Lee et al. (2024), SimBa: Simplicity bias for scaling up parameters in deep reinforcement learning, fig. 3.
    """

    compiles = True

    def __init__(self, config: SimbaConfig, spec: Spec, needs: frozenset[str]) -> None:
        who = 'policy "simba"'
        self.config, self.needs = config, needs
        self.head = ActionHead(spec, config, needs, who, config.width)
        self.encoder = ObsEncoder(spec.observation_space, who)
        self.noise, self.noise_size, self.noise_steps = self.head.noise, self.head.noise_size, self.head.noise_steps
        self.to_env = self.head.to_env
        self.without_effect = self.head.without_effect | unused_critic(needs, "critic_width", "critic_blocks")

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's layers; the last has small weights (gain 0.01), for nearly uniform first actions."""
        c = self.config

        def layers(prefix: str, sizes: tuple[int, ...], last_gain: float) -> Params:
            new = init_mlp(rng, sizes, activation="relu", init=c.init, last_gain=last_gain)
            return {prefix + name: value for name, value in new.items()}

        def network(prefix: str, width: int, blocks: int, outputs: int, last_gain: float) -> Params:
            inside = (EXPANSION * width, width) * blocks
            return layers(prefix, (self.encoder.size, width, *inside, outputs), last_gain)

        params = network("", c.width, c.blocks, self.head.outputs, 0.01) | self.head.init()
        if "value" in self.needs:
            params |= network("critic.", c.critic_width or c.width, c.critic_blocks, 1, 1.0)
        if "aux_value" in self.needs:
            params |= layers("critic.aux.", (c.width, 1), 1.0)
        return params

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return the distribution and values for a batch: obs `[S, T, B, *O]`."""
        shape = inputs.obs.shape[:3]
        x = self.encoder.encode(inputs.obs).flatten(1, 2)  # [S, T * B, size]
        policy, critic = layers_of(params), layers_of(params, "critic.")
        features = _features(policy, x)
        value = aux_value = None
        if "value" in self.needs:
            value = last_layer(critic, _features(critic, x)).reshape(shape)
        if "aux_value" in self.needs:
            aux_value = last_layer(layers_of(params, "critic.aux."), features).reshape(shape)
        outputs = last_layer(policy, features).reshape(*shape, self.head.outputs)
        dist = self.head.distribution(outputs, params, inputs.action_mask, features.reshape(*shape, -1))
        return Output(dist=dist, value=value, aux_value=aux_value)

    def actor(self, params: Params) -> SimbaActor:
        """Return an actor on numpy views that share memory with the parameters."""
        return SimbaActor(self, params)


class SimbaActor:
    """The forward pass in numpy, without torch's overhead, which dominates for small batches."""

    def __init__(self, policy: Simba, params: Params) -> None:
        self.policy, self.log_std = policy, policy.head.log_std_of(params)
        self.layers = numpy_layers({name: value.detach().numpy() for name, value in layers_of(params).items()})

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, None]:
        """Return actions `[S, N, *A]` for `obs [S, N, *O]` and `noise [S, N, K]` or None."""

        def layer(i: int, x: Array) -> Array:
            weight, bias = self.layers[i]
            return np.asarray(x @ weight + bias)

        x = layer(0, self.policy.encoder.encode_numpy(seen.obs))
        for i in range(1, len(self.layers) - 1, 2):
            x = x + layer(i + 1, np.maximum(layer(i, layer_norm_numpy(x)), 0))
        features = layer_norm_numpy(x)
        return self.policy.head.choose(layer(-1, features), self.log_std, seen.action_mask, noise, features), None


def _features(layers: Params, x: Tensor) -> Tensor:
    """Apply all layers but the last: `x [S, B, in] -> [S, B, width]`."""

    def layer(i: int, x: Tensor) -> Tensor:
        return linear(x, layers[f"weight.{i}"], layers[f"bias.{i}"])

    x = layer(0, x)
    for i in range(1, len(layers) // 2 - 1, 2):
        x = x + layer(i + 1, torch.relu(layer(i, layer_norm(x))))
    return layer_norm(x)
