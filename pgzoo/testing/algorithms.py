"""The checks of algorithms."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from pgzoo.config import AlgorithmConfig, Layer, RunConfig, Settings
from pgzoo.config.sweep import Setting, format_setting, sweepable
from pgzoo.errors import ConfigError, UnfitError
from pgzoo.ops.optim import searched
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import check_algorithm, resolve
from pgzoo.testing.rounds import (
    OTHERS,
    SEED,
    WORLDS,
    claimed_worlds,
    expect_equal,
    memory_policy,
    needs_of,
    open_plan,
    open_rounds,
    plan_of,
    trains_policy,
    undisturbed,
)
from pgzoo.testing.target import Check, CheckFailed, CheckTarget, NotApplicable, checks_by_name, expect_untouched
from pgzoo.training.events import RunEnded
from pgzoo.training.loop import train
from pgzoo.training.plan import Plan, checked_needs
from pgzoo.types import TrainState

__all__ = ["CHECKS"]

SOURCE = re.compile(r"Source:|\b(19|20)\d\d\b")
METRIC = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)+")
RESERVED = frozenset({"train", "eval", "time", "summary", "profile", "diagnostic"})
"""Groups of metrics that pgzoo itself logs, see docs/how-it-works.md."""


def documented(target: CheckTarget) -> None:
    """The docstring describes the objective, and a source is named: there, or by `source` at its registration."""
    text = inspect.getdoc(target.component.load()) or ""
    target.expect(text, "has no docstring", "Describe what it optimizes, with the equation and a line `Source: ...`.")
    target.expect(
        SOURCE.search(text) or target.component.facts.get("source"),
        "doesn't name its source",
        "Users compare an algorithm with its paper. Add a line `Source: paper, section`, or the authors and the year.",
    )


def settings(target: CheckTarget) -> None:
    """Settings have descriptions and names that no run setting has; the defaults are valid, and the needs are known."""
    model = target.component.load_config()
    if model is not None:
        target.expect_described(model, Settings)
    with target.errors_fail_check(
        "to be configured with its defaults", "Correct its `defaults`, `needs` and settings."
    ):
        check_algorithm(target.component, model or AlgorithmConfig)
        checked_needs(needs_of(target), f'algorithm "{target.component.name}"')
        given: dict[str, object] = {"algorithm": target.component.name, **WORLDS["discrete"]}
        if not {"total_steps", "total_episodes"} & set(getattr(target.component.load(), "defaults", {})):
            given["total_steps"] = 1000  # without a default, users have to give it
        resolve([Layer(given, ".".join)], target.catalog)


def trains_discrete(target: CheckTarget) -> None:
    """A run with Discrete actions finishes, or raises UnfitError if the algorithm doesn't support them."""
    _trains(target, "discrete")


def trains_box(target: CheckTarget) -> None:
    """A run with Box actions finishes, or raises UnfitError if the algorithm doesn't support them."""
    _trains(target, "box")


def trains_memory(target: CheckTarget) -> None:
    """A run with a recurrent policy finishes, if the algorithm is registered with `recurrent=True`."""
    policy = memory_policy(target)
    advice = (
        "Reduce over (-2, -1) and keep sequences whole, or register it with recurrent=False; for a class that isn't "
        "registered, declare a known exception."
    )
    with target.errors_fail_check(f'to train policy "{policy["name"]}"', advice):
        _whole_run(target, plan_of(target, claimed_worlds(target)[0], (SEED, 0), policy=policy))


def learns(target: CheckTarget) -> None:
    """All parameters of the policy change, and some of the critic's. Exempt are algorithms with `learns = False`.

    No parameter may change in the first updates, for example while a buffer is filled. An algorithm without gradients
    needs to change only what the most likely actions depend on.
    """
    for world in claimed_worlds(target):
        run = undisturbed(target, world, (SEED,))
        moved = [name for name, changed in run.moved.items() if changed]
        if not trains_policy(target):
            target.expect(not moved, "has `learns = False` but changes parameters", "Remove `learns = False`.")
            continue
        due = run.moved if _takes_gradients(target) else searched(run.moved)
        still = [name for name, changed in due.items() if name.startswith("policy.") and not changed]
        target.expect(
            run.moved and not still,
            f"doesn't change some parameters in {run.first + 3} updates with {world} actions: "
            f"{', '.join(still) or 'it has none'}",
            "Return the state that ctx.step returns; an algorithm that isn't meant to learn sets `learns = False`.",
        )
        critic = [name for name in run.moved if name.startswith("critic.")]
        target.expect(
            not critic or set(critic) & set(moved),
            "needs a critic but doesn't train it",
            'Remove "value" from `needs`.',
        )


def metrics(target: CheckTarget) -> None:
    """Metrics are finite, one number per seed, with names such as loss/policy, in no group that pgzoo itself logs."""
    for report in undisturbed(target, claimed_worlds(target)[0], (SEED, 0)).metrics:
        for name, values in report.items():
            target.expect(
                METRIC.fullmatch(name), f'reports "{name}"', "Name metrics by a group and a word, such as loss/policy."
            )
            target.expect(
                name.partition("/")[0] not in RESERVED,
                f'reports "{name}", in a group that pgzoo logs itself',
                "Both would be averaged into one curve. Name metrics by another group, such as the algorithm's name; "
                f"reserved are: {', '.join(sorted(RESERVED))}.",
            )
            target.expect(
                np.shape(values) == (2,) and np.isfinite(values).all(),
                f"reports {name} = {values} for 2 seeds",
                "Report one finite number per seed, a tensor [S].",
            )


def seed_law(target: CheckTarget) -> None:
    """A seed's parameters, buffers and optimizer state are bit-equal alone and in a batch with other seeds."""
    for world in claimed_worlds(target):
        alone = undisturbed(target, world, (SEED,))
        with open_rounds(target, world, (*OTHERS, SEED)) as among:
            among.update(alone.first + 2)
            one, other = alone.bits[0], among.bits(len(OTHERS))
        expect_equal(
            target,
            one,
            other,
            f"trains a seed differently alone and among {len(OTHERS)} others, with {world} actions",
            f"Then seeds aren't independent, and statistics over them are wrong. {_diagnosis(target, world)}"
            if one != other
            else "",
        )


def sweep(target: CheckTarget) -> None:
    """A seed's training depends on its own settings only, not on those of another seed in the sweep."""
    world = claimed_worlds(target)[0]
    plan = plan_of(target, world, (SEED, OTHERS[0]))
    setting = _moved(plan.config)
    if not setting:
        raise NotApplicable("it has no setting that can be swept")
    alike = make_plan(plan.config.at(setting), target.catalog)
    swept = replace(plan, members=(alike.members[0], plan.members[1]))
    advice = (
        "Each seed of a sweep has its own settings. Take floats from `hyper`, with its axis of seeds, or per seed from "
        "ctx.members; mark settings that can't differ as `Static`."
    )
    with open_plan(target, world, alike) as some, open_plan(target, world, swept) as grid:
        updates = some.settle()
        grid.update(updates)
        changed, default = grid.bits(0), grid.bits(1)
        what = f"trains a seed differently in a sweep, with {format_setting(setting)}"
        expect_equal(target, some.bits(0), changed, what, advice)
    with open_plan(target, world, replace(plan, algorithm=type(plan.algorithm)())) as others:
        others.update(updates)
        what = f"trains a seed with the defaults differently if the seed before it has {format_setting(setting)}"
        expect_equal(target, others.bits(1), default, what, advice)


def gamma(target: CheckTarget) -> None:
    """Another discount factor (`--gamma`) changes what it learns, if its default estimator discounts."""
    if not trains_policy(target):
        raise NotApplicable("it has `learns = False`")
    if not _takes_gradients(target):
        raise NotApplicable("it takes no gradient steps, and so has no discounted objective")
    world, params = claimed_worlds(target)[0], []
    for value in (0.99, 0.5):
        # without normalized rewards, whose scale depends on gamma
        plan = plan_of(target, world, (SEED,), gamma=value, normalize_reward=False)
        if "gamma" not in inspect.signature(plan.estimator).parameters:
            raise NotApplicable("its default estimator doesn't discount")
        with open_plan(target, world, plan) as run:
            run.settle()
            params.append({k: v for k, v in run.bits(0).items() if k.startswith("parameter ")})
    target.expect(
        params[0] != params[1],
        "trains the same with gamma 0.99 and 0.5",
        "Users set --gamma and sweep it, and would compare equal runs. Take returns and advantages from ctx.estimate, "
        "which uses the gamma and the --estimator of the run, or use hyper.gamma. An algorithm that doesn't discount "
        'on purpose declares it: known_exceptions = {"gamma": "the reason"}.',
    )


def frozen(target: CheckTarget) -> None:
    """A seed that has ended doesn't change any more, and the others train as if it were still active."""
    world = claimed_worlds(target)[0]
    others = undisturbed(target, world, (SEED, 0))
    with open_rounds(target, world, (SEED, 0)) as run:
        run.update(others.first)
        run.freeze(0)
        at_its_end = run.bits(0)
        run.update(2)
        expect_equal(
            target,
            at_its_end,
            run.bits(0),
            "changes a seed that has ended",
            "Its final policy would differ from the one that was evaluated. Don't change tensors of the state in place "
            "(mul_, copy_, x[...] = ...): return a state with new ones, which pgzoo freezes for seeds that have ended.",
        )
        expect_equal(
            target,
            others.bits[1],
            run.bits(1),
            "trains seeds differently when another has ended",
            "Decide for each seed separately: every decision has shape [S].",
        )


def evaluation_has_no_effect(target: CheckTarget) -> None:
    """Evaluating between updates changes no bit of the training."""
    world = claimed_worlds(target)[0]
    quiet = undisturbed(target, world, (SEED, 0))
    with open_rounds(target, world, (SEED, 0)) as watched:
        watched.update(quiet.first - 1)
        for _ in range(3):
            watched.engine.evaluate(watched.engine.state, np.ones(2, np.bool_), "sampled")
            watched.update()
        expect_equal(
            target,
            quiet.bits[0],
            watched.bits(0),
            "trains differently when it is evaluated",
            "Keep nothing outside of the state, and draw from ctx.rng only.",
        )


def resumable(target: CheckTarget) -> None:
    """A run that is resumed after any update, from the state only, continues bit for bit."""
    world = claimed_worlds(target)[0]
    through = undisturbed(target, world, (SEED, 0))
    with open_rounds(target, world, (SEED, 0)) as restarted:
        for _ in range(through.updates):
            restarted.update()
            restarted.restart()
        expect_equal(
            target,
            through.final_bits[0],
            restarted.bits(0),
            "continues differently when it is resumed after an update",
            "A run that is killed and resumed would lose this. Keep what the next update needs in ctx.state (tensors "
            "from `init`, under the algorithm's own names), not in a variable of the loop or an attribute.",
        )


def generators(target: CheckTarget) -> None:
    """Training draws from no global random generator."""
    expect_untouched(target, undisturbed(target, claimed_worlds(target)[0], (SEED,)).generators, "while it trains")


CHECKS: Mapping[str, Check] = checks_by_name(
    (
        documented,
        settings,
        trains_discrete,
        trains_box,
        trains_memory,
        learns,
        metrics,
        seed_law,
        sweep,
        gamma,
        frozen,
        evaluation_has_no_effect,
        resumable,
        generators,
    )
)


def _diagnosis(target: CheckTarget, world: str) -> str:
    """Return advice for an algorithm that fails the seed law, from what the difference depends on."""

    def trained(*seeds: int) -> dict[str, bytes]:
        with open_rounds(target, world, seeds) as run:
            run.settle()
            return run.bits(seeds.index(SEED))

    if trained(SEED) != trained(SEED):
        return (
            "Even two runs of the same seed differ: it keeps a random generator, or other state, in a global variable. "
            "Draw from ctx.rng(stream, member, state), which depends on the seed and the update only."
        )
    if trained(SEED, 0) != trained(SEED, 3):
        return (
            "The result depends on which other seed there is: something is reduced over seeds. Reduce over the axes "
            "(-2, -1) only, with pgzoo.ops.losses, which gives one number per seed."
        )
    if trained(SEED, 0) != trained(0, SEED):
        return (
            "The result depends on the seed's position among the seeds: a generator is shared by the seeds. Draw the "
            "numbers of member m from ctx.rng(stream, m, state), for each member separately."
        )
    return (
        "The result depends on the number of seeds, or on padding: use the reductions of pgzoo.ops.losses, the layers "
        "of pgzoo.ops.nets and the functions of pgzoo.ops.elementwise, and draw from ctx.rng only."
    )


def _moved(config: RunConfig) -> Setting:
    """Return a different valid value for each float setting that can be swept."""
    flat = config.flat()
    moved: dict[str, float] = {}
    for key in sweepable(type(config.settings), type(config.estimator.settings)):
        if key in flat:
            value = 0.9 * float(flat[key]) or 0.01
            with suppress(ConfigError):
                config.at(moved | {key: value})
                moved[key] = value
    return moved


def _trains(target: CheckTarget, world: str) -> None:
    try:
        _whole_run(target, plan_of(target, world, (SEED, 0)))
    except (CheckFailed, NotApplicable):
        raise
    except Exception as error:
        if isinstance(error, UnfitError) and world not in claimed_worlds(target):
            return
        advice = "Register it with the supported `actions`, and raise UnfitError for others."
        if _fails_on("box" if world == "discrete" else "discrete", target):
            advice = "It fails on Discrete and on Box actions."
        with target.errors_fail_check(f"to train on {world} actions", advice):
            raise


def _fails_on(world: str, target: CheckTarget) -> bool:
    """Return whether a run on this kind of actions raises an exception."""
    try:
        _whole_run(target, plan_of(target, world, (SEED, 0)))
    except Exception:
        return True
    return False


def _whole_run(target: CheckTarget, plan: Plan) -> None:
    """Train to the end; expect all seeds to finish with finite parameters."""
    plan = replace(plan, config=plan.config.model_copy(update={"total_steps": 100}))
    *_, ended = train(plan)
    assert isinstance(ended, RunEnded)
    target.expect(
        set(ended.statuses) == {"finished"},
        f"doesn't finish: {ended.reasons[0]}",
        "Look for logarithms of 0 and for differences of infinities.",
    )
    _expect_finite(target, ended.state)


def _expect_finite(target: CheckTarget, state: TrainState) -> None:
    bad = [k for k, v in (state.params | state.buffers).items() if not torch.isfinite(v).all()]
    target.expect(
        not bad,
        f"ends with parameters that are not finite: {', '.join(bad)}",
        "Look for logarithms of 0 and for differences of infinities.",
    )


def _takes_gradients(target: CheckTarget) -> bool:
    """Return whether the algorithm takes gradient steps; if not, it searches or doesn't learn."""
    return issubclass(target.component.load_config() or AlgorithmConfig, AlgorithmConfig)
