"""What a return estimator keeps to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgzoo.config import ComponentConfig
from pgzoo.testing.subject import Check, NotApplicable, Subject, called, same_bits

__all__ = ["CHECKS"]

World = dict[str, Any]
"""What an estimator may take: tensors `[S, T, N]`, `starts` with T+1 steps, and `gamma [S, 1, 1]`."""

FLOATS = ("rewards", "values", "next_values", "q_values", "log_rhos")
KINDS = {"terminated": (True, False), "truncated": (False, True), "terminated and truncated": (True, True)}
GARBAGE = -123.25


def keywords(subject: Subject) -> None:
    """All arguments are keywords that somebody gives; every setting is one of them, and described."""
    parameters = inspect.signature(subject.component.load()).parameters.values()
    loose = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    subject.expect(not loose, f"takes {', '.join(loose)} by position", "Begin the signature with `*`.")
    known = {*_world(), *_settings(subject)}
    unknown = [p.name for p in parameters if p.default is p.empty and p.name not in known]
    subject.expect(
        not unknown,
        f"asks for {', '.join(unknown)}, which no run gives",
        f"There are: {', '.join(sorted(known))}; give others a default.",
    )
    if model := subject.component.load_config():
        subject.expect_described(model, ComponentConfig)
    unused = sorted(set(_settings(subject)) - {p.name for p in parameters})
    subject.expect(not unused, f"has settings that it doesn't take: {', '.join(unused)}", "Remove them.")


def shape(subject: Subject) -> None:
    """A result, or each of a pair, is `[S, T, N]`, also where one of these is 1."""
    for sizes in ((2, 9, 3), (1, 9, 3), (2, 1, 3), (2, 9, 1)):
        for result in _estimates(subject, _world(*sizes)):
            subject.expect(
                tuple(result.shape) == sizes and result.dtype == torch.float32,
                f"gives {result.dtype} {list(result.shape)} for rewards of float32 {list(sizes)}",
                "Return one tensor, or a pair, of the shape and type of the rewards.",
            )


def finite(subject: Subject) -> None:
    """Results are finite, also where nothing is ever paid, and without a discount."""
    for change in ({}, {"rewards": 0.0}, {"gamma": 0.0}, {"gamma": 1.0}, {"values": 0.0, "next_values": 0.0}):
        world = _world(2, 17, 3)
        world |= {name: torch.full_like(world[name], value) for name, value in change.items()}
        where = " for " + ", ".join(f"{name} = {value:g}" for name, value in change.items()) if change else ""
        subject.expect(
            all(torch.isfinite(result).all() for result in _estimates(subject, world)),
            f"gives numbers that are not finite{where}",
            "Guard its divisions.",
        )


def zeros(subject: Subject) -> None:
    """Rows that are not valid get exactly 0."""
    world = _world(2, 17, 3)
    subject.expect(
        all((result[~world["valid"]] == 0).all() for result in _estimates(subject, world)),
        "gives something to rows that are not valid",
        "End with torch.where(valid, result, 0.0).",
    )


def episodes_apart(subject: Subject) -> None:
    """What happens in one episode changes nothing in another, whichever way it ended, nor does the filler between.

    An estimator of whole episodes (`whole_episodes`) may compare them: then this is asked of its returns alone.
    """
    for kind, (terminated, truncated) in KINDS.items():
        world = _two_episodes(terminated, truncated)
        for what, rows in {"the next episode": slice(5, None), "the episode before": slice(0, 4)}.items():
            other = _disturbed(world, rows)
            here = slice(0, 4) if rows.start else slice(5, None)
            for before, after in zip(_own(subject, world), _own(subject, other), strict=True):
                subject.expect(
                    same_bits(before[:, here].contiguous(), after[:, here].contiguous()),
                    f"lets {what} leak over an end ({kind})",
                    "Stop sums at terminated | truncated, and where the next row is not valid.",
                )


def bootstrap(subject: Subject) -> None:
    """The value of a state after a termination counts nowhere, also where the episode was truncated as well."""
    parameters = inspect.signature(subject.component.load()).parameters
    if "next_values" not in parameters:
        raise NotApplicable("it takes no next_values")
    for kind in ("terminated", "terminated and truncated"):
        world = _two_episodes(*KINDS[kind])
        other = world | {"next_values": torch.where(world["terminated"], GARBAGE, world["next_values"])}
        for before, after in zip(_estimates(subject, world), _estimates(subject, other), strict=True):
            subject.expect(
                same_bits(before, after),
                f"bootstraps where an episode {kind}",
                "Use next_values only where not terminated: after the end of the world there is nothing.",
            )


def padding(subject: Subject) -> None:
    """Rows that are not valid change no bit, whatever lies in them and however many there are."""
    world = _world(2, 17, 3)
    for what, other in {"more of them": _padded(world, 6), "what lies in them": _littered(world)}.items():
        for before, after in zip(_estimates(subject, world), _estimates(subject, other), strict=True):
            subject.expect(
                same_bits(before, after[:, :17].contiguous()),
                f"gives other numbers for {what}, the rows that are not valid",
                "Sum by running sums (pgzoo.ops.losses, pgzoo.ops.returns.reverse_scan), and count valid rows only.",
            )


def members(subject: Subject) -> None:
    """A member's numbers are the same alone and among others, to the bit."""
    world = _world(5, 17, 3)
    alone = {k: v[3:4].contiguous() if isinstance(v, Tensor) else v for k, v in world.items()}
    for one, many in zip(_estimates(subject, alone), _estimates(subject, world), strict=True):
        subject.expect(
            same_bits(one, many[3:4].contiguous()),
            "gives a member other numbers alone than among others",
            "Reduce over (-2, -1) at most, never over members.",
        )


def pure(subject: Subject) -> None:
    """It leaves its arguments as they were, and gives the same again."""
    world = _world(2, 17, 3)
    before = {k: v.clone() for k, v in world.items()}
    first, again = (tuple(part for results in _variants(subject, w) for part in results) for w in (world, world))
    changed = [name for name, value in world.items() if not same_bits(value, before[name])]
    subject.expect(not changed, f"writes into its arguments: {', '.join(changed)}", "Work on copies.")
    subject.expect(
        all(map(same_bits, first, again)), "gives other numbers the second time", "Make it a function of its arguments."
    )


CHECKS: Mapping[str, Check] = called(
    (keywords, shape, finite, zeros, episodes_apart, bootstrap, padding, members, pure)
)


def _settings(subject: Subject) -> dict[str, Any]:
    model = subject.component.load_config()
    return {} if model is None else dict(model())


def _estimates(subject: Subject, world: World) -> tuple[Tensor, ...]:
    """What the estimator gives for a world, with all that it takes and again with what it must have."""
    copied = {name: value.clone() for name, value in world.items()}
    return tuple(part for results in _variants(subject, copied) for part in results)


def _own(subject: Subject, world: World) -> tuple[Tensor, ...]:
    """What is of an episode alone in the estimates."""
    compares = getattr(subject.component.load(), "whole_episodes", False)
    own = (results[1:] if compares and len(results) == 2 else results for results in _variants(subject, world))
    return tuple(part for results in own for part in results)


def _variants(subject: Subject, world: World) -> Iterator[tuple[Tensor, ...]]:
    estimator: Callable[..., Any] = subject.component.load()
    given, parameters = world | _settings(subject), inspect.signature(estimator).parameters
    everything = [name for name in parameters if name in given]
    necessary = [name for name in everything if parameters[name].default is inspect.Parameter.empty]
    for names in [everything] if everything == necessary else [everything, necessary]:
        with subject.doing("to estimate", "It must take episodes of any lengths, and windows of one step."):
            result = estimator(**{name: given[name] for name in names})
        results = result if isinstance(result, tuple) else (result,)
        subject.expect(
            len(results) in (1, 2) and all(isinstance(part, Tensor) for part in results),
            f"returns {type(result).__name__}",
            "Return one tensor of returns, or a pair (advantages, returns).",
        )
        yield results


def _world(members: int = 2, steps: int = 17, num_envs: int = 3) -> World:
    """Episodes of random lengths, every kind of end, a filler after each, and nothing once there is no more room."""
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
    """Numbers for a world whose ends are given; rewards are 0 where nothing is valid, all else is garbage there."""
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
    """Rows 0-3 an episode, 4 the filler, 5-10 another."""
    valid = np.ones((2, 11, 3), np.bool_)
    valid[:, 4] = False
    ends = np.zeros_like(valid)
    ends[:, [3, 10]] = True
    return _filled(np.random.default_rng(4), valid=valid, terminated=ends & terminated, truncated=ends & truncated)


def _disturbed(world: World, rows: slice) -> World:
    """Other numbers in some rows and in the filler."""
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


def _littered(world: World) -> World:
    litter = {name: torch.where(world["valid"], world[name], GARBAGE) for name in FLOATS if name != "rewards"}
    return world | litter
