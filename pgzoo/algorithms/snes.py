"""SNES: separable natural evolution strategies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from pgzoo.config import SearchConfig, Static
from pgzoo.errors import UnfitError
from pgzoo.ops.optim import count_parameters, flatten, searched, unflatten_candidates, with_searched
from pgzoo.protocols import UpdateContext
from pgzoo.types import AlgorithmState, Episodes, TrainState


class SNESConfig(SearchConfig):
    """Settings of `snes`."""

    init_std: Annotated[
        float, Static, Field(gt=0, description="standard deviation of the first candidates, for each parameter")
    ] = 1.0
    mean_rate: Annotated[float, Field(gt=0, description="learning rate of the mean")] = 1.0
    std_rate: Annotated[
        float | None,
        Field(gt=0, description="learning rate of the standard deviations; default: (3 + ln P) / (5 sqrt P)"),
    ] = None


class SNES:
    """SNES: natural-gradient ascent on the mean and the standard deviations of a Gaussian over policies.

        θₖ = μ + σ sₖ,  sₖ ~ N(0, I)
        μ ← μ + η_μ σ Σₖ uₖ sₖ
        σ ← σ exp(½ η_σ Σₖ uₖ (sₖ² - 1))

    The utility uₖ of a candidate depends only on the rank of its return among the λ candidates:

        uₖ = max(0, ln(λ/2 + 1) - ln k) / Σⱼ max(0, ln(λ/2 + 1) - ln j) - 1/λ,  k = 1 for the largest return

    Candidates with equal returns share the mean of their utilities. The score of a candidate is the return of one
    episode with its most likely actions; every environment plays one candidate, so λ is `num_envs`. The P parameters
    are independent, so an update takes O(P) operations. The search optimizes the most likely actions, so the greedy
    evaluation is the relevant one. The standard deviation of Box actions keeps its initial value.

    Source: Schaul, Glasmachers & Schmidhuber (2011), High dimensions and heavy tails for natural evolution strategies,
        section 3; utilities and rates: Wierstra et al. (2014), Natural evolution strategies, section 3.1 and table 1.
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
        if ctx.num_envs < 2:
            raise UnfitError('Algorithm "snes" ranks one candidate per environment. Use --num-envs 2 or more.')
        size = count_parameters(ctx.policy.init(np.random.default_rng(0)), "snes")
        return AlgorithmState({}, {"snes.std": torch.full((size,), ctx.settings.init_std, dtype=torch.float64)})

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        """Compute one generation per round."""
        while ctx.running():
            ctx.state = self.next_generation(ctx, ctx.state)
            yield

    def next_generation(self, ctx: UpdateContext, state: TrainState) -> TrainState:
        """Sample candidates, play an episode with each, and move the Gaussian along the natural gradient."""
        count = ctx.num_envs
        params = searched(state.params)
        mean = flatten(params.values()).double().cpu().numpy()
        std = state.buffers["snes.std"].cpu().numpy()
        members, size = mean.shape
        samples = np.stack([ctx.rng("candidates", s, state).standard_normal((count, size)) for s in range(members)])
        candidates = (mean[:, None] + std[:, None] * samples).astype(np.float32)
        state, returns = ctx.play(state, unflatten_candidates(torch.from_numpy(candidates), params))

        new_mean, new_std = mean.copy(), std.copy()
        for member in np.flatnonzero(state.active & np.isfinite(returns).all(1)):
            settings: Any = ctx.members[member].config.settings
            rate = settings.std_rate or (3 + math.log(size)) / (5 * math.sqrt(size))
            utility, s = utilities(returns[member]), samples[member]
            new_mean[member] += settings.mean_rate * std[member] * (utility @ s)
            new_std[member] *= np.exp(0.5 * rate * (utility @ (s * s - 1)))
        state = ctx.place(state, with_searched(torch.from_numpy(new_mean.astype(np.float32)), state.params))
        kept_std = torch.from_numpy(new_std).to(state.buffers["snes.std"].device)
        return state._replace(buffers=state.buffers | {"snes.std": kept_std})


def utilities(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the utility of each candidate, `[N] -> [N]`: they sum to 0, and equal returns have equal utilities."""
    count = len(returns)
    by_rank = np.maximum(0.0, math.log(count / 2 + 1) - np.log(np.arange(1, count + 1)))
    by_rank = by_rank / by_rank.sum() - 1 / count
    _, group, sizes = np.unique(-returns, return_inverse=True, return_counts=True)
    shared = np.add.reduceat(by_rank, np.cumsum(sizes) - sizes) / sizes
    return np.asarray(shared[group])
