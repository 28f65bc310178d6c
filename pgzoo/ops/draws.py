"""Drawing actions from noise: the numpy half of every distribution.

Each function is pure: the parameters of a distribution and a block of noise determine the actions. The last axis of
parameters holds the parameters of one distribution, that of noise one number per choice. Noise may be infinite; even
then an action of probability 0 is not drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pgzoo.types import Array, NoiseKind

__all__ = [
    "draw_beta",
    "draw_bits",
    "draw_categorical",
    "draw_epsilon_greedy",
    "draw_multi_categorical",
    "draw_noise",
    "draw_normal",
    "draw_perturbation",
    "mode_of_beta",
    "mode_of_bits",
    "mode_of_categorical",
    "mode_of_multi_categorical",
]

FORBIDDEN_BELOW = -5e8
"""The output for an action that is not allowed is below this number (see `ops.families.masked`)."""

_FAR = np.array(-1e8, np.float32), np.array(1e8, np.float32)
"""Larger in absolute value than the logit of any allowed action."""


def draw_noise(kind: NoiseKind, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw noise of a kind, in float32."""
    if kind == "normal":
        return rng.standard_normal(shape, np.float32)
    uniform = rng.random(shape, np.float32)
    if kind == "uniform":
        return uniform
    with np.errstate(divide="ignore"):  # a uniform 0 becomes minus infinity, less than every logit
        return np.log(uniform / (1.0 - uniform))


def draw_categorical(logits: Array, noise: Array) -> NDArray[np.int64]:
    """Draw one of K: `logits [..., K]`, `noise [...]`, which is logistic if K is 2, else uniform in [0, 1).

    For two actions, logistic noise is below the difference d of their logits with probability sigmoid(d). For more
    actions the cumulative distribution is inverted.
    """
    if logits.shape[-1] == 2:
        return draw_bits(logits[..., 1] - logits[..., 0], noise)
    return _invert_cumulative(logits, noise)


def draw_epsilon_greedy(values: Array, epsilon: Array, noise: Array) -> NDArray[np.int64]:
    """Draw one of K: with probability ε any allowed action, else the one with the largest value.

    Shapes: `values [..., K]`, `epsilon [..., 1]`, uniform `noise [..., 2]`.
    """
    allowed = np.cumsum(values > FORBIDDEN_BELOW, -1)  # the number of allowed actions up to each
    nth = np.floor(noise[..., 1] * allowed[..., -1])[..., None]
    explored = (allowed > nth).argmax(-1)
    return np.where(noise[..., 0] < epsilon[..., 0], explored, mode_of_categorical(values))


def draw_multi_categorical(logits: Array, sizes: tuple[int, ...], noise: Array) -> NDArray[np.int64]:
    """Draw a tuple: `logits [..., sum(sizes)]`, uniform `noise [..., len(sizes)]`."""
    parts = _split(logits, sizes)
    return np.stack([_invert_cumulative(part, noise[..., i]) for i, part in enumerate(parts)], axis=-1)


def draw_bits(logits: Array, noise: Array) -> NDArray[np.int64]:
    """Draw independent bits: `logits [...]` of a one, logistic `noise [...]`."""
    return (logits > noise.clip(*_FAR)).astype(np.int64)


def draw_normal(mean: Array, log_std: Array, noise: Array) -> NDArray[np.float32]:
    """Draw independent normals: `mean [..., A]`, `log_std`, which broadcasts over it, standard normal `noise`."""
    return np.asarray(mean + np.exp(log_std) * noise, np.float32)


def draw_perturbation(features: Array, log_std: Array, noise: Array) -> NDArray[np.float32]:
    """Return Σₗ fₗ σₗₐ εₗₐ, `[..., A]`: the perturbation of an action by a matrix of noise.

    Shapes: `features [..., L]`; `log_std [..., L, A]`, which broadcasts; standard normal `noise [..., L * A]`.
    """
    matrix = np.exp(log_std) * noise.reshape(*noise.shape[:-1], *log_std.shape[-2:])
    return np.asarray((features[..., None, :] @ matrix)[..., 0, :], np.float32)


def draw_beta(alpha: Array, beta: Array, noise: Array) -> NDArray[np.float32]:
    """Draw independent numbers in [0, 1] by inverting the cumulative distribution at uniform `noise [..., A]`."""
    from scipy.special import betaincinv

    doubles = (np.asarray(x, np.float64) for x in (alpha, beta, noise))
    return np.asarray(betaincinv(*doubles), np.float32)


def mode_of_categorical(logits: Array) -> NDArray[np.int64]:
    """Return the most likely action: `logits [..., K] -> [...]`."""
    return np.asarray(logits.argmax(-1))


def mode_of_multi_categorical(logits: Array, sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the most likely tuple: `logits [..., sum(sizes)] -> [..., len(sizes)]`."""
    return np.stack([part.argmax(-1) for part in _split(logits, sizes)], axis=-1)


def mode_of_bits(logits: Array) -> NDArray[np.int64]:
    """Return the most likely bits; 0 if both are equally likely."""
    return (logits > 0).astype(np.int64)


def mode_of_beta(alpha: Array, beta: Array) -> NDArray[np.float32]:
    """Return (α-1)/(α+β-2), for α, β >= 1; ½ if both are 1."""
    tiny = 1e-12
    return np.asarray((alpha - 1 + tiny) / (alpha - 1 + (beta - 1) + 2 * tiny), np.float32)


def _invert_cumulative(logits: Array, noise: Array) -> NDArray[np.int64]:
    """Invert the cumulative distribution at uniform `noise [...]`; logits `[..., K]`."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    cumulative = np.cumsum(weights, -1)
    below = cumulative[..., :-1] <= (noise * cumulative[..., -1])[..., None]
    return np.asarray(below.sum(-1))


def _split(logits: Array, sizes: tuple[int, ...]) -> list[Array]:
    return np.split(logits, np.cumsum(sizes)[:-1], axis=-1)
