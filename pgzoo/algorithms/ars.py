"""ARS: augmented random search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt

from pgzoo.config import LearningRate, SearchConfig
from pgzoo.errors import UnfitError
from pgzoo.ops.optim import flatten, unflatten_candidates
from pgzoo.types import AlgorithmState, Episodes, TrainState


class ARSConfig(SearchConfig):
    """Settings of `ars`."""

    learning_rate: LearningRate = 0.2
    noise_std: Annotated[float, Field(gt=0, description="how far candidates are from the policy")] = 0.2
    top: Annotated[
        PositiveInt | None, Field(description="directions that count, the best ones; default: all, half of num_envs")
    ] = None


class ARS:
    """ARS: walk along random directions, by how much better the one side did than the other.

        θ ← θ + α / (b σ) Σₖ [F(θ + νδₖ) - F(θ - νδₖ)] δₖ,  δₖ ~ N(0, I)

    F is the return of one episode of the policy's mode. The sum is over the b directions whose better side did best,
    and σ is the deviation of their returns. Every two environments try one direction. With `--normalize-obs` it is the
    paper's V2, without it V1. What is found is a mode: judge it by its likeliest actions, not by sampled ones.

    Source: Mania, Guy & Recht (2018), Simple random search of static linear policies is competitive for reinforcement
        learning, algorithm 2.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"policy": "linear", "num_envs": 16, "total_steps": 100_000}

    def init(self, ctx: Any, rng: np.random.Generator) -> AlgorithmState:
        """Keep nothing. Raises UnfitError where a direction can't be tried both ways, or there is nothing to search."""
        if ctx.num_envs < 2:
            raise UnfitError(
                'Algorithm "ars" tries every direction forward and backward, in one environment each: num_envs must '
                "be at least 2."
            )
        if not ctx.policy.init(rng):
            raise UnfitError('Algorithm "ars" searches among parameters, and the policy has none. Choose another one.')
        return AlgorithmState({}, {})

    def loop(self, ctx: Any) -> Iterator[None]:
        """One step of the search per round."""
        while ctx.running():
            ctx.state = self.search(ctx, ctx.state)
            yield

    def search(self, ctx: Any, state: TrainState) -> TrainState:
        """Try all directions, go along the best."""
        settings = [member.config.settings for member in ctx.plan.members]
        center = flatten(state.params.values()).cpu().numpy()
        members, size = center.shape
        count = ctx.plan.config.num_envs // 2
        top = min(settings[0].top or count, count)
        directions = np.stack([ctx.rng("directions", s, state).standard_normal((count, size)) for s in range(members)])
        steps = np.zeros((members, ctx.plan.config.num_envs, size))
        steps[:, :count], steps[:, count : 2 * count] = directions, -directions
        noise_std = np.array([own.noise_std for own in settings])[:, None, None]
        candidates = (center[:, None] + noise_std * steps).astype(np.float32)
        state, returns = ctx.play(state, unflatten_candidates(torch.from_numpy(candidates), state.params))

        moved = center.copy()
        for member in np.flatnonzero(state.active & np.isfinite(returns).all(1)):
            plus, minus = returns[member, :count], returns[member, count : 2 * count]
            best = np.argsort(-np.maximum(plus, minus), kind="stable")[:top]
            deviation = np.concatenate([plus[best], minus[best]]).std() + 1e-8
            along = (plus[best] - minus[best]) @ directions[member, best]
            moved[member] += settings[member].learning_rate / (top * deviation) * along
        return ctx.place(state, torch.from_numpy(moved))  # type: ignore[no-any-return]
