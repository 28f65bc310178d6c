"""Returns and advantages: pure functions over `[..., T, N]`.

Two kinds of end are kept apart: an episode that `terminated` is worth nothing afterwards, one that was
`truncated` merely stops being watched. Sums over an episode stop at either; rows that are not `valid` count as
zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["notebook", "reverse_scan", "reward_to_go", "total_return"]


def reverse_scan(x: Tensor, decay: Tensor) -> Tensor:
    """Solve the backward recursion on which every return rests, along T.

        yₜ = xₜ + dₜ yₜ₊₁,  y_T = 0

    It doubles its reach each round, so T steps take log2(T) tensor operations instead of T (Hillis & Steele 1986).

    Shapes: x, decay `[..., T, N]` -> `[..., T, N]`.
    """
    y, d = x.clone(), decay.clone()
    reach = 1
    while reach < x.shape[-2]:
        # each right-hand side is computed in full before it is stored
        y[..., :-reach, :] += d[..., :-reach, :] * y[..., reach:, :]
        d[..., :-reach, :] = d[..., :-reach, :] * d[..., reach:, :]
        reach *= 2
    return y


def reward_to_go(
    *, rewards: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, gamma: Tensor | float
) -> Tensor:
    """Discounted sum of the rewards from a step to the end of its episode.

        Gₜ = rₜ + γ Gₜ₊₁, stopping at the end of the episode or of the window

    Nothing is bootstrapped: after a truncation, or the edge of a window, the return is what was seen.

    Shapes: all `[..., T, N]`; `gamma` broadcasts. Source: Sutton & Barto (2018), eq. 3.9.
    """
    goes_on = valid & ~(terminated | truncated)
    return reverse_scan(torch.where(valid, rewards, 0.0), gamma * goes_on.to(rewards.dtype))


def total_return(
    *,
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    starts: Tensor,
    gamma: Tensor | float,
) -> Tensor:
    """The return of the whole episode, at each of its steps.

        R = Σₜ γᵗ rₜ

    Shapes: all `[..., T, N]`, `starts` may have T+1 steps; `gamma` broadcasts. An episode that began before the window
    counts from the window's first step. Source: Williams (1992), eq. 11.
    """
    to_go = reward_to_go(rewards=rewards, terminated=terminated, truncated=truncated, valid=valid, gamma=gamma)
    first = _first_step(starts[..., : rewards.shape[-2], :])
    return torch.where(valid, to_go.gather(-2, first), 0.0)


def notebook(
    *,
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    starts: Tensor,
    timestep: Tensor,
    gamma: Tensor | float,
) -> Tensor:
    """The weighting of a popular teaching notebook; a heuristic that favours early steps of long episodes.

    For an episode of length L, with bₜ = rₜ + t read backwards:

        wₜ = γᵗ b_{L-1-t} / maxₖ γᵏ b_{L-1-k}

    It is no return of any step (the reward is replaced by the time that was left), but on CartPole, where every
    reward is 1, it ranks the steps as a return does.

    Shapes: all `[..., T, N]`, `starts` may have T+1 steps.
    """
    horizon = rewards.shape[-2]
    time = torch.arange(horizon, device=rewards.device).unsqueeze(-1).expand(rewards.shape)
    first = _first_step(starts[..., :horizon, :])
    # the last step of t's episode, found from the back; an episode that is still open ends with its last valid row
    ends = valid & (terminated | truncated | ~_next_valid(valid))
    last = torch.where(ends, time, horizon).flip(-2).cummin(-2).values.flip(-2).clamp(max=horizon - 1)
    mirrored = (first + last - time).clamp(0, horizon - 1)
    boosted = torch.where(valid, rewards + timestep, 0.0)
    weighted = _powers(gamma, rewards).gather(-2, time - first) * boosted.gather(-2, mirrored)
    weighted = torch.where(valid, weighted, -torch.inf)
    largest = torch.full_like(weighted, -torch.inf).scatter_reduce(-2, first, weighted, "amax").gather(-2, first)
    return torch.where(valid & (largest != 0), weighted / largest, 0.0)


def _powers(gamma: Tensor | float, like: Tensor) -> Tensor:
    """γᵗ along T. Not by `**`, which rounds differently at the end of a vector: it would depend on the padding."""
    factors = gamma * torch.ones_like(like, dtype=torch.float64)
    factors[..., 0, :] = 1.0
    return factors.cumprod(-2).to(like.dtype)


def _first_step(starts: Tensor) -> Tensor:
    """Index of the first step of each step's episode, `[..., T, N]`; 0 for one that began before the window."""
    time = torch.arange(starts.shape[-2], device=starts.device).unsqueeze(-1)
    return torch.where(starts, time, 0).cummax(-2).values


def _next_valid(valid: Tensor) -> Tensor:
    return torch.cat([valid[..., 1:, :], torch.zeros_like(valid[..., :1, :])], dim=-2)
