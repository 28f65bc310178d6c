"""The checks of the distributions of actions that a policy returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from pgzoo.ops.members import map_leaves
from pgzoo.testing.policy_cases import MEMBERS, ROWS, Case, policy_cases
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, checks_by_name
from pgzoo.types import Array, Output

__all__ = ["CHECKS"]

DRAWN_ROWS, DRAWS, DRAWS_OF_IMAGES = 2, 600, 200
"""In how many rows actions are drawn to compare them with the distribution, and how many in each."""

FREQUENCY_MARGIN = 0.01
"""By how much the frequency of an action may differ from its probability, besides six standard errors."""

ENTROPY_MARGIN = 0.3
"""By how much an entropy may differ from its estimate from draws, besides six standard errors; some are estimates."""


def log_probabilities(target: CheckTarget) -> None:
    """In a finite action space, the probabilities of all actions sum to 1."""
    found = False
    for case, _, _, log_probs in _finite(target):
        found = True
        total = log_probs.exp().sum(0)
        worst = total.flatten()[(total - 1).abs().argmax()]
        target.expect(
            (total - 1).abs().max() < 1e-3,
            f"returns log-probabilities of probabilities that sum to {worst:.4g} over all actions, for {case.where}",
            "Normalize them: logits.log_softmax(-1) for one choice; several choices are added.",
        )
    if not found:
        raise NotApplicable("it supports no finite action space, or stores actions in a form of its own")


def entropy(target: CheckTarget) -> None:
    """The entropy is the mean of minus the log-probability: over all actions, or within a margin over draws."""
    advice = (
        "The entropy is -sum(p * log p) over all actions of the row, in nats, for a Box the differential entropy of "
        "what `draw` draws and `log_prob` returns the density of."
    )
    for case, _, output, log_probs in _finite(target):
        own = output.dist.entropy()
        wanted = -(log_probs.exp() * log_probs).nan_to_num().sum(0)
        target.expect(
            torch.allclose(own, wanted, rtol=1e-3, atol=1e-3),
            f"returns the entropy {own.flatten()[0]:.4g} for probabilities whose entropy is {wanted.flatten()[0]:.4g}, "
            f"for {case.where}",
            advice,
        )
    for case in policy_cases(target):
        if not isinstance(case.spec.action_space, Box):
            continue
        case = case.moved()
        output, drawn = case.apply(case.inputs()), np.moveaxis(_drawn(case), 2, 0)
        rest = np.zeros((MEMBERS, ROWS - DRAWN_ROWS, *drawn.shape[3:]), drawn.dtype)  # log_prob takes all rows
        minus = -torch.stack([case.log_prob(output, np.concatenate([one, rest], 1)[:, None]) for one in drawn])
        minus = minus[..., :DRAWN_ROWS]
        own, wanted = output.dist.entropy()[..., :DRAWN_ROWS], minus.mean(0)
        error = (own - wanted).abs() - 6 * minus.std(0) / len(drawn) ** 0.5
        worst = int(error.argmax())
        target.expect(
            error.max() < ENTROPY_MARGIN,
            f"returns the entropy {own.flatten()[worst]:.4g}, but the mean of -log_prob over {len(drawn)} draws is "
            f"{wanted.flatten()[worst]:.4g}, for {case.where}",
            advice,
        )


def draws(target: CheckTarget) -> None:
    """In a finite action space, actions are drawn as often as their probabilities say."""
    found = False
    for case, every, _, log_probs in _finite(target):
        found, drawn = True, _drawn(case)
        count = drawn.shape[2]
        same = drawn[:, :, :, None] == every
        frequency = same.reshape(*same.shape[:4], -1).all(-1).mean(2)  # [S, B, K]
        wanted = np.moveaxis(log_probs.exp()[:, :, 0, :DRAWN_ROWS].numpy(), 0, -1)
        error = np.abs(frequency - wanted) - 6 * np.sqrt(np.maximum(wanted * (1 - wanted), 0) / count)
        worst = np.unravel_index(error.argmax(), error.shape)
        target.expect(
            error.max() < FREQUENCY_MARGIN,
            f"draws an action in {frequency[worst]:.0%} of {count} draws whose probability is {wanted[worst]:.0%}, for "
            f"{case.where}",
            "Draw from the distribution of which log_prob returns the log-probabilities, else gradients are wrong. For "
            "uniform noise u, the action is the number of cumulative probabilities below u; adding noise to logits "
            "takes Gumbel noise, -log(-log(u)); pgzoo's Categorical takes logistic noise for two actions, uniform for "
            "more.",
        )
    if not found:
        raise NotApplicable("it supports no finite action space, or stores actions in a form of its own")


def kl(target: CheckTarget) -> None:
    """`kl` is `[S, T, B]`, 0 from a distribution to itself, never negative, and Σ p log(p/q) in a finite space."""
    advice = (
        "dist.kl(other) is KL(dist || other), the mean of log p - log q under dist, summed over action dimensions; "
        "algorithms with a KL limit or penalty call it."
    )
    for case in policy_cases(target):
        p: Any = case.moved().apply(case.inputs()).dist
        q = case.apply(case.inputs()).dist
        target.expect(
            callable(getattr(p, "kl", None)), f"has distributions without a method kl, for {case.where}", advice
        )
        with torch.no_grad(), target.errors_fail_check(f"in dist.kl, for {case.where}", advice):
            own, other = p.kl(p), p.kl(q)
        shape = MEMBERS, 1, ROWS
        for value in (own, other):
            target.expect(
                isinstance(value, Tensor) and tuple(value.shape) == shape,
                f"returns a kl of shape {list(getattr(value, 'shape', ()))}, expected {list(shape)}, for {case.where}",
                advice,
            )
        target.expect(
            own.abs().max() < 1e-3, f"returns a kl of {own.abs().max():.3g} from itself, for {case.where}", advice
        )
        target.expect((other > -1e-3).all(), f"returns a negative kl, {other.min():.3g}, for {case.where}", advice)
        if (every := _every_action(case)) is not None:
            log_p, log_q = (_log_probs(one, one.apply(one.inputs()), every) for one in (case.moved(), case))
            wanted = (log_p.exp() * (log_p - log_q)).nan_to_num().sum(0)
            target.expect(
                torch.allclose(other, wanted, rtol=1e-3, atol=1e-4),
                f"returns the kl {other.flatten()[0]:.4g} where Σ p log(p/q) is {wanted.flatten()[0]:.4g}, for "
                f"{case.where}",
                advice,
            )


def mapped(target: CheckTarget) -> None:
    """`map` of a distribution applies a function to each of its tensors, and returns such a distribution."""
    advice = (
        "dist.map(fn) returns a distribution with fn(x) in place of each of its tensors x, all [S, T, B, ...]: runs "
        "select rows with it, and keep the distribution before an update without its gradient."
    )
    for case in policy_cases(target):
        inputs, actions = case.inputs(), torch.from_numpy(case.act(case.seen(), case.noise())[:, None].copy())
        params = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in case.moved().params.items()}
        dist: Any = case.policy.apply(params, inputs._replace(obs=inputs.obs.clone())).dist
        target.expect(callable(getattr(dist, "map", None)), f"has distributions without map, for {case.where}", advice)
        with target.errors_fail_check(f"in dist.map, for {case.where}", advice):
            part, fixed = dist.map(lambda x: x[:, :, 1:3]), dist.map(lambda x: x.detach())
            whole, some = (dist.log_prob(actions), dist.entropy()), (part.log_prob(actions[:, :, 1:3]), part.entropy())
            traced = fixed.log_prob(actions).requires_grad or fixed.entropy().requires_grad
        same = all(
            one.shape == other[:, :, 1:3].shape and torch.allclose(one, other[:, :, 1:3], rtol=1e-4, atol=1e-5)
            for one, other in zip(some, whole, strict=True)
        )
        target.expect(same, f"has distributions whose map returns another distribution, for {case.where}", advice)
        target.expect(
            not traced, f"has distributions that keep their gradient after map(Tensor.detach), for {case.where}", advice
        )


CHECKS: Mapping[str, Check] = checks_by_name((log_probabilities, entropy, draws, kl, mapped))


def _every_action(case: Case) -> Array | None:
    """Return all actions `[K, *A]` of a finite space as policies store them, counted from 0.

    None for a Box, and if the policy stores actions in a form of its own.
    """
    space, acted = case.spec.action_space, case.act(case.seen(64), case.noise(64))
    if isinstance(space, Discrete):
        every = np.arange(space.n)
    elif isinstance(space, MultiDiscrete | MultiBinary):
        every = np.array(list(np.ndindex(*(space.nvec if isinstance(space, MultiDiscrete) else [2] * space.shape[0]))))
    else:
        return None
    usual = acted.shape[2:] == every.shape[1:] and bool((acted >= 0).all() and (acted <= every.max(0)).all())
    return every.astype(acted.dtype) if usual else None


def _log_probs(case: Case, output: Output, every: Array) -> Tensor:
    """Return the log-probability of each action in each row, `[K, S, T, B]`."""
    shape = MEMBERS, 1, ROWS
    return torch.stack([case.log_prob(output, np.broadcast_to(one, (*shape, *one.shape)).copy()) for one in every])


def _finite(target: CheckTarget) -> Iterator[tuple[Case, Array, Output, Tensor]]:
    """Yield the policy on finite action spaces, all actions, its output for a batch, and their log-probabilities."""
    for case in policy_cases(target):
        if (every := _every_action(case)) is not None:
            moved = case.moved()
            output = moved.apply(moved.inputs())
            yield moved, every, output, _log_probs(moved, output, every)


def _drawn(case: Case) -> Array:
    """Return many actions for each of the first observations of `case.inputs()`, `[S, rows, draws, *A]`."""
    image = case.spec.observation_space.dtype == np.uint8
    count = DRAWS_OF_IMAGES if image else DRAWS
    seen = map_leaves(lambda leaf: np.repeat(leaf[:, :DRAWN_ROWS], count, 1), case.seen())
    acted = case.act(seen, case.noise(DRAWN_ROWS * count))
    return acted.reshape(MEMBERS, DRAWN_ROWS, count, *acted.shape[2:])
