"""ARS: augmented random search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt

from pgzoo.config import LearningRate, SearchConfig
from pgzoo.errors import UnfitError
from pgzoo.ops.optim import count_parameters, flatten, searched, unflatten_candidates, with_searched
from pgzoo.protocols import UpdateContext
from pgzoo.types import AlgorithmState, Episodes, TrainState


class ARSConfig(SearchConfig):
    """Settings of `ars`."""

    learning_rate: LearningRate = 0.2
    noise_std: Annotated[float, Field(gt=0, description="standard deviation of the perturbation of each parameter")] = (
        0.2
    )
    top: Annotated[
        PositiveInt | None,
        Field(description="number of best directions used in a step; default: all of them, half of num_envs"),
    ] = None


class ARS:
    """ARS: finite differences along random directions in the space of parameters.

        θ ← θ + α / (b σ) Σₖ [F(θ + νδₖ) - F(θ - νδₖ)] δₖ,  δₖ ~ N(0, I)

    F is the return of one episode with the most likely actions. The sum is over the b directions with the largest
    max(F(θ + νδₖ), F(θ - νδₖ)), and σ is the standard deviation of their returns. Each pair of environments evaluates
    one direction. With `--normalize-obs` this is V2 of the paper, without it V1. The search optimizes the most likely
    actions, so the greedy evaluation is the relevant one. The standard deviation of Box actions keeps its initial
    value.

    Source: Mania, Guy & Recht (2018), Simple random search of static linear policies is competitive for reinforcement
        learning, algorithm 2.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {
        "policy": {"name": "linear", "log_std": -5.0},
        "num_envs": 16,
        "total_steps": 100_000,
    }

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Return no tensors; raise UnfitError if no direction can be evaluated."""
        if ctx.num_envs < 2:
            raise UnfitError(
                'Algorithm "ars" evaluates each direction with a pair of environments. Use --num-envs 2 or more.'
            )
        count_parameters(ctx.policy.init(rng), "ars")
        return AlgorithmState({}, {})

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        """Take one step of the search per round."""
        while ctx.running():
            ctx.state = self.search_step(ctx, ctx.state)
            yield

    def search_step(self, ctx: UpdateContext, state: TrainState) -> TrainState:
        """Evaluate all directions, and step along the best of them."""
        settings: list[Any] = [member.config.settings for member in ctx.members]
        params = searched(state.params)
        center = flatten(params.values()).cpu().numpy()
        members, size = center.shape
        count = ctx.num_envs // 2
        top = min(ctx.settings.top or count, count)
        directions = np.stack([ctx.rng("directions", s, state).standard_normal((count, size)) for s in range(members)])
        steps = np.zeros((members, ctx.num_envs, size))
        steps[:, :count], steps[:, count : 2 * count] = directions, -directions
        noise_std = np.array([own.noise_std for own in settings])[:, None, None]
        candidates = (center[:, None] + noise_std * steps).astype(np.float32)
        state, returns = ctx.play(state, unflatten_candidates(torch.from_numpy(candidates), params))

        moved = center.copy()
        for member in np.flatnonzero(state.active & np.isfinite(returns).all(1)):
            plus, minus = returns[member, :count], returns[member, count : 2 * count]
            best = np.argsort(-np.maximum(plus, minus), kind="stable")[:top]
            std = np.concatenate([plus[best], minus[best]]).std() + 1e-8
            gradient = (plus[best] - minus[best]) @ directions[member, best]
            moved[member] += settings[member].learning_rate / (top * std) * gradient
        return ctx.place(state, with_searched(torch.from_numpy(moved), state.params))
