"""CEM: the cross-entropy method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from pgzoo.config import SearchConfig, Static
from pgzoo.ops.optim import count_parameters, flatten, searched, unflatten_candidates, with_searched
from pgzoo.protocols import UpdateContext
from pgzoo.types import AlgorithmState, Episodes, TrainState


class CEMConfig(SearchConfig):
    """Settings of `cem`."""

    elite: Annotated[
        float, Field(gt=0, le=1, description="fraction of the candidates to which the Gaussian is fitted")
    ] = 0.2
    init_std: Annotated[
        float, Static, Field(gt=0, description="standard deviation of the first candidates, for each parameter")
    ] = 1.0
    extra_std: Annotated[
        float,
        Field(ge=0, description="extra standard deviation, annealed to 0 over the first half of the run"),
    ] = 0.25


class CEM:
    """CEM: sample policies from a Gaussian over parameters, and refit the Gaussian to the best of them.

        θₖ ~ N(μ, σ²),  μ, σ² ← mean and variance of the elite, + εₜ

    The score of a candidate is the return of one episode with its most likely actions; every environment plays one
    candidate. The extra variance ε keeps the search from converging too early, and is annealed to 0 over the first half
    of the run. The search optimizes the most likely actions, so the greedy evaluation is the relevant one. The standard
    deviation of Box actions keeps its initial value.

    Source: Szita & Lőrincz (2006), Learning Tetris using the noisy cross-entropy method, sections 2-3.
    """

    collect = Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {
        "policy": {"name": "linear", "log_std": -5.0},
        "num_envs": 32,
        "total_steps": 150_000,
    }

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Return the standard deviation of each parameter; the mean is the policy's parameters."""
        size = count_parameters(ctx.policy.init(np.random.default_rng(0)), "cem")
        return AlgorithmState({}, {"cem.std": torch.full((size,), ctx.settings.init_std, dtype=torch.float64)})

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        """Compute one generation per round."""
        while ctx.running():
            ctx.state = self.next_generation(ctx, ctx.state)
            yield

    def next_generation(self, ctx: UpdateContext, state: TrainState) -> TrainState:
        """Sample candidates, play an episode with each, and fit the Gaussian to the elite."""
        count = ctx.num_envs
        params = searched(state.params)
        mean = flatten(params.values()).double().cpu().numpy()
        std = state.buffers["cem.std"].cpu().numpy()
        members, size = mean.shape
        noise = np.stack([ctx.rng("candidates", s, state).standard_normal((count, size)) for s in range(members)])
        candidates = (mean[:, None] + std[:, None] * noise).astype(np.float32)
        state, returns = ctx.play(state, unflatten_candidates(torch.from_numpy(candidates), params))

        new_mean, new_std = mean.copy(), std.copy()
        for member in np.flatnonzero(state.active):
            settings: Any = ctx.members[member].config.settings
            elite_count = max(1, round(settings.elite * count))
            elite = candidates[member, np.argsort(-returns[member], kind="stable")[:elite_count]].astype(np.float64)
            extra = settings.extra_std * max(0.0, 1.0 - 2.0 * state.progress[member])
            new_mean[member], new_std[member] = elite.mean(0), np.sqrt(elite.var(0) + extra**2)
        state = ctx.place(state, with_searched(torch.from_numpy(new_mean.astype(np.float32)), state.params))
        kept_std = torch.from_numpy(new_std).to(state.buffers["cem.std"].device)
        return state._replace(buffers=state.buffers | {"cem.std": kept_std})
