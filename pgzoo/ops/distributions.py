"""Distributions over actions.

Each comes in two halves that agree. The torch half (`Categorical`, ...) gives log-probabilities and entropies
and carries gradients. The numpy half draws: it maps a network's raw outputs and a block of noise to actions, a
pure function, so that whoever holds the noise holds the actions. A `Family` ties both to an action space.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.types import Array, Distribution

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalGaussian",
    "Family",
    "MultiCategorical",
    "NoiseKind",
    "draw_noise",
    "family_for",
]

NoiseKind = Literal["uniform", "normal", "logistic"]
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class Categorical:
    """One of K actions: `logits [..., K]`, actions `[...]` integers from 0."""

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability in nats, `[...]`."""
        return self._log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, `[...]`."""
        log_probs = self._log_probs
        return -(log_probs.exp() * log_probs).sum(-1)

    @cached_property
    def _log_probs(self) -> Tensor:
        return F.log_softmax(self.logits, dim=-1)


@dataclass(frozen=True, eq=False)
class MultiCategorical:
    """Independent categoricals side by side: `logits [..., sum(sizes)]`, actions `[..., len(sizes)]`."""

    logits: Tensor
    sizes: tuple[int, ...]

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability of the whole tuple in nats, `[...]`."""
        parts = [part.log_prob(actions[..., i]) for i, part in enumerate(self._parts())]
        return torch.stack(parts).sum(0)

    def entropy(self) -> Tensor:
        """Entropy of the whole tuple in nats, `[...]`."""
        return torch.stack([part.entropy() for part in self._parts()]).sum(0)

    def _parts(self) -> list[Categorical]:
        return [Categorical(logits) for logits in torch.split(self.logits, list(self.sizes), dim=-1)]


@dataclass(frozen=True, eq=False)
class Bernoulli:
    """Independent bits: `logits [..., K]` of a one, actions `[..., K]` in 0, 1."""

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability of all bits in nats, `[...]`."""
        return -F.softplus(torch.where(actions > 0, -self.logits, self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy of all bits in nats, `[...]`."""
        return (F.softplus(self.logits) - self.logits * torch.sigmoid(self.logits)).sum(-1)


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """Independent normals: `mean [..., A]` and `log_std`, which broadcasts over it; actions `[..., A]`, unclipped."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-density summed over dimensions, in nats, `[...]`."""
        z = (actions - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, `[...]`."""
        return (self.log_std + (0.5 + LOG_SQRT_2PI)).expand_as(self.mean).sum(-1)


def draw_noise(kind: NoiseKind, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw what samples are made of, in float32."""
    if kind == "normal":
        return rng.standard_normal(shape, np.float32)
    uniform = rng.random(shape, np.float32)
    if kind == "uniform":
        return uniform
    with np.errstate(divide="ignore"):  # a uniform 0 becomes minus infinity, which every difference exceeds
        return np.log(uniform / (1.0 - uniform))


@dataclass(frozen=True)
class Family:
    """The distributions that fit one action space.

    `outputs` numbers come from a network's last layer; a learned `log_std` of size `scale_size` is added where the
    family has one. `noise` says what one draw needs: `noise_size` uniform, standard normal or logistic numbers.
    `draw(outputs, log_std, noise)` and `mode(outputs)` work on arrays `[..., outputs]` and give actions as the
    log-probability wants them; `to_env` turns those into what the environment takes.
    """

    name: str
    outputs: int
    action_shape: tuple[int, ...]
    action_dtype: torch.dtype
    noise: NoiseKind
    noise_size: int
    scale_size: int
    distribution: Callable[[Tensor, Tensor | None], Distribution]
    draw: Callable[[Array, Array | None, Array], Array]
    mode: Callable[[Array], Array]
    to_env: Callable[[Array], Array]


def family_for(space: gym.Space[Any], who: str) -> Family:
    """Return the family for an action space.

    Raises:
        UnfitError: the space is none of Discrete, MultiDiscrete, MultiBinary and Box; the message names `who`.
    """
    if isinstance(space, gym.spaces.Discrete):
        return _categorical(space)
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return _multi_categorical(space)
    if isinstance(space, gym.spaces.MultiBinary) and len(space.shape) == 1:
        return _bernoulli(space)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return _gaussian(space)
    raise UnfitError(
        f"{who} doesn't fit the action space {space}. It acts in Discrete, flat MultiDiscrete, flat MultiBinary and "
        "floating-point Box spaces. Choose another policy (pgzoo policies) or another environment."
    )


def _draw_categorical(logits: Array, noise: Array) -> NDArray[np.int64]:
    """Invert the cumulative distribution at uniform `noise [...]`; logits `[..., K]`."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    cumulative = np.cumsum(weights, -1)
    below = cumulative[..., :-1] <= (noise * cumulative[..., -1])[..., None]
    return np.asarray(below.sum(-1))


def _draw_binary_choice(logits: Array, noise: Array) -> NDArray[np.int64]:
    """Two actions, the commonest case: logistic `noise [...]` lies below a difference d with probability sigmoid(d)."""
    return (logits[..., 1] - logits[..., 0] > noise).astype(np.int64)


def _categorical(space: gym.spaces.Discrete) -> Family:
    draw = _draw_binary_choice if space.n == 2 else _draw_categorical
    return Family(
        name="categorical",
        outputs=int(space.n),
        action_shape=(),
        action_dtype=torch.int64,
        noise="logistic" if space.n == 2 else "uniform",
        noise_size=1,
        scale_size=0,
        distribution=lambda outputs, _: Categorical(outputs),
        draw=lambda outputs, _, noise: draw(outputs, noise[..., 0]),
        mode=lambda outputs: outputs.argmax(-1),
        to_env=lambda actions: actions + space.start if space.start else actions,
    )


def _multi_categorical(space: gym.spaces.MultiDiscrete) -> Family:
    sizes = tuple(int(n) for n in space.nvec)
    cuts = np.cumsum(sizes)[:-1]

    def draw(outputs: Array, _: Array | None, noise: Array) -> Array:
        parts = np.split(outputs, cuts, axis=-1)
        return np.stack([_draw_categorical(part, noise[..., i]) for i, part in enumerate(parts)], axis=-1)

    return Family(
        name="multi-categorical",
        outputs=sum(sizes),
        action_shape=(len(sizes),),
        action_dtype=torch.int64,
        noise="uniform",
        noise_size=len(sizes),
        scale_size=0,
        distribution=lambda outputs, _: MultiCategorical(outputs, sizes),
        draw=draw,
        mode=lambda outputs: np.stack([p.argmax(-1) for p in np.split(outputs, cuts, axis=-1)], axis=-1),
        to_env=lambda actions: (actions + space.start).astype(space.dtype),
    )


def _bernoulli(space: gym.spaces.MultiBinary) -> Family:
    bits = int(space.shape[0])
    return Family(
        name="bernoulli",
        outputs=bits,
        action_shape=(bits,),
        action_dtype=torch.int64,
        noise="logistic",
        noise_size=bits,
        scale_size=0,
        distribution=lambda outputs, _: Bernoulli(outputs),
        draw=lambda outputs, _, noise: (outputs > noise).astype(np.int64),
        mode=lambda outputs: (outputs > 0).astype(np.int64),
        to_env=lambda actions: actions.astype(space.dtype),
    )


def _gaussian(space: gym.spaces.Box) -> Family:
    shape, size = space.shape, int(np.prod(space.shape))

    def draw(outputs: Array, log_std: Array | None, noise: Array) -> Array:
        assert log_std is not None
        return np.asarray(outputs + np.exp(log_std) * noise, np.float32)

    def to_env(actions: Array) -> Array:
        shaped = actions.reshape(*actions.shape[:-1], *shape)
        return np.clip(shaped, space.low, space.high).astype(space.dtype)

    return Family(
        name="gaussian",
        outputs=size,
        action_shape=(size,),
        action_dtype=torch.float32,
        noise="normal",
        noise_size=size,
        scale_size=size,
        distribution=lambda outputs, log_std: DiagonalGaussian(outputs, _present(log_std)),
        draw=draw,
        mode=lambda outputs: outputs,
        to_env=to_env,
    )


def _present(log_std: Tensor | None) -> Tensor:
    assert log_std is not None
    return log_std
