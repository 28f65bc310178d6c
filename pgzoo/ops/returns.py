"""Returns and advantages: pure functions over `[..., T, N]`.

Two kinds of episode ends are distinguished: after `terminated` the value is 0, while `truncated` only means that the
rest of the episode was not observed. Sums over an episode stop at either, and at the end of the window. Rows that are
not `valid` count as zero, and their results are zero.

In the equations Vₜ is `values`, the critic's V(sₜ), and V(sₜ₊₁) is `next_values`, which at the end of an
episode is the value of its true final observation. Where an episode terminated (also if it was truncated in the same
step), V(sₜ₊₁) is 0; otherwise sums that stop are bootstrapped from it.

A function with one result computes returns; one with two computes advantages and critic targets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgzoo.ops.losses import weighted_sum

__all__ = [
    "gae",
    "leave_one_out",
    "n_step",
    "notebook",
    "retrace",
    "reverse_scan",
    "reward_to_go",
    "td_lambda",
    "total_return",
    "upgo",
    "v_trace",
]


PIECE = 2**16
"""Numbers in a piece of a large tensor: 256 kilobytes."""


def reverse_scan(x: Tensor, decay: Tensor) -> Tensor:
    """Solve the backward recursion that all returns use, along T.

        yₜ = xₜ + dₜ yₜ₊₁,  y_T = 0

    Each round doubles the number of steps summed, so T steps take log2(T) tensor operations (Hillis & Steele 1986).

    Large tensors are handled in pieces of their first axis, whose intermediate results stay in the processor's cache.

    Shapes: x, decay `[..., T, N]` -> `[..., T, N]`.
    """
    if x.ndim > 2 and len(x) > 1 and x.numel() > PIECE and x.is_cpu:
        rows = max(1, len(x) * PIECE // x.numel())
        pairs = zip(torch.split(x, rows), torch.split(decay.expand_as(x), rows), strict=True)
        return torch.cat([reverse_scan(*pair) for pair in pairs])
    y, d, steps, reach = x.clone(), decay, x.shape[-2], 1
    while reach < steps:
        left = steps - reach  # steps for which there is one `reach` later
        d = d[..., :left, :]
        y = torch.cat([y[..., :left, :] + d * y[..., reach:, :], y[..., left:, :]], -2)
        d = d[..., : max(0, left - reach), :] * d[..., reach:, :]
        reach *= 2
    return y


def reward_to_go(
    *,
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor | float,
    next_values: Tensor | None = None,
) -> Tensor:
    """Return the discounted sum of the rewards from a step to the end of its episode.

        Gₜ = rₜ + γ Gₜ₊₁, stopping at the end of the episode or of the window

    Without a critic there is no bootstrapping: at a truncation or the end of the window, only observed rewards count.
    With `next_values`, V(sₜ₊₁) replaces Gₜ₊₁ there.

    Shapes: all `[..., T, N]`; `gamma` broadcasts. Source: Sutton & Barto (2018), eq. 3.9; Pardo et al. (2018), on
    bootstrapping of partial episodes.
    """
    continues = _continues(terminated, truncated, valid)
    seen = torch.where(valid, rewards, 0.0)
    if next_values is not None:
        seen = torch.where(continues, seen, _td_target(rewards, next_values, terminated, valid, gamma))
    return reverse_scan(seen, gamma * continues.to(rewards.dtype))


def total_return(
    *,
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    starts: Tensor,
    gamma: Tensor | float,
    values: Tensor | None = None,
    next_values: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute the return of the whole episode, at each of its steps.

        R = Σₜ γᵗ rₜ
        A = R - V(s₀)

    With `next_values` it is bootstrapped like `reward_to_go`. With `values`, the result is the advantages A and, as the
    critic's targets, `reward_to_go`: V must be the return that remains, or bootstrapping from it would be wrong.

    Shapes: all `[..., T, N]`, `starts` may have T+1 steps; `gamma` broadcasts. An episode that started before the
    window counts from the window's first step. Source: Williams (1992), eq. 11.
    """
    to_go = reward_to_go(
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        gamma=gamma,
        next_values=next_values,
    )
    total, first = _episode_totals(to_go, starts, valid)
    if values is None:
        return total
    return torch.where(valid, total - values.gather(-2, first), 0.0), to_go


def leave_one_out(
    *,
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    starts: Tensor,
    gamma: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Compute the return of each episode minus the mean of the member's other episodes, at each of its steps.

        Aₑ = Rₑ - 1/(K-1) Σ_{j≠e} Rⱼ

    The K episodes are those of one member, over T and N, and R their total returns: a baseline that needs no critic
    and leaves the gradient unbiased, because it doesn't depend on the episode's own actions. For a single episode the
    baseline is 0 and the advantage its return.

    Shapes: all `[..., T, N]`, `starts` may have T+1 steps; `gamma` broadcasts. Returns advantages and, as the targets
    of a critic, `reward_to_go`. It needs whole episodes (attribute `whole_episodes`). Source: Kool et al. (2019);
    Ahmadian et al. (2024), as RLOO.
    """
    to_go = reward_to_go(rewards=rewards, terminated=terminated, truncated=truncated, valid=valid, gamma=gamma)
    returns, begins = _episode_totals(to_go, starts, valid)
    time = torch.arange(rewards.shape[-2], device=rewards.device).unsqueeze(-1)
    first = valid & (begins == time)
    # in double precision, sums and differences of float32 returns are exact: equal returns give advantages of exactly 0
    wide, first = returns.double(), first.double()
    total = weighted_sum(wide, first)[..., None, None]
    others = weighted_sum(torch.ones_like(first), first)[..., None, None] - 1
    advantages = (wide - (total - wide) / others.clamp(min=1.0)).to(returns.dtype)
    return torch.where(valid, advantages, 0.0), to_go


leave_one_out.whole_episodes = True  # type: ignore[attr-defined]


def n_step(
    *,
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor | float,
    n: int,
) -> Tensor:
    """Compute n-step returns: the rewards of n steps, then the critic's value.

        Gₜ⁽ⁿ⁾ = rₜ + γ Gₜ₊₁⁽ⁿ⁻¹⁾,  Gₜ⁽⁰⁾ = V(sₜ)

    If the episode or the window ends earlier, the sum ends there and is bootstrapped.

    Shapes: all `[..., T, N]`; `gamma` broadcasts; n >= 1. Source: Sutton & Barto (2018), eq. 7.1.
    """
    continues = _continues(terminated, truncated, valid)
    target = _td_target(rewards, next_values, terminated, valid, gamma)
    returns = target
    for _ in range(min(n, rewards.shape[-2]) - 1):
        returns = torch.where(continues, rewards + gamma * _next(returns), target)
    return returns


def td_lambda(
    *,
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor | float,
    lam: Tensor | float,
) -> Tensor:
    """Compute the λ-return: the n-step returns of all n, weighted by (1 - λ) λⁿ⁻¹.

        Gₜ = rₜ + γ ((1 - λ) V(sₜ₊₁) + λ Gₜ₊₁)

    It equals `gae` + V, but doesn't need V(sₜ).

    Shapes: all `[..., T, N]`; `gamma` and `lam` broadcast. Source: Sutton & Barto (2018), eq. 12.2.
    """
    continues = _continues(terminated, truncated, valid)
    target = _td_target(rewards, next_values, terminated, valid, gamma)
    x = torch.where(continues, rewards + gamma * (1 - lam) * next_values, target)
    return reverse_scan(x, gamma * lam * continues.to(rewards.dtype))


def gae(
    *,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor | float,
    lam: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Compute generalized advantage estimates: TD errors, summed with discount γλ.

        Aₜ = δₜ + γλ Aₜ₊₁,  δₜ = rₜ + γ V(sₜ₊₁) - V(sₜ)

    The sum stops at an end of either kind. With λ = 0 it is the TD error (low variance, biased by the critic), with
    λ = 1 the bootstrapped reward-to-go minus V (unbiased within an episode, high variance).

    Shapes: all `[..., T, N]`; `gamma` and `lam` broadcast. Returns advantages and A + V, the λ-return. Source: Schulman
    et al. (2016), eq. 16.
    """
    continues = _continues(terminated, truncated, valid)
    error = torch.where(valid, _td_target(rewards, next_values, terminated, valid, gamma) - values, 0.0)
    advantages = reverse_scan(error, gamma * lam * continues.to(rewards.dtype))
    return advantages, torch.where(valid, advantages + values, 0.0)


def v_trace(
    *,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    log_rhos: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor | float,
    lam: Tensor | float,
    rho_bar: Tensor | float,
    c_bar: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Compute the off-policy λ-return of a policy π from data collected by μ, with truncated importance weights.

        vₜ = V(sₜ) + ρₜ δₜ + γ cₜ (vₜ₊₁ - V(sₜ₊₁)),  δₜ = rₜ + γ V(sₜ₊₁) - V(sₜ)
        Aₜ = ρₜ (rₜ + γ vₜ₊₁ - V(sₜ))
        ρₜ = min(ρ̄, π/μ),  cₜ = λ min(c̄, π/μ)

    ρ̄ determines which policy's value function is learned (that of π if ρ̄ never clips), c̄ how quickly. vₜ₊₁ is V(sₜ₊₁)
    at the end of the sum. On-policy, with ρ̄, c̄ >= 1, v is the λ-return. A includes the policy gradient's weight ρₜ.

    Shapes: all `[..., T, N]`, `log_rhos` is log π(aₜ|sₜ) - log μ(aₜ|sₜ); `gamma`, `lam`, `rho_bar` and `c_bar`
    broadcast. Returns advantages and v. Source: Espeholt et al. (2018), section 4.1 with remarks 1 and 2, section 4.2.
    """
    continues = _continues(terminated, truncated, valid)
    ratio = _ratio(log_rhos, valid)
    rho = ratio.clamp(max=rho_bar)
    c = lam * ratio.clamp(max=c_bar)
    target = _td_target(rewards, next_values, terminated, valid, gamma)
    error = rho * (target - values)
    returns = torch.where(valid, values + reverse_scan(error, gamma * c * continues.to(rewards.dtype)), 0.0)
    ahead = torch.where(continues, rewards + gamma * _next(returns), target)
    return torch.where(valid, rho * (ahead - values), 0.0), returns


def retrace(
    *,
    rewards: Tensor,
    q_values: Tensor,
    next_values: Tensor,
    log_rhos: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor | float,
    lam: Tensor | float,
) -> Tensor:
    """Compute the off-policy return for an action-value function Q of a policy π, from data collected by μ.

        Gₜ = Q(sₜ, aₜ) + δₜ + γ cₜ₊₁ (Gₜ₊₁ - Q(sₜ₊₁, aₜ₊₁)),  δₜ = rₜ + γ V(sₜ₊₁) - Q(sₜ, aₜ),  cₜ = λ min(1, π/μ)

    It is not registered as an estimator, because no built-in algorithm learns Q from the data of another policy. An
    algorithm that does can call it.

    V(sₜ₊₁), the `next_values`, is the mean of Q(sₜ₊₁, ·) under π. As for every return, the advantage is G - V(sₜ), with
    the mean of Q(sₜ, ·) under π for V(sₜ).

    Shapes: all `[..., T, N]`, `log_rhos` is log π(aₜ|sₜ) - log μ(aₜ|sₜ); `gamma` and `lam` broadcast. Source: Munos et
    al. (2016), eq. 3.
    """
    continues = _continues(terminated, truncated, valid)
    c = lam * _ratio(log_rhos, valid).clamp(max=1.0)
    error = _td_target(rewards, next_values, terminated, valid, gamma) - q_values
    correction = reverse_scan(error, gamma * _next(c) * continues.to(rewards.dtype))
    return torch.where(valid, q_values + correction, 0.0)


def upgo(
    *,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: Tensor | float,
    lam: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Compute the upgoing return: rewards as long as they exceed the critic's estimate, then the critic's value.

        Gₜ = rₜ + γ (Gₜ₊₁ if rₜ₊₁ + γ V(sₜ₊₂) >= V(sₜ₊₁) else V(sₜ₊₁))

    The policy learns from good trajectories without being penalized for later mistakes. This estimate is optimistic on
    purpose, so the critic learns from the λ-return instead.

    Shapes: all `[..., T, N]`; `gamma` and `lam` broadcast. Returns G - V and `td_lambda`. Source: Vinyals et al.
    (2019), methods.
    """
    target = _td_target(rewards, next_values, terminated, valid, gamma)
    goes_up = _continues(terminated, truncated, valid) & _next(target >= values)
    upgoing = reverse_scan(torch.where(goes_up, rewards, target), gamma * goes_up.to(rewards.dtype))
    returns = td_lambda(
        rewards=rewards,
        next_values=next_values,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        gamma=gamma,
        lam=lam,
    )
    return torch.where(valid, upgoing - values, 0.0), returns


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
    """Compute the weights of a popular teaching notebook; a heuristic that favors early steps of long episodes.

    For an episode of length L, with bₜ = rₜ + t in reverse order:

        wₜ = γᵗ b_{L-1-t} / maxₖ γᵏ b_{L-1-k}

    This is not a return (it replaces the reward by the time left), but on CartPole, where every reward is 1, it ranks
    the steps as a return does.

    Shapes: all `[..., T, N]`, `starts` may have T+1 steps.
    """
    horizon = rewards.shape[-2]
    time = torch.arange(horizon, device=rewards.device).unsqueeze(-1).expand(rewards.shape)
    first = _first_step(starts[..., :horizon, :])
    # the last step of t's episode, found from the back; an unfinished episode ends with its last valid row
    ends = valid & ~_continues(terminated, truncated, valid)
    last = torch.where(ends, time, horizon).flip(-2).cummin(-2).values.flip(-2).clamp(max=horizon - 1)
    mirrored = (first + last - time).clamp(0, horizon - 1)
    boosted = torch.where(valid, rewards + timestep, 0.0)
    weighted = _powers(gamma, rewards).gather(-2, time - first) * boosted.gather(-2, mirrored)
    weighted = torch.where(valid, weighted, -torch.inf)
    largest = torch.full_like(weighted, -torch.inf).scatter_reduce(-2, first, weighted, "amax").gather(-2, first)
    return torch.where(valid & (largest != 0), weighted / largest, 0.0)


def _powers(gamma: Tensor | float, like: Tensor) -> Tensor:
    """Return γᵗ along T. Not by `**`, which rounds differently depending on the position in a tensor."""
    factors = gamma * torch.ones_like(like, dtype=torch.float64)
    factors[..., 0, :] = 1.0
    return factors.cumprod(-2).to(like.dtype)


def _first_step(starts: Tensor) -> Tensor:
    """Return the index of the first step of each step's episode, `[..., T, N]`; 0 if it started before the window."""
    time = torch.arange(starts.shape[-2], device=starts.device).unsqueeze(-1)
    return torch.where(starts, time, 0).cummax(-2).values


def _episode_totals(to_go: Tensor, starts: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the reward-to-go of the first step of each step's episode, and the index of that step, `[..., T, N]`."""
    first = _first_step(starts[..., : valid.shape[-2], :])
    return torch.where(valid, to_go.gather(-2, first), 0.0), first


def _continues(terminated: Tensor, truncated: Tensor, valid: Tensor) -> Tensor:
    """Return whether a step's successor belongs to the same episode and the same window."""
    return valid & ~(terminated | truncated) & _next(valid)


def _next(x: Tensor) -> Tensor:
    """Return the value of x one step later; zero after the last."""
    return torch.cat([x[..., 1:, :], torch.zeros_like(x[..., :1, :])], dim=-2)


def _td_target(
    rewards: Tensor, next_values: Tensor, terminated: Tensor, valid: Tensor, gamma: Tensor | float
) -> Tensor:
    """Return one reward plus the critic's value: rₜ + γ V(sₜ₊₁)."""
    return torch.where(valid, rewards + gamma * torch.where(terminated, 0.0, next_values), 0.0)


def _ratio(log_rhos: Tensor, valid: Tensor) -> Tensor:
    """Return π/μ; 1 for steps that are not valid."""
    return torch.where(valid, log_rhos, 0.0).exp()
