"""The natural gradient: steps measured by how far they move the policy, not its parameters.

Vectors are `[S, P]`, a member's parameters end to end, and so are products with its Fisher matrix, which is never
built. A member that is done, or has nothing to do, is left as it is while the others go on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pgzoo.ops.losses import weighted_mean
from pgzoo.ops.members import nobody
from pgzoo.protocols import LearningPolicy
from pgzoo.types import Batch, Hyper, Params

__all__ = ["backtrack", "conjugate_gradient", "damped", "mean_kl", "natural_step"]

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix for each member, as the product with it: `[S, P] -> [S, P]`."""


def mean_kl(policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
    """How far the policy is from the one that collected: `[S]`, in nats.

        E[ KL(π_old(·|s) || π(·|s; θ)) ]

    Its Hessian at θ_old is the Fisher matrix F of the policy. Needs `old`.
    """
    return weighted_mean(batch.old.kl(policy.apply(params, batch.inputs).dist), batch.weights)


def damped(product: Product, damping: Tensor) -> Product:
    """F + λI, with λ `[S]`: invertible where F is not, and shorter steps where it hardly is."""
    return lambda vector: product(vector) + damping[:, None] * vector


def conjugate_gradient(product: Product, target: Tensor, steps: int, tolerance: float = 1e-10) -> Tensor:
    """Solve A x = b for each member, A positive definite, by at most `steps` products with A.

    A member is done when |b - A x|² <= `tolerance` |b|².

    Shapes: target b `[S, P]` -> x `[S, P]`. Source: Hestenes & Stiefel (1952), section 3.
    """
    solution, residual, direction = torch.zeros_like(target), target, target
    square = _dot(residual, residual)
    enough = tolerance * square
    for _ in range(steps):
        going = square > enough
        if nobody(going):
            break
        along = product(direction)
        length = torch.where(going, square / _dot(direction, along), 0.0)[:, None]
        solution = solution + length * direction
        residual = residual - length * along
        before, square = square, _dot(residual, residual)
        direction = residual + torch.where(going, square / before, 0.0)[:, None] * direction
    return solution


def natural_step(product: Product, gradient: Tensor, size: Tensor, steps: int) -> Tensor:
    """Return the step that gains most among those of the divergence `size [S]`, by the models that F and g are.

        Δ = √(2δ / xᵀFx) x,  F x = g

    Shapes: gradient g `[S, P]` -> Δ `[S, P]`; 0 for a member whose gradient is. `steps` are those of the conjugate
    gradient. Source: Schulman et al. (2015), Trust region policy optimization, appendix C.
    """
    direction = conjugate_gradient(product, gradient, steps)
    curvature = _dot(direction, product(direction))
    return torch.where(curvature > 0, 2 * size / curvature, 0.0).sqrt()[:, None] * direction


def backtrack(
    start: Tensor, step: Tensor, accept: Callable[[Tensor], Tensor], shrink: float, tries: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk back from the end of `step`, each member until its place is accepted, else to where it was.

        θ + βʲ Δ,  j = 0, 1, ... the first that `accept: [S, P] -> [S]` (bool) says yes to

    Shapes: start θ and step Δ `[S, P]`, `shrink` β. Returns the places `[S, P]`, which members were accepted `[S]`
    and how many places each tried `[S]`.
    """
    place = start
    found = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    tried = torch.zeros(len(start), dtype=torch.long, device=start.device)
    for j in range(tries):
        candidate = start + shrink**j * step
        tried = tried + ~found
        fresh = accept(candidate) & ~found
        place = torch.where(fresh[:, None], candidate, place)
        found = found | fresh
        if nobody(~found):
            break
    return place, found, tried


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1)
