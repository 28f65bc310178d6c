"""Distributions over actions, for learning: differentiable log-probabilities, entropies and divergences, in nats.

Every tensor of a distribution has the full batch shape `[S, T, B]` followed by the distribution's own axis, so `map`
can slice or detach a batch. `draw` and `mode` call `ops.draws`, the numpy half for acting; `ops.families` connects both
to an action space.

Every operation is elementwise or a sum within a row, so a member's numbers don't depend on the other members, as long
as rows are padded to a multiple of the vector width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgzoo.ops.draws import (
    FORBIDDEN_BELOW,
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
from pgzoo.ops.elementwise import log_one_minus, sigmoid, softplus
from pgzoo.types import Array

__all__ = ["Bernoulli", "Beta", "Categorical", "DiagonalGaussian", "EpsilonGreedy", "MultiCategorical", "TanhGaussian"]

LOG_2 = math.log(2)
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def _quadrature(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nodes z and weights of E[f(z)] for a standard normal z, by the trapezoidal rule.

    It converges exponentially for an analytic f (Trefethen & Weideman 2014, section 5). For a wide Gaussian it needs
    half as many nodes as Gauss-Hermite quadrature.
    """
    nodes = torch.linspace(-4.5, 4.5, 32, device=device)
    return nodes, torch.softmax(-0.5 * nodes.double().square(), 0).float()


_QUADRATURE = _quadrature(torch.device("cpu"))

_EDGE = 1e-6
"""Actions of Beta are clamped to this distance from 0 and 1, where its log-density is minus infinity."""


@dataclass(frozen=True, eq=False)
class Categorical:
    """One of K actions: `logits [..., K]`, actions `[...]` integers from 0."""

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probability, `[...]`."""
        return self._log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return -Σ p log p, `[...]`."""
        log_probs = self._log_probs
        return -(log_probs.exp() * log_probs).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        """Return KL(self || other) = Σ p log(p/q), `[...]`."""
        log_probs = self._log_probs
        return (log_probs.exp() * (log_probs - other._log_probs)).sum(-1)

    def mode(self) -> Array:
        """Return the most likely action, `[...]`; ties are broken by position."""
        return mode_of_categorical(_array(self.logits))

    def draw(self, noise: Array) -> Array:
        """Draw actions from `noise [..., 1]`: logistic if K is 2, else uniform."""
        return draw_categorical(_array(self.logits), noise[..., 0])

    def map(self, fn: Callable[[Tensor], Tensor]) -> Categorical:
        """Apply `fn` to each tensor."""
        return Categorical(fn(self.logits))

    @cached_property
    def _log_probs(self) -> Tensor:
        return F.log_softmax(self.logits, dim=-1)


@dataclass(frozen=True, eq=False)
class EpsilonGreedy:
    """One of K actions: with probability ε any allowed one, else the one with the largest value.

    `values [..., K]` are action values Q(s, ·), `epsilon [..., 1]`, actions `[...]` integers from 0. Probabilities have
    no gradient with respect to the values. The value of a state is the maximum of its action values.
    """

    values: Tensor
    epsilon: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probability, `[...]`; -inf for an action that is never chosen."""
        return self._probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1).log()

    def entropy(self) -> Tensor:
        """Return -Σ p log p, `[...]`."""
        probs = self._probs
        return -(probs * torch.where(probs > 0, probs, 1.0).log()).sum(-1)

    def kl(self, other: EpsilonGreedy) -> Tensor:
        """Return KL(self || other) = Σ p log(p/q), `[...]`; inf if the other never chooses an action that this does."""
        p, q = self._probs, other._probs
        return torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum(-1)

    def mode(self) -> Array:
        """Return the action with the largest value, `[...]`; ties are broken by position."""
        return mode_of_categorical(_array(self.values))

    def draw(self, noise: Array) -> Array:
        """Draw actions from uniform `noise [..., 2]`."""
        return draw_epsilon_greedy(_array(self.values), _array(self.epsilon), noise)

    def map(self, fn: Callable[[Tensor], Tensor]) -> EpsilonGreedy:
        """Apply `fn` to each tensor."""
        return EpsilonGreedy(fn(self.values), fn(self.epsilon))

    def value_of(self, actions: Tensor) -> Tensor:
        """Return Q(s, a) of actions, `[...]`."""
        return self.values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def state_value(self) -> Tensor:
        """Return max Q(s, ·), `[...]`."""
        return self.values.amax(-1)

    @cached_property
    def _probs(self) -> Tensor:
        allowed = (self.values > FORBIDDEN_BELOW).to(self.values.dtype)
        greedy = F.one_hot(self.values.argmax(-1), self.values.shape[-1]).to(self.values.dtype)
        return self.epsilon * allowed / allowed.sum(-1, keepdim=True) + (1 - self.epsilon) * greedy


@dataclass(frozen=True, eq=False)
class MultiCategorical:
    """Independent categorical distributions: concatenated `logits [..., sum(sizes)]`, actions `[..., len(sizes)]`."""

    logits: Tensor
    sizes: tuple[int, ...]

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probability of the whole tuple, `[...]`."""
        parts = [part.log_prob(actions[..., i]) for i, part in enumerate(self._parts)]
        return torch.stack(parts).sum(0)

    def entropy(self) -> Tensor:
        """Return the entropy of the whole tuple, `[...]`."""
        return torch.stack([part.entropy() for part in self._parts]).sum(0)

    def kl(self, other: MultiCategorical) -> Tensor:
        """Return KL(self || other), the sum over components, `[...]`."""
        return torch.stack([p.kl(q) for p, q in zip(self._parts, other._parts, strict=True)]).sum(0)

    def mode(self) -> Array:
        """Return the most likely tuple, `[..., len(sizes)]`."""
        return mode_of_multi_categorical(_array(self.logits), self.sizes)

    def draw(self, noise: Array) -> Array:
        """Draw actions from uniform `noise [..., len(sizes)]`."""
        return draw_multi_categorical(_array(self.logits), self.sizes, noise)

    def map(self, fn: Callable[[Tensor], Tensor]) -> MultiCategorical:
        """Apply `fn` to each tensor."""
        return MultiCategorical(fn(self.logits), self.sizes)

    @cached_property
    def _parts(self) -> list[Categorical]:
        return [Categorical(logits) for logits in torch.split(self.logits, list(self.sizes), dim=-1)]


@dataclass(frozen=True, eq=False)
class Bernoulli:
    """Independent bits: `logits [..., K]` of a one, actions `[..., K]` in 0, 1."""

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probability of all bits, `[...]`."""
        return -softplus(torch.where(actions > 0, -self.logits, self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropy of all bits, `[...]`."""
        return (softplus(self.logits) - self.logits * sigmoid(self.logits)).sum(-1)

    def kl(self, other: Bernoulli) -> Tensor:
        """Return KL(self || other), the sum over bits, `[...]`."""
        p, q = self.logits, other.logits
        ones = sigmoid(p) * (softplus(-q) - softplus(-p))
        zeros = sigmoid(-p) * (softplus(q) - softplus(p))
        return (ones + zeros).sum(-1)

    def mode(self) -> Array:
        """Return the most likely bits, `[..., K]`."""
        return mode_of_bits(_array(self.logits))

    def draw(self, noise: Array) -> Array:
        """Draw actions from logistic `noise [..., K]`."""
        return draw_bits(_array(self.logits), noise)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Bernoulli:
        """Apply `fn` to each tensor."""
        return Bernoulli(fn(self.logits))


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """Independent normals: `mean [..., A]` and `log_std [..., A]`; actions `[..., A]`, unclipped.

    With `perturbation`, `draw` adds its result for the noise to the mean, instead of the noise times the standard
    deviation. It applies to this batch only, so `map` and `shift` leave it out.
    """

    mean: Tensor
    log_std: Tensor
    perturbation: Callable[[Array], Array] | None = None

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-density summed over dimensions, `[...]`."""
        z = (actions - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy, `[...]`."""
        return (self.log_std + (0.5 + LOG_SQRT_2PI)).sum(-1)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """Return KL(self || other) = Σ ½(r² - 1 + z²) - log r, where r = σ/σ' and z = (μ - μ')/σ', `[...]`."""
        log_ratio = self.log_std - other.log_std
        z = (self.mean - other.mean) * (-other.log_std).exp()
        return (0.5 * (torch.expm1(2 * log_ratio) + z.square()) - log_ratio).sum(-1)

    def mode(self) -> Array:
        """Return the mean, `[..., A]`."""
        return _array(self.mean)

    def draw(self, noise: Array) -> Array:
        """Draw actions from standard normal `noise [..., A]`, or from that of the perturbation."""
        if self.perturbation is not None:
            return np.asarray(_array(self.mean) + self.perturbation(noise))
        return draw_normal(_array(self.mean), _array(self.log_std), noise)

    def map(self, fn: Callable[[Tensor], Tensor]) -> DiagonalGaussian:
        """Apply `fn` to each tensor."""
        return DiagonalGaussian(fn(self.mean), fn(self.log_std))

    def shift(self, offset: Tensor) -> DiagonalGaussian:
        """Return the distribution with its mean shifted by `offset [..., A]`."""
        return DiagonalGaussian(self.mean + offset, self.log_std)


@dataclass(frozen=True, eq=False)
class TanhGaussian:
    """Independent normals squashed into [-1, 1]: a = tanh(u), u ~ N(μ, σ²).

    Actions are stored as u, `[..., A]`, because atanh of a rounded a is inaccurate near ±1; densities are those of a.
    log |da/du| = log(1 - tanh² u) is computed as 2 (log 2 - u - softplus(-2u)), which has no cancellation.

    `perturbation` as in `DiagonalGaussian`.

    Source: Haarnoja et al. (2018), Soft actor-critic, appendix C.
    """

    mean: Tensor
    log_std: Tensor
    perturbation: Callable[[Array], Array] | None = None

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-density of tanh(u) summed over dimensions, `[...]`."""
        return self._normal.log_prob(actions) - _log_slope_of_tanh(actions).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropy H(u) + E[log(1 - tanh² u)], `[...]`; within 1e-3 per dimension for σ up to 3."""
        device = self.mean.device
        nodes, weights = _QUADRATURE if device.type == "cpu" else _quadrature(device)
        u = self.mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * nodes
        return self._normal.entropy() + (_log_slope_of_tanh(u) * weights).sum(-1).sum(-1)

    def kl(self, other: TanhGaussian) -> Tensor:
        """Return KL(self || other), `[...]`; it equals that of the normals, because tanh is a bijection."""
        return self._normal.kl(other._normal)

    def mode(self) -> Array:
        """Return the mean of u, `[..., A]`: tanh of it is the median of a; the mode of a has no closed form."""
        return self._normal.mode()

    def draw(self, noise: Array) -> Array:
        """Draw u from standard normal `noise [..., A]`, or from that of the perturbation."""
        return self._normal.draw(noise)

    def map(self, fn: Callable[[Tensor], Tensor]) -> TanhGaussian:
        """Apply `fn` to each tensor."""
        return TanhGaussian(fn(self.mean), fn(self.log_std))

    def shift(self, offset: Tensor) -> TanhGaussian:
        """Return the distribution with the mean of u shifted by `offset [..., A]`."""
        return TanhGaussian(self.mean + offset, self.log_std)

    @cached_property
    def _normal(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean, self.log_std, self.perturbation)


@dataclass(frozen=True, eq=False)
class Beta:
    """Independent Beta(α, β) in (0, 1): concentrations `alpha [..., A]` and `beta [..., A]`, actions `[..., A]`.

    With α, β > 1 there is one mode, and the density is 0 at both ends.

    Source: Chou, Maturana & Scherer (2017), Improving stochastic policy gradients in continuous control with deep
        reinforcement learning using the Beta distribution.
    """

    alpha: Tensor
    beta: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-density summed over dimensions, `[...]`; actions are clamped to [1e-6, 1 - 1e-6]."""
        x = actions.clamp(_EDGE, 1 - _EDGE)
        return ((self.alpha - 1) * x.log() + (self.beta - 1) * log_one_minus(x) - self._log_normalizer).sum(-1)

    def entropy(self) -> Tensor:
        """Return log B(α, β) - (α-1) ψ(α) - (β-1) ψ(β) + (α+β-2) ψ(α+β), `[...]`."""
        a, b = self.alpha, self.beta
        total = (a + b - 2) * torch.digamma(a + b)
        return (self._log_normalizer - (a - 1) * torch.digamma(a) - (b - 1) * torch.digamma(b) + total).sum(-1)

    def kl(self, other: Beta) -> Tensor:
        """Return KL(self || other), `[...]`.

        Σ log B(α', β')/B(α, β) + (α-α') ψ(α) + (β-β') ψ(β) - (α-α'+β-β') ψ(α+β)
        """
        a, b = self.alpha, self.beta
        more_a, more_b = a - other.alpha, b - other.beta
        moments = more_a * torch.digamma(a) + more_b * torch.digamma(b) - (more_a + more_b) * torch.digamma(a + b)
        return (other._log_normalizer - self._log_normalizer + moments).sum(-1)

    def mode(self) -> Array:
        """Return (α-1)/(α+β-2), `[..., A]`."""
        return mode_of_beta(_array(self.alpha), _array(self.beta))

    def draw(self, noise: Array) -> Array:
        """Draw actions from uniform `noise [..., A]`."""
        return draw_beta(_array(self.alpha), _array(self.beta), noise)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Beta:
        """Apply `fn` to each tensor."""
        return Beta(fn(self.alpha), fn(self.beta))

    @cached_property
    def _log_normalizer(self) -> Tensor:
        """The logarithm of B(α, β), for each dimension."""
        return torch.lgamma(self.alpha) + torch.lgamma(self.beta) - torch.lgamma(self.alpha + self.beta)


def _log_slope_of_tanh(u: Tensor) -> Tensor:
    return 2 * (LOG_2 - u - softplus(-2 * u))


def _array(x: Tensor) -> Array:
    array: Array = x.detach().cpu().numpy()
    return array
