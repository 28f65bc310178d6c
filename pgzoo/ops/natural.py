"""The natural gradient: step sizes measured by the KL divergence between policies, not by the change of parameters.

Vectors are `[S, P]`: each member's parameters in one row. The Fisher matrix is never built; only its products with such
vectors are computed. A member that has converged stays unchanged while the others continue.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pgzoo.ops.losses import weighted_mean
from pgzoo.ops.members import surely_empty
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Hyper, Params

__all__ = ["backtrack", "conjugate_gradient", "damped", "mean_kl", "natural_step"]

Product = Callable[[Tensor], Tensor]
"""A function that multiplies `[S, P]` by a symmetric matrix, one for each member: `[S, P] -> [S, P]`."""


def mean_kl(policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
    """Return the KL divergence from the policy that collected the data to this one: `[S]`, in nats.

        E[ KL(π_old(·|s) || π(·|s; θ)) ]

    Its Hessian at θ_old is the Fisher matrix F of the policy. Needs "old".
    """
    return weighted_mean(batch.old.kl(policy.apply(params, batch.inputs).dist), batch.weights)


def damped(product: Product, damping: Tensor) -> Product:
    """Return the product with F + λI, with λ `[S]`: it is invertible even if F is singular."""
    return lambda vector: product(vector) + damping[:, None] * vector


def conjugate_gradient(product: Product, target: Tensor, steps: int, tolerance: float = 1e-10) -> Tensor:
    """Solve A x = b for each member, A positive definite, by at most `steps` products with A.

    A member has converged when |b - A x|² <= `tolerance` |b|².

    Shapes: target b `[S, P]` -> x `[S, P]`. Source: Hestenes & Stiefel (1952), section 3.
    """
    solution, residual, direction = torch.zeros_like(target), target, target
    square = _dot(residual, residual)
    enough = tolerance * square
    for _ in range(steps):
        active = square > enough
        if surely_empty(active):
            break
        curved = product(direction)
        length = torch.where(active, square / _dot(direction, curved), 0.0)[:, None]
        solution = solution + length * direction
        residual = residual - length * curved
        before, square = square, _dot(residual, residual)
        direction = residual + torch.where(active, square / before, 0.0)[:, None] * direction
    return solution


def natural_step(product: Product, gradient: Tensor, size: Tensor, steps: int) -> Tensor:
    """Return the step that maximizes the linear model g subject to a quadratic KL model equal to `size [S]`.

        Δ = √(2δ / xᵀFx) x,  F x = g

    If `product` is that of a damped matrix (see `damped`), so is F, and the KL divergence is smaller than `size`.

    Shapes: gradient g `[S, P]` -> Δ `[S, P]`; 0 for a member whose gradient is 0. `steps` is the number of conjugate
    gradient iterations. Source: Schulman et al. (2015), Trust region policy optimization, appendix C.
    """
    direction = conjugate_gradient(product, gradient, steps)
    curvature = _dot(direction, product(direction))
    return torch.where(curvature > 0, 2 * size / curvature, 0.0).sqrt()[:, None] * direction


def backtrack(
    start: Tensor, step: Tensor, accept: Callable[[Tensor], Tensor], shrink: float, tries: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Search along a line: shorten a step until it is accepted, separately for each member.

        θ + βʲ Δ,  j = 0, 1, ... the first that `accept: [S, P] -> [S]` (bool) accepts

    Shapes: start θ and step Δ `[S, P]`, `shrink` β. Returns the new parameters `[S, P]` (θ for a member without an
    accepted step), whether a step was accepted `[S]`, and the number of steps tried `[S]`.
    """
    reached = start
    found = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    tried = torch.zeros(len(start), dtype=torch.long, device=start.device)
    for j in range(tries):
        candidate = start + shrink**j * step
        tried = tried + ~found
        accepted = accept(candidate) & ~found
        reached = torch.where(accepted[:, None], candidate, reached)
        found = found | accepted
        if surely_empty(~found):
            break
    return reached, found, tried


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1)
