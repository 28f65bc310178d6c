"""The checks of return estimators."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgzoo.config import ComponentConfig
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, bitwise_equal, checks_by_name
from pgzoo.training.plan import checked_needs, info_keys

__all__ = ["CHECKS"]

World = dict[str, Any]
"""The arguments of an estimator: tensors `[S, T, N]`, `starts` with T+1 steps, and `gamma [S, 1, 1]`."""

FLOATS = ("rewards", "values", "next_values", "q_values", "log_rhos", "info")
KINDS = {"terminated": (True, False), "truncated": (False, True), "terminated and truncated": (True, True)}
GARBAGE = -123.25


def keywords(target: CheckTarget) -> None:
    """All arguments are keyword-only and known to pgzoo, as are its needs; every setting is a described argument."""
    parameters = inspect.signature(target.component.load()).parameters.values()
    loose = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    target.expect(not loose, f"takes {', '.join(loose)} as positional arguments", "Begin the signature with `*`.")
    with target.errors_fail_check("to declare its needs", "An estimator may need values of the environment's info."):
        checked_needs(_needs(target), f'estimator "{target.component.name}"', ())
    known = {*_world(), *_settings(target)} - (set() if _info_keys(target) else {"info"})
    unknown = [p.name for p in parameters if p.default is p.empty and p.name not in known]
    target.expect(
        not unknown,
        f"requires {', '.join(unknown)}, which no run passes",
        f"A run passes: {', '.join(sorted(known))}; give other arguments a default.",
    )
    if model := target.component.load_config():
        target.expect_described(model, ComponentConfig)
    unused = sorted(set(_settings(target)) - {p.name for p in parameters})
    target.expect(not unused, f"has settings that aren't arguments: {', '.join(unused)}", "Remove them.")


def shape(target: CheckTarget) -> None:
    """The result, or each of a pair, has shape `[S, T, N]`, even if one of these is 1."""
    for sizes in ((2, 9, 3), (1, 9, 3), (2, 1, 3), (2, 9, 1)):
        for result in _estimates(target, _world(*sizes)):
            target.expect(
                tuple(result.shape) == sizes and result.dtype == torch.float32,
                f"returns {result.dtype} {list(result.shape)} for rewards of float32 {list(sizes)}",
                "Return one tensor, or a pair, of the shape and type of the rewards.",
            )


def finite(target: CheckTarget) -> None:
    """Results are finite, even if all rewards are 0, and for gamma 0 and 1."""
    for change in ({}, {"rewards": 0.0}, {"gamma": 0.0}, {"gamma": 1.0}, {"values": 0.0, "next_values": 0.0}):
        world = _world(2, 17, 3)
        world |= {name: torch.full_like(world[name], value) for name, value in change.items()}
        where = " for " + ", ".join(f"{name} = {value:g}" for name, value in change.items()) if change else ""
        target.expect(
            all(torch.isfinite(result).all() for result in _estimates(target, world)),
            f"returns numbers that are not finite{where}",
            "Avoid divisions by 0.",
        )


def zeros(target: CheckTarget) -> None:
    """The result is exactly 0 in rows that are not valid."""
    world = _world(2, 17, 3)
    target.expect(
        all((result[~world["valid"]] == 0).all() for result in _estimates(target, world)),
        "returns something other than 0 for rows that are not valid",
        "End with torch.where(valid, result, 0.0).",
    )


def episodes_independent(target: CheckTarget) -> None:
    """Rewards and values of one episode, or of a reset step, don't change the estimates of another episode.

    An estimator of whole episodes (`whole_episodes`) may compare episodes in its advantages, but not in its returns.
    """
    for kind, (terminated, truncated) in KINDS.items():
        world = _two_episodes(terminated, truncated)
        for what, rows in {"the next episode": slice(5, None), "the episode before": slice(0, 4)}.items():
            other = _with_changed_rows(world, rows)
            here = slice(0, 4) if rows.start else slice(5, None)
            for before, after in zip(_own(target, world), _own(target, other), strict=True):
                target.expect(
                    bitwise_equal(before[:, here].contiguous(), after[:, here].contiguous()),
                    f"lets {what} change the estimates across the end of an episode ({kind})",
                    "Rewards of another episode aren't consequences of this one's actions. Stop sums at terminated | "
                    "truncated, and where the next row is not valid.",
                )


def bootstrap(target: CheckTarget) -> None:
    """The value after a terminated step isn't used, even if the episode is truncated in the same step."""
    parameters = inspect.signature(target.component.load()).parameters
    if "next_values" not in parameters:
        raise NotApplicable("it takes no next_values")
    for kind in ("terminated", "terminated and truncated"):
        world = _two_episodes(*KINDS[kind])
        other = world | {"next_values": torch.where(world["terminated"], GARBAGE, world["next_values"])}
        for before, after in zip(_estimates(target, world), _estimates(target, other), strict=True):
            target.expect(
                bitwise_equal(before, after),
                f"bootstraps where an episode {kind}",
                "Nothing follows a terminal state, so its value is 0. Use next_values only where not terminated.",
            )


def truncation(target: CheckTarget) -> None:
    """The value after a truncated step is used, because the episode would have continued."""
    if "next_values" not in inspect.signature(target.component.load()).parameters:
        raise NotApplicable("it takes no next_values")
    world = _two_episodes(*KINDS["truncated"])
    other = world | {"next_values": world["next_values"] + 1.0}
    for before, after in zip(next(_variants(target, world)), next(_variants(target, other)), strict=True):
        target.expect(
            (before[:, 3] != after[:, 3]).all(),
            "doesn't bootstrap where an episode was truncated",
            "A time limit isn't a failure: taking the rest of the return as 0 there punishes states for being late. "
            "Add gamma * next_values in every step that isn't terminated; terminated and truncated are two flags.",
        )


def window_edge(target: CheckTarget) -> None:
    """At the end of a window, an unfinished episode is bootstrapped like a truncated one: by gamma * next_values."""
    if "next_values" not in inspect.signature(target.component.load()).parameters:
        raise NotApplicable("it takes no next_values")
    valid = np.ones((2, 11, 3), np.bool_)
    valid[:, [4, 9]] = False
    terminated = np.zeros_like(valid)
    terminated[:, [3, 8]] = True
    # the last episode has one step, so that returns from its start are discounted once, too
    world = _filled(np.random.default_rng(4), valid=valid, terminated=terminated, truncated=np.zeros_like(valid))

    def last(**changes: Tensor) -> list[Tensor]:
        return [part[:, -1] for part in next(_variants(target, world | changes))]

    flagged = world["truncated"].clone()
    flagged[:, -1] = True
    advice = (
        "The last step of a window is followed by more of the same episode, worth gamma * next_values. Treat it like "
        "every step that isn't terminated."
    )
    for open_, cut in zip(last(), last(truncated=flagged), strict=True):
        target.expect(
            torch.allclose(open_, cut, rtol=1e-4, atol=1e-5),
            "estimates the last step of a window differently if the episode is truncated there",
            advice,
        )
    effects = []
    for gamma in (world["gamma"], world["gamma"] / 2):
        low, high = last(gamma=gamma), last(gamma=gamma, next_values=world["next_values"] + 1.0)
        effects.append([b - a for a, b in zip(low, high, strict=True)])
    for whole, half in zip(*effects, strict=True):
        target.expect(
            (whole.abs() > 1e-6).all() and torch.allclose(whole, 2 * half, rtol=1e-3, atol=1e-5),
            "doesn't discount the value after the last step of a window by gamma"
            if (whole.abs() > 1e-6).all()
            else "doesn't bootstrap at the end of a window",
            advice,
        )


def rewards(target: CheckTarget) -> None:
    """Higher rewards in an episode raise its estimates."""
    world = _two_episodes(*KINDS["terminated"])
    raised = world["rewards"].clone()
    raised[:, :4, 0] += 1.0
    other = world | {"rewards": raised}
    for before, after in zip(_estimates(target, world), _estimates(target, other), strict=True):
        target.expect(
            (after[:, :4, 0].sum(1) > before[:, :4, 0].sum(1)).all(),
            "doesn't estimate more if all rewards of an episode are higher",
            "Losses raise the probability of actions with high estimates. Look for a wrong sign, and for rewards that "
            "aren't used.",
        )


def gamma(target: CheckTarget) -> None:
    """The estimates depend on gamma, the discount factor of the run."""
    world = _world(2, 17, 3)
    other = world | {"gamma": world["gamma"] / 2}
    target.expect(
        not all(map(bitwise_equal, _estimates(target, world), _estimates(target, other))),
        "ignores gamma",
        "The run's --gamma would have no effect, and sweeps over it would compare equal runs. Take gamma as an "
        "argument and discount by it; an estimator that is undiscounted on purpose declares this exception.",
    )


def info_values(target: CheckTarget) -> None:
    """The estimates depend on each value of the environment's info that it needs ("info:KEY")."""
    if not (keys := _info_keys(target)):
        raise NotApplicable("it needs no values of the environment's info")
    world = _world(2, 17, 3)
    for key in keys:
        other = world | {f"info:{key}": world["info"] + 10.0}
        target.expect(
            not all(map(bitwise_equal, _estimates(target, world), _estimates(target, other))),
            f'needs "info:{key}" and returns the same whatever this value is',
            f'Environments without it are refused for nothing. Use info["{key}"] [S, T, N], or remove it from `needs`.',
        )


def padding(target: CheckTarget) -> None:
    """Rows that are not valid change no bit of the estimates, whatever they contain and however many there are."""
    world = _world(2, 17, 3)
    for what, other in {
        "more of them": _padded(world, 6),
        "other contents": _with_garbage_in_invalid_rows(world),
    }.items():
        for before, after in zip(_estimates(target, world), _estimates(target, other), strict=True):
            target.expect(
                bitwise_equal(before, after[:, :17].contiguous()),
                f"returns different numbers for other rows that are not valid ({what})",
                "Sum by running sums (pgzoo.ops.losses, pgzoo.ops.returns.reverse_scan), and count valid rows only.",
            )


def members(target: CheckTarget) -> None:
    """The estimates of one seed are bit-equal alone and in a batch with other seeds."""
    world = _world(5, 17, 3)
    alone = {k: v[3:4].contiguous() if isinstance(v, Tensor) else v for k, v in world.items()}
    for one, many in zip(_estimates(target, alone), _estimates(target, world), strict=True):
        target.expect(
            bitwise_equal(one, many[3:4].contiguous()),
            "returns different numbers for a seed alone and in a batch with others",
            "Reduce over (-2, -1) at most, never over members.",
        )


def pure(target: CheckTarget) -> None:
    """It doesn't change its arguments, and returns the same when called again."""
    world = _world(2, 17, 3)
    before = {k: v.clone() for k, v in world.items()}
    first, again = (tuple(part for results in _variants(target, w) for part in results) for w in (world, world))
    changed = [name for name, value in world.items() if not bitwise_equal(value, before[name])]
    target.expect(not changed, f"writes into its arguments: {', '.join(changed)}", "Work on copies.")
    target.expect(
        all(map(bitwise_equal, first, again)),
        "returns different numbers when called again",
        "The result may depend only on the arguments.",
    )


CHECKS: Mapping[str, Check] = checks_by_name(
    (
        keywords,
        shape,
        finite,
        zeros,
        rewards,
        gamma,
        episodes_independent,
        bootstrap,
        truncation,
        window_edge,
        info_values,
        padding,
        members,
        pure,
    )
)


def _needs(target: CheckTarget) -> Any:
    return getattr(target.component.load(), "needs", ())


def _info_keys(target: CheckTarget) -> tuple[str, ...]:
    needs = _needs(target)
    return info_keys((needs,) if isinstance(needs, str) else needs)


def _settings(target: CheckTarget) -> dict[str, Any]:
    model = target.component.load_config()
    return {} if model is None else dict(model())


def _estimates(target: CheckTarget, world: World) -> tuple[Tensor, ...]:
    """Return the estimates with all arguments that it takes, and again with the required ones only."""
    copied = {name: value.clone() for name, value in world.items()}
    return tuple(part for results in _variants(target, copied) for part in results)


def _own(target: CheckTarget, world: World) -> tuple[Tensor, ...]:
    """Return the estimates that may depend on one episode only."""
    compares = getattr(target.component.load(), "whole_episodes", False)
    own = (results[1:] if compares and len(results) == 2 else results for results in _variants(target, world))
    return tuple(part for results in own for part in results)


def _variants(target: CheckTarget, world: World) -> Iterator[tuple[Tensor, ...]]:
    estimator: Callable[..., Any] = target.component.load()
    given, parameters = world | _settings(target), inspect.signature(estimator).parameters
    info = {key: world.get(f"info:{key}", world["info"]) for key in _info_keys(target)}
    given = {name: value for name, value in given.items() if name != "info"} | ({"info": info} if info else {})
    everything = [name for name in parameters if name in given]
    necessary = [name for name in everything if parameters[name].default is inspect.Parameter.empty]
    for names in [everything] if everything == necessary else [everything, necessary]:
        with target.errors_fail_check(
            "to estimate", "It must work for episodes of any length and for windows of one step."
        ):
            result = estimator(**{name: given[name] for name in names})
        results = result if isinstance(result, tuple) else (result,)
        target.expect(
            len(results) in (1, 2) and all(isinstance(part, Tensor) for part in results),
            f"returns {type(result).__name__}",
            "Return one tensor of returns, or a pair (advantages, returns).",
        )
        yield results


def _world(members: int = 2, steps: int = 17, num_envs: int = 3) -> World:
    """Return episodes of random lengths with every kind of end, and a reset step after each."""
    rng = np.random.default_rng(3)
    flags = {name: np.zeros((members, steps, num_envs), np.bool_) for name in ("terminated", "truncated", "valid")}
    for s, n in np.ndindex(members, num_envs):
        for begin, end in _spans(rng, steps):
            flags["valid"][s, begin:end, n] = True
            flags["terminated"][s, end - 1, n], flags["truncated"][s, end - 1, n] = [*KINDS.values()][
                rng.integers(len(KINDS))
            ]
    return _filled(rng, **flags)


def _spans(rng: np.random.Generator, steps: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < steps:
        end = min(steps, at + int(rng.integers(1, 7)))
        yield at, end
        at = end + 1


def _filled(rng: np.random.Generator, **flags: Any) -> World:
    """Return random numbers for given ends; in rows that are not valid, rewards are 0 and the rest is arbitrary."""
    valid = flags["valid"]
    members, steps, num_envs = valid.shape
    starts = np.zeros((members, steps + 1, num_envs), np.bool_)
    starts[:, 0] = valid[:, 0]
    starts[:, 1:-1] = valid[:, 1:] & ~valid[:, :-1]
    world: World = {name: torch.from_numpy(value) for name, value in (flags | {"starts": starts}).items()}
    numbers = {name: rng.standard_normal(valid.shape).astype(np.float32) for name in FLOATS}
    numbers["rewards"] *= valid
    timestep = np.zeros(valid.shape, np.int64)
    for t in range(1, steps):
        timestep[:, t] = np.where(valid[:, t] & valid[:, t - 1], timestep[:, t - 1] + 1, 0)
    world |= {name: torch.from_numpy(value) for name, value in numbers.items()}
    return world | {
        "timestep": torch.from_numpy(timestep),
        "gamma": torch.full((members, 1, 1), 0.9),
        "actions": torch.from_numpy(rng.integers(3, size=valid.shape)),
        "obs": torch.from_numpy(rng.standard_normal((members, steps + 1, num_envs, 2)).astype(np.float32)),
    }


def _two_episodes(terminated: bool, truncated: bool) -> World:
    """Return two episodes: steps 0-3 and 5-10, with the reset step 4 between them."""
    valid = np.ones((2, 11, 3), np.bool_)
    valid[:, 4] = False
    ends = np.zeros_like(valid)
    ends[:, [3, 10]] = True
    return _filled(np.random.default_rng(4), valid=valid, terminated=ends & terminated, truncated=ends & truncated)


def _with_changed_rows(world: World, rows: slice) -> World:
    """Return the arguments with different numbers in some steps and in the reset step."""
    other = dict(world)
    for name in FLOATS:
        value = world[name].clone()
        value[:, rows] = value[:, rows] * 2 - 3
        value[:, 4] = 0.0 if name == "rewards" else GARBAGE
        other[name] = value
    return other


def _padded(world: World, rows: int) -> World:
    def pad(name: str, value: Tensor) -> Tensor:
        if name == "gamma":
            return value
        return torch.cat([value, *[torch.zeros_like(value[:, :1])] * rows], 1)

    return {name: pad(name, value) for name, value in world.items()}


def _with_garbage_in_invalid_rows(world: World) -> World:
    litter = {name: torch.where(world["valid"], world[name], GARBAGE) for name in FLOATS if name != "rewards"}
    return world | litter
