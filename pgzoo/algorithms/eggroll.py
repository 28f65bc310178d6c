"""EGGROLL: evolution strategies with low-rank perturbations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from pgzoo.config import LearningRate, SearchConfig
from pgzoo.errors import UnfitError
from pgzoo.ops.optim import count_parameters, flatten, searched, unflatten_candidates, with_searched
from pgzoo.protocols import UpdateContext
from pgzoo.types import AlgorithmState, Episodes, TrainState


class EGGROLLConfig(SearchConfig):
    """Settings of `eggroll`."""

    learning_rate: LearningRate = 1.0
    noise_std: Annotated[float, Field(gt=0, description="standard deviation of the perturbation of each parameter")] = (
        0.2
    )
    rank: Annotated[PositiveInt, Field(description="rank of the perturbation of a weight matrix")] = 1


class EGGROLL:
    """EGGROLL: evolution strategies whose perturbations of the weight matrices have a low rank.

        M ← M + α / N Σᵢ fᵢ Eᵢ,  fᵢ = (F(M + σEᵢ) - mean F) / std F,  Eᵢ = 1/√r Aᵢ Bᵢᵀ,  Aᵢ [m, r], Bᵢ [n, r] ~ N(0, 1)

    F is the return of one episode with the most likely actions; mean and standard deviation are over the N
    environments, which evaluate pairs of opposite perturbations E and -E. Every number of E has variance 1. A
    perturbation of rank r is drawn from r (m + n) random numbers instead of m n, but the sum over N of them has a rank
    of up to N r / 2. Biases and other parameters that are not matrices have Gaussian perturbations. The search
    optimizes the most likely actions, so the greedy evaluation is the relevant one. The standard deviation of Box
    actions keeps its initial value.

    This implementation forms M + σE for each environment. It has the paper's updates, not its savings in memory and
    time, which come from never forming E.

    Source: Sarkar et al. (2025), Evolution strategies at the hyperscale, algorithm 1; arXiv 2511.16652.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {
        "policy": {"name": "mlp", "hidden": [32], "log_std": -5.0},
        "num_envs": 32,
        "total_steps": 200_000,
    }

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Return no tensors; raise UnfitError if no perturbation can be evaluated."""
        if ctx.num_envs < 2:
            raise UnfitError(
                'Algorithm "eggroll" evaluates each perturbation with a pair of environments. Use --num-envs 2 or more.'
            )
        count_parameters(ctx.policy.init(rng), "eggroll")
        return AlgorithmState({}, {})

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        """Take one step of the search per round."""
        while ctx.running():
            ctx.state = self.search_step(ctx, ctx.state)
            yield

    def search_step(self, ctx: UpdateContext, state: TrainState) -> TrainState:
        """Evaluate all perturbations, and step along their mean, weighted by the standardized returns."""
        settings: list[Any] = [member.config.settings for member in ctx.members]
        params = searched(state.params)
        center = flatten(params.values()).cpu().numpy()
        members, size = center.shape
        count = ctx.num_envs // 2
        shapes = [tuple(value.shape[1:]) for value in params.values()]
        noise = np.zeros((members, ctx.num_envs, size))  # with an odd number, the last environment plays M itself
        for s in range(members):
            noise[s, :count] = perturbations(ctx.rng("perturbations", s, state), shapes, count, ctx.settings.rank)
        noise[:, count : 2 * count] = -noise[:, :count]
        noise_std = np.array([own.noise_std for own in settings])[:, None, None]
        candidates = (center[:, None] + noise_std * noise).astype(np.float32)
        state, returns = ctx.play(state, unflatten_candidates(torch.from_numpy(candidates), params))

        moved = center.copy()
        for member in np.flatnonzero(state.active & np.isfinite(returns).all(1)):
            scores = returns[member, : 2 * count]
            fitness = (scores - scores.mean()) / (scores.std() + 1e-8)
            moved[member] += settings[member].learning_rate / len(scores) * (fitness @ noise[member, : 2 * count])
        return ctx.place(state, with_searched(torch.from_numpy(moved), state.params))


def perturbations(
    rng: np.random.Generator, shapes: list[tuple[int, ...]], count: int, rank: int
) -> NDArray[np.float64]:
    """Draw `count` perturbations of parameters with these shapes, flattened and concatenated: `[count, P]`."""
    parts = []
    for shape in shapes:
        if len(shape) == 2:
            left, right = (rng.standard_normal((count, side, rank)) for side in shape)
            parts.append((left @ right.transpose(0, 2, 1) / np.sqrt(rank)).reshape(count, -1))
        else:
            parts.append(rng.standard_normal((count, *shape)).reshape(count, -1))
    return np.concatenate(parts, axis=1)
