"""A multilayer perceptron over flat observations."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt
from torch import Tensor

from pgzoo.config import SDEConfig
from pgzoo.ops.heads import ActionHead, ObsEncoder, unused_critic
from pgzoo.ops.nets import (
    MAX_LAYERS,
    Activation,
    Init,
    init_mlp,
    init_norms,
    last_layer,
    last_layer_numpy,
    layers_of,
    norms_of,
    numpy_layers,
    numpy_norms,
    trunk,
    trunk_numpy,
)
from pgzoo.ops.rows import CODES, mlp_row
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, RowPolicy, Spec


class LinearConfig(SDEConfig):
    """Settings of the `linear` policy."""

    init: Annotated[
        Init, Field(description="initialization of weights: orthogonal, or torch's default for linear layers")
    ] = "orthogonal"


class MLPConfig(LinearConfig):
    """Settings of the `mlp` policy."""

    hidden: Annotated[
        tuple[PositiveInt, ...],
        Field(max_length=MAX_LAYERS, description="sizes of the hidden layers; empty: linear"),
    ] = (64, 64)
    activation: Annotated[Activation, Field(description="activation function of the hidden layers")] = "tanh"
    layer_norm: Annotated[bool, Field(description="layer normalization of the inputs of each activation function")] = (
        False
    )
    critic: Annotated[
        Literal["separate", "shared"],
        Field(description="whether the critic, if there is one, is a separate network or shares the policy's layers"),
    ] = "separate"
    critic_hidden: Annotated[
        tuple[PositiveInt, ...] | None,
        Field(max_length=MAX_LAYERS, description="sizes of the hidden layers of a separate critic; default: hidden"),
    ] = None


class MLP:
    """A multilayer perceptron whose outputs are the parameters of a distribution that fits the action space.

    Discrete actions have a categorical distribution, MultiDiscrete actions one per component, MultiBinary actions
    independent bits, and Box actions a diagonal Gaussian unless the settings name another. Log-probabilities are those
    of the samples, before Box actions are clipped or scaled for the environment. Discrete observations are one-hot
    encoded. A critic is a separate network of the same kind, or an additional output of the policy's hidden layers.
    """

    compiles = True

    def __init__(self, config: LinearConfig, spec: Spec, needs: frozenset[str]) -> None:
        mlp_config = config if isinstance(config, MLPConfig) else MLPConfig(hidden=(), **config.model_dump())
        who = f'policy "{"mlp" if mlp_config is config else "linear"}"'
        self.config, self.needs = mlp_config, needs
        self.encoder = ObsEncoder(spec.observation_space, who)
        self.features = mlp_config.hidden[-1] if mlp_config.hidden else self.encoder.size
        self.head = ActionHead(spec, mlp_config, needs, who, self.features)
        self.noise, self.noise_size, self.noise_steps = self.head.noise, self.head.noise_size, self.head.noise_steps
        self.to_env = self.head.to_env
        self.without_effect = self.head.without_effect | unused_critic(needs, "critic", "critic_hidden")
        if mlp_config.critic == "shared":
            self.without_effect.setdefault("critic_hidden", "has a critic that shares the policy's layers")

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's layers; the last has small weights (gain 0.01), for nearly uniform first actions."""
        c, size, features = self.config, self.encoder.size, self.features

        def layers(prefix: str, sizes: tuple[int, ...], last_gain: float) -> Params:
            made = init_mlp(rng, sizes, activation=c.activation, init=c.init, last_gain=last_gain)
            return {prefix + name: value for name, value in made.items()}

        def norms(prefix: str, hidden: tuple[int, ...]) -> Params:
            return {prefix + name: value for name, value in init_norms(hidden if c.layer_norm else ()).items()}

        params = layers("", (size, *c.hidden, self.head.outputs), 0.01) | norms("", c.hidden) | self.head.init()
        if "value" in self.needs:
            own = c.hidden if c.critic_hidden is None else c.critic_hidden
            own = () if c.critic == "shared" else own
            params |= layers("critic.", (features, 1) if c.critic == "shared" else (size, *own, 1), 1.0)
            params |= norms("critic.", own)
        if "aux_value" in self.needs:
            params |= layers("critic.aux.", (features, 1), 1.0)
        return params

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return the distribution and values for a batch: obs `[S, T, B, *O]`."""
        c, shape = self.config, inputs.obs.shape[:3]
        x = self.encoder.encode(inputs.obs).flatten(1, 2)  # [S, T * B, size]
        policy = layers_of(params)
        features = trunk(policy, x, c.activation, norms_of(params))

        def value(prefix: str, features: Tensor) -> Tensor:
            own = layers_of(params, prefix)
            return last_layer(own, trunk(own, features, c.activation, norms_of(params, prefix))).reshape(shape)

        outputs = last_layer(policy, features).reshape(*shape, self.head.outputs)
        return Output(
            dist=self.head.distribution(outputs, params, inputs.action_mask, features.reshape(*shape, self.features)),
            value=value("critic.", features if c.critic == "shared" else x) if "value" in self.needs else None,
            aux_value=value("critic.aux.", features) if "aux_value" in self.needs else None,
        )

    def actor(self, params: Params) -> MLPActor:
        """Return an actor on numpy views that share memory with the parameters."""
        return MLPActor(self, params)

    def row_policy(self, params: Params) -> RowPolicy | None:
        """Return the policy for the compiled collector; None with layer normalization or other activation functions."""
        c, layers = self.config, layers_of(params)
        if c.layer_norm or c.activation not in CODES:
            return None
        count = len(layers) // 2
        weights = [layers[f"{kind}.{i}"] for i in range(count) for kind in ("weight", "bias")]
        widths = [self.encoder.size, *c.hidden, self.head.outputs]
        sizes = [CODES[c.activation], self.encoder.categories, self.encoder.first, *widths]
        return self.head.row_policy(mlp_row, params, weights, sizes, max(widths))


class MLPActor:
    """The forward pass in numpy, without torch's overhead, which dominates for small batches."""

    def __init__(self, policy: MLP, params: Params) -> None:
        self.policy, self.log_std = policy, policy.head.log_std_of(params)
        self.layers = numpy_layers({name: value.detach().numpy() for name, value in layers_of(params).items()})
        self.norms = numpy_norms({name: value.detach().numpy() for name, value in norms_of(params).items()})

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, None]:
        """Return actions `[S, N, *A]` for `obs [S, N, *O]` and `noise [S, N, K]` or None."""
        policy = self.policy
        features = trunk_numpy(self.layers, policy.encoder.encode_numpy(seen.obs), policy.config.activation, self.norms)
        outputs = last_layer_numpy(self.layers, features)
        return policy.head.choose(outputs, self.log_std, seen.action_mask, noise, features), None
