"""A multilayer perceptron over flat observations."""

from __future__ import annotations

from typing import Annotated

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt

from pgzoo.config import ComponentConfig
from pgzoo.errors import UnfitError
from pgzoo.ops.families import Family, family_for
from pgzoo.ops.nets import Activation, Init, init_mlp, mlp, mlp_numpy, numpy_layers
from pgzoo.types import Array, Inputs, Output, Params, Spec


class MLPConfig(ComponentConfig):
    """Settings of the `mlp` policy."""

    hidden: Annotated[tuple[PositiveInt, ...], Field(description="widths of the hidden layers; empty: linear")] = (
        64,
        64,
    )
    activation: Annotated[Activation, Field(description="activation of the hidden layers")] = "tanh"
    init: Annotated[Init, Field(description="how weights begin: orthogonal, or torch's default for linear layers")] = (
        "orthogonal"
    )
    log_std: Annotated[float, Field(description="initial log standard deviation, for Box actions")] = 0.0


class MLP:
    """Layers of `hidden` units, then the parameters of a distribution that fits the action space.

    Discrete actions get a categorical distribution, MultiDiscrete one for each component, MultiBinary independent bits,
    Box a diagonal Gaussian whose log standard deviation is learned but doesn't depend on the state. Box actions are
    clipped to the space on their way to the environment; their log-probability is that of what was sampled. Discrete
    observations are one-hot.
    """

    def __init__(self, config: MLPConfig, spec: Spec) -> None:
        self.config = config
        self.family: Family = family_for(spec.action_space, 'policy "mlp"')
        self.noise, self.noise_size = self.family.noise, self.family.noise_size
        self.categories, self.first, self.inputs = _input_size(spec.observation_space)

    def init(self, rng: np.random.Generator) -> Params:
        """One member's layers, the last one small (0.01) so that the first actions are nearly uniform."""
        c = self.config
        sizes = (self.inputs, *c.hidden, self.family.outputs)
        params = init_mlp(rng, sizes, activation=c.activation, init=c.init, last_gain=0.01)
        if self.family.scale_size:
            params["log_std"] = torch.full((self.family.scale_size,), c.log_std)
        return params

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Distribution of a batch: obs `[S, T, B, *O]`."""
        obs = inputs.obs
        x = F.one_hot(obs - self.first, self.categories).float() if self.categories else obs.float()
        layers = {name: value for name, value in params.items() if name != "log_std"}
        outputs = mlp(layers, x.reshape(x.shape[0], -1, self.inputs), self.config.activation)
        outputs = outputs.reshape(*x.shape[:3], self.family.outputs)
        log_std = params.get("log_std")
        return Output(self.family.distribution(outputs, None if log_std is None else log_std[:, None, None]))

    def actor(self, params: Params) -> MLPActor:
        """Act through numpy views that share memory with the parameters."""
        return MLPActor(self, {name: value.detach().numpy() for name, value in params.items()})

    def to_env(self, actions: Array) -> Array:
        """Clip, shift and shape actions for the environment."""
        return self.family.to_env(actions)


class MLPActor:
    """The forward pass in numpy: at a batch of 8 a torch forward is all overhead."""

    def __init__(self, policy: MLP, params: dict[str, Array]) -> None:
        log_std = params.pop("log_std", None)
        self.log_std = None if log_std is None else log_std[:, None]
        self.one_hot = np.eye(policy.categories, dtype=np.float32)
        self.policy, self.layers = policy, numpy_layers(params)

    def __call__(self, obs: Array, noise: Array | None) -> Array:
        """`obs [S, N, *O]`, `noise [S, N, K]` or None -> actions `[S, N, *A]`."""
        policy = self.policy
        x = self.one_hot[obs - policy.first] if policy.categories else obs.astype(np.float32, copy=False)
        outputs = mlp_numpy(self.layers, x.reshape(*obs.shape[:2], policy.inputs), policy.config.activation)
        if noise is None:
            return policy.family.mode(outputs)
        return policy.family.draw(outputs, self.log_std, noise)


def _input_size(space: gym.Space[object]) -> tuple[int, int, int]:
    """Return (categories, or 0 for a Box; the first category; number of inputs)."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n), int(space.start), int(space.n)
    if isinstance(space, gym.spaces.Box) and not (space.dtype == np.uint8 and len(space.shape) == 3):
        return 0, 0, int(np.prod(space.shape))
    raise UnfitError(
        f'policy "mlp" doesn\'t fit the observation space {space}: it takes flat vectors, not images. '
        "See: pgzoo policies"
    )
