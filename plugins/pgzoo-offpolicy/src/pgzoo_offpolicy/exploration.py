"""The noise that DDPG, TD3 and SAC explore with: independent between steps, or correlated over time."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import erf
from torch import Tensor

from pgzoo.config import Static
from pgzoo.protocols import UpdateContext
from pgzoo.types import Params, TrainState
from pgzoo_offpolicy.loop import OffPolicyConfig, action_size

__all__ = ["ContinuousConfig", "exploration_noise", "init_exploration", "uniform_actions"]

LAST = "exploration.last"
"""Name of the buffer `[S, N, A]` with the noise of the last step, if the noise is correlated."""

NEAR_ONE = 1 - 1e-6
"""Maximum absolute value of uniform actions in [-1, 1], so that their inverse tanh is finite."""


class ContinuousConfig(OffPolicyConfig):
    """Settings of algorithms for continuous actions."""

    noise_correlation: Annotated[
        float,
        Static,
        Field(
            ge=0,
            lt=1,
            description="correlation of the exploration noise of consecutive steps (Ornstein-Uhlenbeck process); "
            "0: independent noise",
        ),
    ] = 0.0


def init_exploration(ctx: UpdateContext, rng: np.random.Generator) -> Params:
    """Return the buffers of one member: the noise before the first step, if the noise is correlated."""
    if not ctx.settings.noise_correlation:
        return {}
    return {LAST: torch.from_numpy(rng.standard_normal((ctx.num_envs, action_size(ctx)), np.float32))}


def exploration_noise(ctx: UpdateContext, state: TrainState) -> tuple[TrainState, Tensor]:
    """Return the state, and standard normal noise `[S, T, N, A]` for the rollout of this update.

    With a correlation ρ, x ← ρ x + √(1 - ρ²) ε, which is the Ornstein-Uhlenbeck process at discrete times: the noise of
    every single step is standard normal, whatever ρ. It continues from update to update, also where an episode ends.
    """
    fresh = ctx.noise("exploration", state, (ctx.settings.rollout_steps, ctx.num_envs, action_size(ctx)))
    correlation = ctx.settings.noise_correlation
    if not correlation:
        return state, fresh
    last, steps = state.buffers[LAST], []
    for step in fresh.unbind(1):
        last = correlation * last + math.sqrt(1 - correlation**2) * step
        steps.append(last)
    return state._replace(buffers=state.buffers | {LAST: last}), torch.stack(steps, 1)


def uniform_actions(noise: Tensor) -> Tensor:
    """Return x such that tanh(x) is uniform in [-1, 1] for standard normal `noise`, of the same shape."""
    uniform: NDArray[Any] = erf(noise.cpu().numpy() * np.float32(2**-0.5))
    u = torch.from_numpy(uniform.clip(-NEAR_ONE, NEAR_ONE).astype(np.float32)).to(noise.device)
    return 0.5 * torch.log((1 + u) / (1 - u))
