"""The distributions that fit an action space, and the conversion of their actions for the environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args, overload

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.errors import UnfitError, did_you_mean
from pgzoo.ops.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    DiagonalGaussian,
    EpsilonGreedy,
    MultiCategorical,
    TanhGaussian,
)
from pgzoo.ops.draws import (
    draw_beta,
    draw_bits,
    draw_categorical,
    draw_epsilon_greedy,
    draw_multi_categorical,
    draw_normal,
    mode_of_beta,
    mode_of_bits,
    mode_of_categorical,
    mode_of_multi_categorical,
)
from pgzoo.ops.elementwise import softplus
from pgzoo.ops.rows import choose_categorical, choose_gaussian, choose_rescaled
from pgzoo.types import Array, Distribution, NoiseKind

__all__ = ["DistributionName", "Family", "family_for", "masked"]

DistributionName = Literal[
    "auto", "categorical", "epsilon-greedy", "multi-categorical", "bernoulli", "gaussian", "tanh", "beta"
]

FORBIDDEN = -1e9
"""The logit of a forbidden action. Its probability is exactly 0; being finite, it makes no sum infinite or NaN."""

LOG_STD_RANGE = (-5.0, 2.0)
"""Range to which a log standard deviation that depends on the state is clamped."""


@dataclass(frozen=True)
class Family:
    """A kind of distribution for one action space, and the sampling of its actions.

    Attributes:
        name: a `DistributionName`.
        outputs: K, the number of network outputs.
        noise: kind of noise that sampling an action uses: uniform, standard normal or logistic.
        noise_size: number of noise values per action.
        scale_size: size of the parameter `scale_name`, which doesn't depend on the state; 0 for a family without one.
        distribution: `(outputs [S, T, B, K], scale) -> Distribution`, with gradients.
        draw: `(outputs [..., K], scale, noise) -> actions`, on arrays, in the form that `log_prob` takes.
        mode: `outputs [..., K] -> actions`, the most likely ones.
        to_env: converts actions to the environment's action space.
        choose_row: `draw`, `mode` and `to_env` for one row, as `types.RowPolicy.choose`; None if there is no such
            function.
        bounds: of the action space, for `choose_row`.
        scale_name: "log_std", which is learned, or "epsilon", which an algorithm sets.
    """

    name: str
    outputs: int
    noise: NoiseKind
    noise_size: int
    scale_size: int
    distribution: Callable[[Tensor, Tensor | None], Distribution]
    draw: Callable[[Array, Array | None, Array], Array]
    mode: Callable[[Array], Array]
    to_env: Callable[[Array], Array]
    choose_row: Callable[..., Any] | None = None
    bounds: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    scale_name: str = "log_std"


@overload
def masked(outputs: Tensor, allowed: Tensor) -> Tensor: ...
@overload
def masked(outputs: Array, allowed: Array) -> Array: ...
def masked(outputs: Tensor | Array, allowed: Tensor | Array) -> Tensor | Array:
    """Return `outputs [..., K]` with -1e9 in place of each logit whose action is not allowed.

    `allowed [..., K]` is 1 or True for the actions that are allowed. For several choices (MultiDiscrete), the masks of
    the choices are concatenated; for bits, the mask is True if a bit may be 1. A forbidden action has probability 0 and
    its logit no gradient. Each choice needs at least one allowed action.

    Source: Huang & Ontañón (2022), A closer look at invalid action masking in policy gradient algorithms.
    """
    if isinstance(outputs, Tensor):
        return torch.where(torch.as_tensor(allowed).bool(), outputs, FORBIDDEN)
    return np.where(allowed, outputs, FORBIDDEN)


def family_for(
    space: gym.Space[Any],
    who: str,
    *,
    distribution: str = "auto",
    state_std: bool = False,
    rescale: bool = False,
) -> Family:
    """Return the family for an action space.

    Args:
        space: the action space.
        who: the component, for error messages.
        distribution: a `DistributionName`; "auto" is categorical for Discrete, multi-categorical for MultiDiscrete,
            bernoulli for MultiBinary, gaussian for Box.
        state_std: take the log standard deviation of a gaussian or tanh from the network, beside the mean, clamped to
            [-5, 2]. By default it is a learned parameter that doesn't depend on the state.
        rescale: map [-1, 1] of a gaussian linearly onto the Box before actions are clipped. Actions of tanh and beta
            are always mapped onto the Box.

    Raises:
        UnfitError: the space is none of Discrete, MultiDiscrete, MultiBinary and Box, or the distribution or an option
            doesn't fit it; the message names `who`.
    """
    fitting = _fitting(space)
    if not fitting:
        raise UnfitError(
            f"{who} doesn't fit the action space {space}. It supports Discrete, flat MultiDiscrete, flat "
            "MultiBinary and floating-point Box spaces. Choose another policy (pgzoo policies) or another environment."
        )
    name = fitting[0] if distribution == "auto" else distribution
    if name not in get_args(DistributionName):
        hint = did_you_mean(name, fitting)
        raise UnfitError(
            f'{who}: no distribution "{name}".{hint} For {space}, choose from: auto, {", ".join(fitting)}.'
        )
    if name not in fitting:
        raise UnfitError(
            f'{who}: the distribution "{name}" doesn\'t fit the action space {space}. These do: {", ".join(fitting)}.'
        )
    if state_std and name not in ("gaussian", "tanh"):
        raise UnfitError(f'{who}: the distribution "{name}" has no standard deviation; remove state_std.')
    match space:
        case gym.spaces.Discrete():
            return _epsilon_greedy(space) if name == "epsilon-greedy" else _categorical(space)
        case gym.spaces.MultiDiscrete():
            return _multi_categorical(space)
        case gym.spaces.MultiBinary():
            return _bernoulli(space)
    assert isinstance(space, gym.spaces.Box)
    if (rescale or name != "gaussian") and not space.is_bounded():
        what = "rescale" if name == "gaussian" else f'the distribution "{name}"'
        raise UnfitError(
            f"{who}: {what} maps actions onto the whole action space, and {space} has no finite bounds. "
            'Use the distribution "gaussian" without rescale.'
        )
    if name == "beta":
        return _beta(space)
    return _gaussian(space, name, state_std=state_std, rescale=rescale)


def _fitting(space: gym.Space[Any]) -> tuple[str, ...]:
    """Return the names of the distributions that fit a space, the default first."""
    if isinstance(space, gym.spaces.Discrete):
        return ("categorical", "epsilon-greedy")
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return ("multi-categorical",)
    if isinstance(space, gym.spaces.MultiBinary) and len(space.shape) == 1:
        return ("bernoulli",)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return ("gaussian", "tanh", "beta")
    return ()


def _categorical(space: gym.spaces.Discrete) -> Family:
    return Family(
        name="categorical",
        outputs=int(space.n),
        noise="logistic" if space.n == 2 else "uniform",
        noise_size=1,
        scale_size=0,
        distribution=lambda outputs, _: Categorical(outputs),
        draw=lambda outputs, _, noise: draw_categorical(outputs, noise[..., 0]),
        mode=mode_of_categorical,
        to_env=partial(_numbered, space),
        choose_row=choose_categorical,
        bounds=np.array([float(space.start)]),
    )


def _epsilon_greedy(space: gym.spaces.Discrete) -> Family:
    def distribution(outputs: Tensor, epsilon: Tensor | None) -> Distribution:
        assert epsilon is not None
        return EpsilonGreedy(outputs, epsilon.expand(*outputs.shape[:-1], 1))

    def draw(outputs: Array, epsilon: Array | None, noise: Array) -> Array:
        assert epsilon is not None
        return draw_epsilon_greedy(outputs, epsilon, noise)

    return Family(
        name="epsilon-greedy",
        outputs=int(space.n),
        noise="uniform",
        noise_size=2,
        scale_size=1,
        distribution=distribution,
        draw=draw,
        mode=mode_of_categorical,
        to_env=partial(_numbered, space),
        scale_name="epsilon",
    )


def _numbered(space: gym.spaces.Discrete, actions: Array) -> Array:
    """Return the actions of the space for integers from 0, in its dtype: otherwise it wouldn't contain them."""
    return np.asarray(actions + int(space.start) if space.start else actions).astype(space.dtype, copy=False)


def _multi_categorical(space: gym.spaces.MultiDiscrete) -> Family:
    sizes = tuple(int(n) for n in space.nvec)
    return Family(
        name="multi-categorical",
        outputs=sum(sizes),
        noise="uniform",
        noise_size=len(sizes),
        scale_size=0,
        distribution=lambda outputs, _: MultiCategorical(outputs, sizes),
        draw=lambda outputs, _, noise: draw_multi_categorical(outputs, sizes, noise),
        mode=lambda outputs: mode_of_multi_categorical(outputs, sizes),
        to_env=lambda actions: (actions + space.start).astype(space.dtype),
    )


def _bernoulli(space: gym.spaces.MultiBinary) -> Family:
    bits = int(space.shape[0])
    return Family(
        name="bernoulli",
        outputs=bits,
        noise="logistic",
        noise_size=bits,
        scale_size=0,
        distribution=lambda outputs, _: Bernoulli(outputs),
        draw=lambda outputs, _, noise: draw_bits(outputs, noise),
        mode=mode_of_bits,
        to_env=lambda actions: actions.astype(space.dtype),
    )


def _gaussian(space: gym.spaces.Box, name: str, *, state_std: bool, rescale: bool) -> Family:
    size = int(np.prod(space.shape))
    of = TanhGaussian if name == "tanh" else DiagonalGaussian

    def distribution(outputs: Tensor, log_std: Tensor | None) -> Distribution:
        if state_std:
            mean, log_std = torch.chunk(outputs, 2, -1)
            return of(mean, log_std.clamp(*LOG_STD_RANGE))
        assert log_std is not None
        return of(outputs, log_std.expand_as(outputs))

    def draw(outputs: Array, log_std: Array | None, noise: Array) -> Array:
        if state_std:
            log_std = outputs[..., size:].clip(*LOG_STD_RANGE)
        assert log_std is not None
        return draw_normal(outputs[..., :size], log_std, noise)

    def to_env(actions: Array) -> Array:
        if name == "tanh":
            return _fill(space, 0.5 + 0.5 * np.tanh(actions))
        if rescale:
            return _fill(space, 0.5 + 0.5 * actions.clip(-1, 1))
        return _shaped(space, actions)

    return Family(
        name=name,
        outputs=2 * size if state_std else size,
        noise="normal",
        noise_size=size,
        scale_size=0 if state_std else size,
        distribution=distribution,
        draw=draw,
        mode=lambda outputs: outputs[..., :size],
        to_env=to_env,
        choose_row=None if name == "tanh" or state_std else choose_rescaled if rescale else choose_gaussian,
        bounds=np.concatenate([space.low, space.high], axis=None, dtype=np.float64),
    )


def _beta(space: gym.spaces.Box) -> Family:
    size = int(np.prod(space.shape))
    return Family(
        name="beta",
        outputs=2 * size,
        noise="uniform",
        noise_size=size,
        scale_size=0,
        distribution=lambda outputs, _: Beta(*torch.chunk(1 + softplus(outputs), 2, -1)),
        draw=lambda outputs, _, noise: draw_beta(*_concentrations(outputs), noise),
        mode=lambda outputs: mode_of_beta(*_concentrations(outputs)),
        to_env=partial(_fill, space),
    )


def _concentrations(outputs: Array) -> tuple[Array, Array]:
    """Return α and β = 1 + softplus(outputs), as in Chou et al. (2017). Both are above 1: there is a single mode."""
    alpha, beta = np.split(1 + np.logaddexp(outputs, 0), 2, axis=-1)
    return alpha, beta


def _fill(space: gym.spaces.Box, share: Array) -> Array:
    """Map `share [..., A]` in [0, 1] linearly onto the Box, in double precision for any dtype of the space."""
    low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
    share = share.astype(np.float64)
    return _shaped(space, low * (1 - share) + high * share)  # high - low may overflow


def _shaped(space: gym.spaces.Box, actions: Array) -> Array:
    """Reshape, clip and cast actions `[..., A]` for the environment."""
    shaped = actions.reshape(*actions.shape[:-1], *space.shape)
    return np.clip(shaped, space.low, space.high).astype(space.dtype)
