"""CEM: the cross-entropy method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from pgzoo.config import SearchConfig, Static
from pgzoo.errors import UnfitError
from pgzoo.ops.optim import flatten, unflatten_candidates
from pgzoo.types import AlgorithmState, Episodes, TrainState


class CEMConfig(SearchConfig):
    """Settings of `cem`."""

    elite: Annotated[float, Field(gt=0, le=1, description="share of the candidates that make the next round")] = 0.2
    init_std: Annotated[float, Static, Field(gt=0, description="deviation of the first candidates")] = 1.0
    extra_std: Annotated[
        float, Field(ge=0, description="deviation that is added to the elite's, less and less until half of the run")
    ] = 0.25


class CEM:
    """CEM: draw policies from a Gaussian, fit it to the best of them, and again.

        θₖ ~ N(μ, σ²),  μ, σ² ← mean and variance of the elite, + εₜ

    A candidate's worth is the return of one episode of its mode; every environment plays one. The added variance ε
    keeps the search from settling too early and fades over the first half of the run.

    Source: Szita & Lőrincz (2006), Learning Tetris using the noisy cross-entropy method, sections 2-3.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"policy": "linear", "num_envs": 32, "total_steps": 150_000}

    def init(self, ctx: Any, rng: np.random.Generator) -> AlgorithmState:
        """Every parameter's deviation."""
        one = ctx.plan.policy.init(np.random.default_rng(0))
        size = sum(value.numel() for value in one.values())
        if not size:
            raise UnfitError('Algorithm "cem" searches among parameters, and the policy has none. Choose another one.')
        return AlgorithmState(
            {}, {"cem.std": torch.full((size,), ctx.plan.config.settings.init_std, dtype=torch.float64)}
        )

    def loop(self, ctx: Any) -> Iterator[None]:
        """One generation per round."""
        while ctx.running():
            ctx.state = self.generation(ctx, ctx.state)
            yield

    def generation(self, ctx: Any, state: TrainState) -> TrainState:
        """Draw, play, and fit the Gaussian to the elite."""
        count = ctx.plan.config.num_envs
        mean = flatten(state.params.values()).double().cpu().numpy()
        std = state.buffers["cem.std"].cpu().numpy()
        members, size = mean.shape
        noise = np.stack([ctx.rng("candidates", s, state).standard_normal((count, size)) for s in range(members)])
        candidates = (mean[:, None] + std[:, None] * noise).astype(np.float32)
        state, returns = ctx.play(state, unflatten_candidates(torch.from_numpy(candidates), state.params))

        fresh, spread = mean.copy(), std.copy()
        for member in np.flatnonzero(state.active):
            settings = ctx.plan.members[member].config.settings
            keep = max(1, round(settings.elite * count))
            elite = candidates[member, np.argsort(-returns[member], kind="stable")[:keep]].astype(np.float64)
            extra = settings.extra_std * max(0.0, 1.0 - 2.0 * state.progress[member])
            fresh[member], spread[member] = elite.mean(0), np.sqrt(elite.var(0) + extra**2)
        state = ctx.place(state, torch.from_numpy(fresh.astype(np.float32)))
        kept = torch.from_numpy(spread).to(state.buffers["cem.std"].device)
        return state._replace(buffers=state.buffers | {"cem.std": kept})
