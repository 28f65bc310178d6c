"""The checks of diagnostics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pgzoo.protocols import UpdateContext
from pgzoo.testing.recording import named_tensors
from pgzoo.testing.rounds import OTHERS, SEED, Rounds, claimed_worlds, expect_equal, plan_of, undisturbed
from pgzoo.testing.target import (
    Check,
    CheckTarget,
    NotApplicable,
    bitwise_equal,
    checks_by_name,
    expect_untouched,
    generator_states,
)
from pgzoo.training.diagnostics import READS, ReadOnlyContext, copied

__all__ = ["CHECKS"]

HOSTS = ("ppo", "reinforce")
"""Algorithms whose training is measured: one collects windows, the other whole episodes, which are padded."""
MEASURE = "Let measure return a tensor [S], or a dict of such tensors. Reduce over the axes (-2, -1) only."


@dataclass(frozen=True)
class Measured:
    """What a diagnostic measured in a few updates, and what it changed."""

    found: list[Any]
    """What `measure` returned after each update."""
    changed: list[str]
    """The names of the tensors that it wrote into."""
    generators: list[str]
    """The names of the global random generators that it used."""
    bits: dict[str, bytes]
    """The bits of the seed `SEED` after the updates."""


def measures(target: CheckTarget) -> None:
    """`measure` returns one number per seed, `[S]`, or several by name, and none is infinite."""
    for host in _hosts(target):
        for found in _measured(target, host, (SEED, 0)).found:
            target.expect(
                isinstance(found, Tensor | Mapping),
                f"returns a {type(found).__name__} for {host.component.name}",
                MEASURE,
            )
            for name, value in _by_name(found).items():
                shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                target.expect(
                    shape == [2],
                    f"returns {name or 'a result'} of shape {shape} for 2 seeds of {host.component.name}; expected [2]",
                    f"Each seed has its own curve. {MEASURE}",
                )
                target.expect(
                    not value.isinf().any(),
                    f"returns {name or 'a result'} = {value.tolist()} for {host.component.name}",
                    "Infinite values are left out of the curves. Return NaN for a seed that can't be measured.",
                )


def inputs_unchanged(target: CheckTarget) -> None:
    """The state and the trajectory aren't written into."""
    for host in _hosts(target):
        changed = _measured(target, host, (SEED, 0)).changed
        target.expect(
            not changed,
            f"writes into {', '.join(changed)}",
            "Other diagnostics get the same tensors, and would measure something else. Compute new tensors: x = x - m "
            "instead of x -= m.",
        )


def generators(target: CheckTarget) -> None:
    """Measuring draws from no global random generator."""
    for host in _hosts(target):
        expect_untouched(target, _measured(target, host, (SEED, 0)).generators, "while it measures")


def changes_nothing(target: CheckTarget) -> None:
    """A run that is measured after every update is bit-equal to a run without diagnostics."""
    for host in _hosts(target):
        expect_equal(
            target,
            undisturbed(host, claimed_worlds(host)[0], (SEED, 0)).bits[0],
            _measured(target, host, (SEED, 0)).bits,
            f"changes the training of {host.component.name}",
            "A run must be the same with and without diagnostics. Don't assign to attributes of ctx.algorithm, "
            "ctx.policy or modules; pass your own loss to ctx.gradient(loss, state, batch) instead.",
        )


def members(target: CheckTarget) -> None:
    """What is measured for a seed is the same alone and in a batch with other seeds."""
    for host in _hosts(target):
        alone = _measured(target, host, (SEED,)).found
        among = _measured(target, host, (*OTHERS, SEED)).found
        for one, other in zip(alone, among, strict=True):
            for name, value in _by_name(one).items():
                expected, result = value[0], _by_name(other)[name][-1]
                target.expect(
                    torch.allclose(result, expected, rtol=1e-4, atol=1e-6, equal_nan=True),
                    f"measures {name or 'another number'} = {float(result):.4g} for a seed among {len(OTHERS)} others, "
                    f"and {float(expected):.4g} for the seed alone ({host.component.name})",
                    "Reduce over the axes (-2, -1) only, and leave out steps that are not valid: their number depends "
                    "on the other seeds. pgzoo.ops.losses.weighted_mean(x, trajectory.valid) does both.",
                )


CHECKS: Mapping[str, Check] = checks_by_name((measures, inputs_unchanged, generators, changes_nothing, members))


def _hosts(target: CheckTarget) -> Iterator[CheckTarget]:
    """Yield the algorithms whose training it measures, or else another that it fits."""
    if "hosts" not in target.remembered:
        known = target.catalog.names("algorithm")
        fitting: list[CheckTarget] = []
        for name in dict.fromkeys((*HOSTS, *known)):
            if name not in known or (fitting and name not in HOSTS):
                continue
            entry = target.catalog.get("algorithm", name)
            host = CheckTarget(entry.plugin, target.catalog, entry)
            plan, diagnostic = plan_of(host, claimed_worlds(host)[0], (SEED,)), target.component.load()()
            with target.errors_fail_check(f"to say whether it fits {name}", "Let fits return a text."):
                if not (hasattr(diagnostic, "fits") and diagnostic.fits(plan)):
                    fitting.append(host)
        target.remembered["hosts"] = fitting
    if not target.remembered["hosts"]:
        raise NotApplicable("it fits no installed algorithm")
    yield from target.remembered["hosts"]


def _measured(target: CheckTarget, host: CheckTarget, seeds: tuple[int, ...]) -> Measured:
    """Return what is measured in the updates of `undisturbed(...).bits`, once for all checks."""
    key = f"measured {host.component.name} {seeds}"
    if key not in target.remembered:
        world = claimed_worlds(host)[0]
        updates = undisturbed(host, world, (SEED, 0)).first + 2
        found: list[Any] = []
        changed: dict[str, None] = {}
        used: dict[str, None] = {}
        advice = f"If it can't measure it, let fits(plan) say so. Of ctx it may use {', '.join(sorted(READS))}."
        run, diagnostic = Rounds(plan_of(host, world, seeds)), target.component.load()()
        with target.errors_fail_check(f"to measure {host.component.name}", advice), closing(run.engine):
            for _ in range(updates):
                run.update()
                result, written, drawn = _measure(diagnostic, run)
                found.append(result)
                changed |= dict.fromkeys(written)
                used |= dict.fromkeys(drawn)
            bits = run.bits(seeds.index(SEED))
        target.remembered[key] = Measured(found, list(changed), list(used), bits)
    measured: Measured = target.remembered[key]
    return measured


def _measure(diagnostic: Any, run: Rounds) -> tuple[Any, list[str], list[str]]:
    """Measure the last update; return the result, the changed tensors, and the random generators that were used."""
    record = run.engine.record
    assert record.collected_by is not None
    state = copied(record.collected_by)
    parts = (("state.params", state.params), ("state.buffers", state.buffers), ("trajectory", record.trajectory))
    before = [(name, leaf, leaf.clone()) for part, tree in parts for name, leaf in named_tensors(tree, part)]
    states = generator_states()
    result = diagnostic.measure(cast(UpdateContext, ReadOnlyContext(run.engine)), state, record.trajectory)
    drawn = [name for name, now in generator_states().items() if now != states[name]]
    return result, [name for name, leaf, copy in before if not bitwise_equal(leaf, copy)], drawn


def _by_name(found: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {"": found} if isinstance(found, Tensor) else found
