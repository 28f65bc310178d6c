"""Convolutional networks for images, and for a Dict or Tuple with images and other entries."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from pgzoo.config import SDEConfig
from pgzoo.ops.entries import VECTOR
from pgzoo.ops.heads import ActionHead, unused_critic
from pgzoo.ops.images import ChannelOrder, ImageInputs, StackName, by_member, conv_stack, recomputed_in_backward
from pgzoo.ops.nets import MAX_LAYERS, Init, init_mlp, last_layer, layers_of, mlp_numpy, numpy_layers
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, Spec

Filters = Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=MAX_LAYERS)]


Hidden = Annotated[
    tuple[PositiveInt, ...],
    Field(
        max_length=MAX_LAYERS,
        description="sizes of the hidden layers after the convolutions; other entries of a Dict join here",
    ),
]


class CNNConfig(SDEConfig):
    """Settings of the `cnn` policy."""

    filters: Annotated[Filters, Field(description="number of filters of each convolution")] = (32, 64, 64)
    hidden: Hidden = (512,)
    init: Annotated[
        Init, Field(description="initialization of weights: orthogonal, or torch's default for its layers")
    ] = "orthogonal"
    critic: Annotated[
        Literal["shared", "separate"],
        Field(description="whether the critic, if there is one, shares the policy's layers or is a separate network"),
    ] = "shared"
    channel_order: Annotated[
        ChannelOrder,
        Field(description="dimension of the channels; auto: the first if it is smaller than the last, else the last"),
    ] = "auto"
    divide_by: Annotated[
        PositiveFloat, Field(description="number by which images of integers are divided; 1 for small categories")
    ] = 255.0


class ImpalaCNNConfig(CNNConfig):
    """Settings of the `impala-cnn` policy."""

    filters: Annotated[
        Filters, Field(description="number of filters of each section: a convolution and two residual blocks")
    ] = (16, 32, 32)
    hidden: Hidden = (256,)


class CNN:
    """Convolutions on each image, then hidden layers, whose output determines a distribution over actions and a value.

    Images stay as they are observed, such as one byte per pixel, until the forward pass, which divides integers by 255.
    In a Dict or Tuple, each image has convolutions of its own; their outputs and all other entries, Discrete ones
    one-hot, are concatenated before the hidden layers.

    Sources:
        `cnn`: Mnih et al. (2015), Human-level control through deep reinforcement learning, Methods.
        `impala-cnn`: Espeholt et al. (2018), IMPALA, figure 3, without its LSTM.
        Initialization: Huang et al. (2022), The 37 implementation details of PPO, "orthogonal initialization".
    """

    def __init__(self, name: StackName, config: CNNConfig, spec: Spec, needs: frozenset[str]) -> None:
        who = f'policy "{"cnn" if name == "nature" else "impala-cnn"}"'
        self.config, self.needs = config, needs
        self.inputs = ImageInputs(spec, who, config.channel_order, config.divide_by)
        self.image_mask = self.inputs.mask
        self.stacks = {key: conv_stack(name, size, config.filters) for key, size in self.inputs.sizes.items()}
        joined = self.inputs.vector_size + sum(stack.features for stack in self.stacks.values())
        self.joined, self.last_size = joined, config.hidden[-1] if config.hidden else joined
        self.head = ActionHead(spec, config, needs, who, self.last_size)
        self.noise, self.noise_size, self.noise_steps = self.head.noise, self.head.noise_size, self.head.noise_steps
        self.to_env = self.head.to_env
        self.without_effect = self.head.without_effect | unused_critic(needs, "critic")
        self.footprint = self._footprint()

    def _footprint(self) -> tuple[int, int]:
        """Return the numbers of parameters and of kept floats; see `protocols.Policy`."""
        sizes = (self.joined, *self.config.hidden)
        parameters, kept = sum(a * b for a, b in pairwise(sizes)), sum(sizes)
        for stack, size in zip(self.stacks.values(), self.inputs.sizes.values(), strict=True):
            parameters += stack.parameters
            kept += stack.kept(size)
        bodies = 2 if self.config.critic == "separate" and "value" in self.needs else 1
        return bodies * parameters, bodies * kept

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's layers; the last one of the policy has small weights (gain 0.01)."""
        c, joined, features = self.config, self.joined, self.last_size

        def layers(prefix: str, sizes: tuple[int, ...], last_gain: float) -> Params:
            new = init_mlp(rng, sizes, activation="relu", init=c.init, last_gain=last_gain)
            return {prefix + name: value for name, value in new.items()}

        def body(prefix: str) -> Params:
            params: Params = {}
            for k, stack in enumerate(self.stacks.values()):
                params |= stack.init(rng, c.init, f"{prefix}image.{k}.")
            return params | layers(f"{prefix}hidden.", (joined, *c.hidden), 2**0.5)

        params = body("") | layers("", (features, self.head.outputs), 0.01) | self.head.init()
        if "value" in self.needs:
            params |= body("critic.") if c.critic == "separate" else {}
            params |= layers("critic.", (features, 1), 1.0)
        if "aux_value" in self.needs:
            params |= layers("critic.aux.", (features, 1), 1.0)
        return params

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return the distribution and values for a batch: obs `[S, T, B, *O]`."""
        parts = self.inputs.parts(inputs.obs)
        first: Any = inputs.obs if isinstance(inputs.obs, Tensor) else next(iter(inputs.obs.values()))
        shape = first.shape[:3]
        features = self.features(params, "", parts)

        def value(prefix: str, features: Tensor) -> Tensor:
            return last_layer(layers_of(params, prefix), features).reshape(shape)

        critic = None
        if "value" in self.needs:
            separate = self.config.critic == "separate"
            critic = value("critic.", self.features(params, "critic.", parts) if separate else features)
        outputs = last_layer(layers_of(params), features).reshape(*shape, self.head.outputs)
        return Output(
            dist=self.head.distribution(outputs, params, inputs.action_mask, features.reshape(*shape, self.last_size)),
            value=critic,
            aux_value=value("critic.aux.", features) if "aux_value" in self.needs else None,
        )

    def actor(self, params: Params) -> CNNActor:
        """Return an actor that computes no values, on copies of the layers before the last."""
        return CNNActor(self, params)

    def features(self, params: Params, prefix: str, parts: dict[str, Tensor]) -> Tensor:
        """Return the output of the last hidden layer `[S, R, features]`; `parts` come from `ImageInputs.parts`."""
        body = (f"{prefix}image.", f"{prefix}hidden.")
        own = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(body)}
        return by_member(self._body, own, parts)

    def _body(self, params: Params, parts: dict[str, Tensor]) -> Tensor:
        """Return features `[rows, features]` of one member's observations."""
        joined = []
        for k, (name, stack) in enumerate(self.stacks.items()):
            read = partial(self.inputs.read, parts, name)
            image = read()
            with recomputed_in_backward(image, read):
                joined.append(stack.apply(params, f"image.{k}.", image))
        x = torch.cat([*joined, parts[VECTOR].float()] if VECTOR in parts else joined, 1)
        for i in range(len(self.config.hidden)):
            x = torch.relu(torch.addmm(params[f"hidden.bias.{i}"], x, params[f"hidden.weight.{i}"]))
        return x


class CNNActor:
    """Acts by the forward pass in torch, without gradients; the last layer in numpy."""

    def __init__(self, policy: CNN, params: Params) -> None:
        self.policy, self.log_std = policy, policy.head.log_std_of(params)
        self.params = {name: value.detach() for name, value in params.items()}
        self.last = numpy_layers({name: value.numpy() for name, value in layers_of(self.params).items()})

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, None]:
        """Return actions `[S, N, *A]` for `obs [S, N, *O]` and `noise [S, N, K]` or None."""
        policy, obs = self.policy, seen.obs
        step: Any = obs[:, None] if isinstance(obs, np.ndarray) else {name: x[:, None] for name, x in obs.items()}
        tensors: Any = torch.from_numpy(step) if isinstance(obs, np.ndarray) else _tensors(step)
        with torch.no_grad():
            features = policy.features(self.params, "", policy.inputs.parts(tensors)).numpy()
        outputs = mlp_numpy(self.last, features, "relu")
        return policy.head.choose(outputs, self.log_std, seen.action_mask, noise, features), None


def _tensors(arrays: dict[str, Array]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def cnn(config: CNNConfig, spec: Spec, needs: frozenset[str]) -> CNN:
    """Return a policy with the convolutions of the Nature DQN."""
    return CNN("nature", config, spec, needs)


def impala_cnn(config: ImpalaCNNConfig, spec: Spec, needs: frozenset[str]) -> CNN:
    """Return a policy with the residual convolutions of IMPALA."""
    return CNN("impala", config, spec, needs)
