"""The checks of algorithms."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pgzoo.config import AlgorithmConfig, Layer, RunConfig, Settings
from pgzoo.config.sweep import Setting, format_setting, sweepable
from pgzoo.errors import ConfigError, UnfitError
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import check_keys, resolve
from pgzoo.testing import probes  # noqa: F401  registers the environments
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, checks_by_name, generators_untouched
from pgzoo.training.engine import Engine, default_loop
from pgzoo.training.events import RunEnded
from pgzoo.training.loop import train
from pgzoo.training.plan import Plan
from pgzoo.training.threads import limit_threads
from pgzoo.types import TrainState

__all__ = ["CHECKS"]

WORLDS: Mapping[str, Mapping[str, Any]] = {
    "discrete": {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"action": "discrete"}},
    "box": {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"action": "one"}},
}
WORDS = {"discrete": ("any", "discrete"), "box": ("any", "box", "continuous")}
"""Words in the registered `actions` that stand for each kind of action space."""

SMALL: Mapping[str, Any] = {"rollout_steps": 12, "epochs": 2, "minibatches": 2}
"""Values for settings of these names: small, because checks don't test learning performance."""

SEED, OTHERS = 7, (0, 11, 3, 5, 1, 2, 20)
METRIC = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)+")


class Rounds:
    """Trains like `training.train`, one update at a time, so that a check can inspect and change the state."""

    def __init__(self, plan: Plan) -> None:
        self.engine = Engine(plan)
        self.rounds = self._loop()

    def update(self, count: int = 1) -> None:
        """Run `count` updates."""
        engine = self.engine
        for _ in range(count):
            before = engine.state
            engine.begin_update()
            with engine.watch.phase("update", f'algorithm "{engine.plan.config.algorithm}"'):
                next(self.rounds)
            state, _ = engine.end_update(before)
            engine.state = state._replace(updates=before.updates + before.active)
            if engine.failures:
                raise ArithmeticError(f"a member is no longer finite, {next(iter(engine.failures.values()))}")

    def restart(self) -> None:
        """Continue from the state only, with a new instance of the algorithm, like a resumed run."""
        plan = self.engine.plan
        self.engine.plan = replace(plan, algorithm=type(plan.algorithm)())
        self.rounds = self._loop()

    def freeze(self, member: int) -> None:
        """Mark a seed as ended."""
        active = self.engine.state.active.copy()
        active[member] = False
        self.engine.state = self.engine.state._replace(active=active)

    def bits(self, member: int) -> dict[str, bytes]:
        """Return the bytes of a seed's parameters, buffers, optimizer state and step count, by name."""
        state = self.engine.state
        trees = {"parameter ": state.params, "buffer ": state.buffers, "optimizer's ": state.optimizer}
        return {
            kind + name: np.ascontiguousarray(leaf[member].numpy()).tobytes()
            for kind, tree in trees.items()
            for name, leaf in tree.items()
        } | {"number of steps": state.env_steps[member].tobytes()}

    def _loop(self) -> Iterator[None]:
        return iter(getattr(self.engine.plan.algorithm, "loop", default_loop)(self.engine))


def documented(target: CheckTarget) -> None:
    """The docstring describes the objective, and names a source."""
    text = inspect.getdoc(target.component.load()) or ""
    target.expect(text, "has no docstring", "Describe what it optimizes, with the equation and a line `Source: ...`.")
    target.expect("Source:" in text, "doesn't name its source", "Add a line `Source: paper, section`.")


def settings(target: CheckTarget) -> None:
    """Settings have descriptions and names that no run setting has, and the defaults are valid."""
    model = target.component.load_config()
    if model is not None:
        target.expect_described(model, Settings)
    with target.errors_fail_check("to be configured with its defaults", "Correct its `defaults` and its settings."):
        check_keys(target.component, model or AlgorithmConfig)
        resolve([Layer({"algorithm": target.component.name, **WORLDS["discrete"]}, ".".join)], target.catalog)


def trains_discrete(target: CheckTarget) -> None:
    """A run with Discrete actions finishes, or raises UnfitError if the algorithm doesn't support them."""
    _trains(target, "discrete")


def trains_box(target: CheckTarget) -> None:
    """A run with Box actions finishes, or raises UnfitError if the algorithm doesn't support them."""
    _trains(target, "box")


def trains_memory(target: CheckTarget) -> None:
    """A run with a recurrent policy finishes, if the algorithm is registered with `recurrent=True`."""
    if not target.component.facts.get("recurrent"):
        raise NotApplicable("it is registered without recurrent=True")
    known = [name for name in ("gru", "lstm") if name in target.catalog.names("policy")]
    if not known or not _learns(target):
        raise NotApplicable("no recurrent policy is installed" if not known else "it doesn't learn")
    advice = "Reduce over (-2, -1) and keep sequences whole, or register it with recurrent=False."
    with target.errors_fail_check(f'to train policy "{known[0]}"', advice):
        _whole_run(target, _plan(target, _claimed(target)[0], (SEED, 0), policy=known[0]))


def learns(target: CheckTarget) -> None:
    """All parameters of the policy change, and some of the critic's. Exempt are algorithms with `learns = False`."""
    for world in _claimed(target):
        with _rounds(target, world, (SEED, 0)) as run:
            before = run.engine.state.params
            before = {name: leaf.clone() for name, leaf in before.items()}
            run.update(4)
            moved = {k: not torch.equal(leaf, before[k]) for k, leaf in run.engine.state.params.items()}
        if not _learns(target):
            target.expect(
                not any(moved.values()), "has `learns = False` but changes parameters", "Remove `learns = False`."
            )
            continue
        still = [name for name, moves in moved.items() if name.startswith("policy.") and not moves]
        target.expect(
            moved and not still,
            f"doesn't change some parameters in 4 updates with {world} actions: {', '.join(still) or 'it has none'}",
            "Return the state that ctx.step returns; an algorithm that isn't meant to learn sets `learns = False`.",
        )
        critic = [moves for name, moves in moved.items() if name.startswith("critic.")]
        target.expect(not critic or any(critic), "needs a critic but doesn't train it", 'Remove "value" from `needs`.')


def metrics(target: CheckTarget) -> None:
    """Metrics are finite, one number per seed, with names such as loss/policy."""
    with _rounds(target, _claimed(target)[0], (SEED, 0)) as run:
        reports = []
        for _ in range(3):
            run.update()
            reports.append(run.engine.metrics.means())
    for report in reports:
        for name, values in report.items():
            target.expect(
                METRIC.fullmatch(name), f'reports "{name}"', "Name metrics by a group and a word, such as loss/policy."
            )
            target.expect(
                np.shape(values) == (2,) and np.isfinite(values).all(),
                f"reports {name} = {values} for 2 seeds",
                "Report one finite number per seed, a tensor [S].",
            )


def seed_law(target: CheckTarget) -> None:
    """A seed's parameters, buffers and optimizer state are bit-equal alone and in a batch with other seeds."""
    for world in _claimed(target):
        with _rounds(target, world, (SEED,)) as alone, _rounds(target, world, (*OTHERS, SEED)) as among:
            alone.update(3)
            among.update(3)
            _expect_equal(
                target,
                alone.bits(0),
                among.bits(len(OTHERS)),
                f"trains a seed differently alone and among {len(OTHERS)} others, with {world} actions",
                "Reduce over rows with pgzoo.ops.losses, never over seeds, and draw from ctx.rng only.",
            )


def sweep(target: CheckTarget) -> None:
    """A seed with changed settings trains the same whether another seed has those settings or the defaults."""
    world = _claimed(target)[0]
    plan = _plan(target, world, (SEED, OTHERS[0]))
    setting = _moved(plan.config)
    alike = make_plan(plan.config.at(setting), target.catalog)
    swept = replace(plan, members=(alike.members[0], plan.members[1]))
    with _rounds_of(target, world, alike) as some, _rounds_of(target, world, swept) as grid:
        some.update(3)
        grid.update(3)
        _expect_equal(
            target,
            some.bits(0),
            grid.bits(0),
            f"trains a seed differently in a sweep, with {format_setting(setting)}",
            "Take floats from `hyper`, or per seed from ctx.members; mark settings that can't differ as `Static`.",
        )


def frozen(target: CheckTarget) -> None:
    """A seed that has ended doesn't change any more, and the others train as if it were still active."""
    world = _claimed(target)[0]
    with _rounds(target, world, (SEED, 0, 3)) as undisturbed, _rounds(target, world, (SEED, 0, 3)) as run:
        undisturbed.update(3)
        run.update()
        run.freeze(0)
        at_its_end = run.bits(0)
        run.update(2)
        _expect_equal(
            target,
            at_its_end,
            run.bits(0),
            "changes a seed that has ended",
            "Don't change tensors of the state in place: return new ones.",
        )
        for member in (1, 2):
            _expect_equal(
                target,
                undisturbed.bits(member),
                run.bits(member),
                "trains seeds differently when another has ended",
                "Decide for each seed separately: every decision has shape [S].",
            )


def evaluation_has_no_effect(target: CheckTarget) -> None:
    """Evaluating between updates changes no bit of the training."""
    world = _claimed(target)[0]
    with _rounds(target, world, (SEED, 0)) as quiet, _rounds(target, world, (SEED, 0)) as watched:
        quiet.update(3)
        for _ in range(3):
            watched.engine.evaluate(watched.engine.state, np.ones(2, np.bool_), "sampled")
            watched.update()
        _expect_equal(
            target,
            quiet.bits(0),
            watched.bits(0),
            "trains differently when it is evaluated",
            "Keep nothing outside of the state, and draw from ctx.rng only.",
        )


def resumable(target: CheckTarget) -> None:
    """A run that is resumed after any update, from the state only, continues bit for bit."""
    world = _claimed(target)[0]
    with _rounds(target, world, (SEED, 0)) as through, _rounds(target, world, (SEED, 0)) as restarted:
        through.update(4)
        for _ in range(4):
            restarted.update()
            restarted.restart()
        _expect_equal(
            target,
            through.bits(0),
            restarted.bits(0),
            "continues differently when it is resumed after an update",
            "Keep what the next update needs in ctx.state, not in a variable of the loop or an attribute.",
        )


def generators(target: CheckTarget) -> None:
    """Training draws from no global random generator."""
    with _rounds(target, _claimed(target)[0], (SEED,)) as run, generators_untouched(target, "while it trains"):
        run.update(2)


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
        frozen,
        evaluation_has_no_effect,
        resumable,
        generators,
    )
)


def _claimed(target: CheckTarget) -> list[str]:
    """Return the kinds of action that the algorithm claims to support."""
    claim = str(target.component.facts.get("actions", "any")).lower()
    worlds = [world for world, words in WORDS.items() if any(word in claim for word in words)]
    target.expect(worlds, f'is registered with actions="{claim}"', 'Use a text with "any", "Discrete" or "Box".')
    return worlds


def _learns(target: CheckTarget) -> bool:
    return bool(getattr(target.component.load(), "learns", True))


def _plan(target: CheckTarget, world: str, seeds: tuple[int, ...], **settings: Any) -> Plan:
    """Return the plan of a small run: few environments, and an mlp of odd sizes unless the algorithm needs another."""
    entry = target.component
    model = entry.load_config() or AlgorithmConfig
    small = {name: value for name, value in SMALL.items() if name in model.model_fields}
    chosen = getattr(entry.load(), "defaults", {}).get("policy", "mlp")
    if (chosen if isinstance(chosen, str) else chosen.get("name", "mlp")) == "mlp":
        small["policy"] = ({} if isinstance(chosen, str) else dict(chosen)) | {"name": "mlp", "hidden": (5, 8)}
    given = {
        "algorithm": entry.name,
        "num_envs": 4,
        "eval_episodes": 2,
        "total_steps": 100_000,
        **WORLDS[world],
        **small,
        "seeds": seeds,
        **settings,
    }
    try:
        config = resolve([Layer(given, ".".join)], target.catalog)
    except ConfigError:  # small sizes are invalid for this algorithm
        config = resolve([Layer({k: v for k, v in given.items() if k not in SMALL}, ".".join)], target.catalog)
    return make_plan(config, target.catalog)


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


@contextmanager
def _rounds(target: CheckTarget, world: str, seeds: tuple[int, ...]) -> Iterator[Rounds]:
    with target.errors_fail_check(f"to train on {world} actions", f"See the check trains-{world}."):
        plan = _plan(target, world, seeds)
    with _rounds_of(target, world, plan) as run:
        yield run


@contextmanager
def _rounds_of(target: CheckTarget, world: str, plan: Plan) -> Iterator[Rounds]:
    with (
        target.errors_fail_check(f"to train on {world} actions", f"See the check trains-{world}."),
        limit_threads(plan.config.threads),  # more threads change the order of summation
    ):
        run = Rounds(plan)
        try:
            yield run
        finally:
            run.engine.close()


def _trains(target: CheckTarget, world: str) -> None:
    claimed = world in _claimed(target)
    advice = "Register it with the supported `actions`, and raise UnfitError for others."
    with target.errors_fail_check(f"to train on {world} actions", advice):
        try:
            _whole_run(target, _plan(target, world, (SEED, 0), total_steps=150))
        except UnfitError:
            if claimed:
                raise


def _whole_run(target: CheckTarget, plan: Plan) -> None:
    """Train to the end; expect all seeds to finish with finite parameters."""
    if plan.config.total_steps and plan.config.total_steps > 1000:
        plan = replace(plan, config=plan.config.model_copy(update={"total_steps": 150}))
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


def _expect_equal(
    target: CheckTarget, one: Mapping[str, bytes], other: Mapping[str, bytes], what: str, advice: str
) -> None:
    different = [name for name in one if one[name] != other.get(name)]
    target.expect(not different, f"{what} (first difference: {different[0] if different else ''})", advice)
