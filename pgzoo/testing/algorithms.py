"""What an algorithm keeps to."""

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
from pgzoo.runs.resolve import check_keys, resolve
from pgzoo.runs.runner import make_plan
from pgzoo.testing import probes  # noqa: F401  registers the environments
from pgzoo.testing.subject import Check, NotApplicable, Subject, called, generators_untouched
from pgzoo.training.engine import Engine, default_loop
from pgzoo.training.events import RunEnded
from pgzoo.training.loop import train
from pgzoo.training.plan import Plan
from pgzoo.types import TrainState

__all__ = ["CHECKS"]

WORLDS: Mapping[str, Mapping[str, Any]] = {
    "discrete": {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"action": "discrete"}},
    "box": {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"action": "one"}},
}
WORDS = {"discrete": ("any", "discrete"), "box": ("any", "box", "continuous")}
"""What the fact `actions` may say of each."""

SMALL: Mapping[str, Any] = {"rollout_steps": 12, "epochs": 2, "minibatches": 2}
"""For settings of these names: a check is about the contract, not about learning well."""

SEED, OTHERS = 7, (0, 11, 3, 5, 1, 2, 20)
METRIC = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)+")


class Rounds:
    """Trains as `training.train` does, but stops after each update, so that one can look and meddle."""

    def __init__(self, plan: Plan) -> None:
        self.engine = Engine(plan)
        self.rounds = self._loop()

    def update(self, count: int = 1) -> None:
        """Do a number of updates."""
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
        """Go on from the state alone, with another object of the algorithm, as a run that is taken up again does."""
        plan = self.engine.plan
        self.engine.plan = replace(plan, algorithm=type(plan.algorithm)())
        self.rounds = self._loop()

    def freeze(self, member: int) -> None:
        """Let a member take no part from here on."""
        active = self.engine.state.active.copy()
        active[member] = False
        self.engine.state = self.engine.state._replace(active=active)

    def bits(self, member: int) -> dict[str, bytes]:
        """Everything that one member has learned and keeps, to the bit."""
        state = self.engine.state
        trees = {"parameter ": state.params, "buffer ": state.buffers, "optimizer's ": state.optimizer}
        return {
            kind + name: np.ascontiguousarray(leaf[member].numpy()).tobytes()
            for kind, tree in trees.items()
            for name, leaf in tree.items()
        } | {"number of steps": state.env_steps[member].tobytes()}

    def _loop(self) -> Iterator[None]:
        return iter(getattr(self.engine.plan.algorithm, "loop", default_loop)(self.engine))


def documented(subject: Subject) -> None:
    """The docstring says what is optimized, and after whom."""
    text = inspect.getdoc(subject.component.load()) or ""
    subject.expect(text, "has no docstring", "Say what it optimizes, with the equation and a line `Source: ...`.")
    subject.expect("Source:" in text, "doesn't say where it comes from", "Add a line `Source: paper, section`.")


def settings(subject: Subject) -> None:
    """Settings are described, bear names of their own, and the defaults are valid."""
    model = subject.component.load_config()
    if model is not None:
        subject.expect_described(model, Settings)
    with subject.doing("to be configured with its defaults", "Mend its `defaults` and its settings."):
        check_keys(subject.component, model or AlgorithmConfig)
        resolve([Layer({"algorithm": subject.component.name, **WORLDS["discrete"]}, ".".join)], subject.catalog)


def trains_discrete(subject: Subject) -> None:
    """A whole run on Discrete actions ends well; an algorithm that takes none says so by UnfitError."""
    _trains(subject, "discrete")


def trains_box(subject: Subject) -> None:
    """A whole run on Box actions ends well; an algorithm that takes none says so by UnfitError."""
    _trains(subject, "box")


def trains_memory(subject: Subject) -> None:
    """A whole run of a policy with memory ends well, where the algorithm doesn't say that it can't (`recurrent`)."""
    if not subject.component.facts.get("recurrent"):
        raise NotApplicable("it doesn't train policies with memory")
    known = [name for name in ("gru", "lstm") if name in subject.catalog.names("policy")]
    if not known or not _learns(subject):
        raise NotApplicable("there is no policy with memory" if not known else "it doesn't learn")
    advice = "Reduce over (-2, -1) and keep sequences whole, or register it with recurrent=False."
    with subject.doing(f'to train policy "{known[0]}"', advice):
        _whole_run(subject, _plan(subject, _claimed(subject)[0], (SEED, 0), policy=known[0]))


def learns(subject: Subject) -> None:
    """Every parameter of the policy moves, and some of a critic. One that doesn't learn has `learns = False`."""
    for world in _claimed(subject):
        with _rounds(subject, world, (SEED, 0)) as run:
            before = run.engine.state.params
            before = {name: leaf.clone() for name, leaf in before.items()}
            run.update(4)
            moved = {k: not torch.equal(leaf, before[k]) for k, leaf in run.engine.state.params.items()}
        if not _learns(subject):
            subject.expect(not any(moved.values()), "says that it doesn't learn, and does", "Remove `learns = False`.")
            continue
        still = [name for name, moves in moved.items() if name.startswith("policy.") and not moves]
        subject.expect(
            moved and not still,
            f"leaves parameters where they were, in 4 updates on {world} actions: {', '.join(still) or 'it has none'}",
            "Return the state that ctx.step gives; one that doesn't learn says so by `learns = False`.",
        )
        critic = [moves for name, moves in moved.items() if name.startswith("critic.")]
        subject.expect(
            not critic or any(critic), "asks for a critic and doesn't train it", 'Leave "value" out of `needs`.'
        )


def metrics(subject: Subject) -> None:
    """Metrics are finite, one number per member, and named by groups."""
    with _rounds(subject, _claimed(subject)[0], (SEED, 0)) as run:
        reports = []
        for _ in range(3):
            run.update()
            reports.append(run.engine.metrics.means())
    for report in reports:
        for name, values in report.items():
            subject.expect(
                METRIC.fullmatch(name), f'reports "{name}"', "Name metrics by a group and a word, such as loss/policy."
            )
            subject.expect(
                np.shape(values) == (2,) and np.isfinite(values).all(),
                f"reports {name} = {values} for 2 members",
                "Report one finite number per member, a tensor [S].",
            )


def seed_law(subject: Subject) -> None:
    """A seed alone is what it is among others: parameters, buffers and optimizer, to the bit."""
    for world in _claimed(subject):
        with _rounds(subject, world, (SEED,)) as alone, _rounds(subject, world, (*OTHERS, SEED)) as among:
            alone.update(3)
            among.update(3)
            _expect_equal(
                subject,
                alone.bits(0),
                among.bits(len(OTHERS)),
                f"is another alone than among {len(OTHERS)} others, on {world} actions",
                "Reduce over rows by pgzoo.ops.losses, never over members, and draw from ctx.rng alone.",
            )


def sweep(subject: Subject) -> None:
    """A member with settings of its own is the same beside one with those settings and beside one with the defaults."""
    world = _claimed(subject)[0]
    plan = _plan(subject, world, (SEED, OTHERS[0]))
    setting = _moved(plan.config)
    alike = make_plan(plan.config.at(setting), subject.catalog)
    swept = replace(plan, members=(alike.members[0], plan.members[1]))
    with _rounds_of(subject, world, alike) as some, _rounds_of(subject, world, swept) as grid:
        some.update(3)
        grid.update(3)
        _expect_equal(
            subject,
            some.bits(0),
            grid.bits(0),
            f"is another among its like than in a sweep, with {format_setting(setting)}",
            "Take floats from `hyper`, or per member from ctx.members; mark as `Static` what can't differ.",
        )


def frozen(subject: Subject) -> None:
    """A member that has ended stays as it is, and the others go on as if nothing had happened."""
    world = _claimed(subject)[0]
    with _rounds(subject, world, (SEED, 0, 3)) as undisturbed, _rounds(subject, world, (SEED, 0, 3)) as run:
        undisturbed.update(3)
        run.update()
        run.freeze(0)
        at_its_end = run.bits(0)
        run.update(2)
        _expect_equal(
            subject,
            at_its_end,
            run.bits(0),
            "moves a member that has ended",
            "Write no tensor of the state in place: return a new one.",
        )
        for member in (1, 2):
            _expect_equal(
                subject,
                undisturbed.bits(member),
                run.bits(member),
                "treats members otherwise when another has ended",
                "Decide for each member by itself: every decision is [S].",
            )


def evaluation_moves_nothing(subject: Subject) -> None:
    """An evaluation between two updates changes no bit."""
    world = _claimed(subject)[0]
    with _rounds(subject, world, (SEED, 0)) as quiet, _rounds(subject, world, (SEED, 0)) as watched:
        quiet.update(3)
        for _ in range(3):
            watched.engine.evaluate(watched.engine.state, np.ones(2, np.bool_), "sampled")
            watched.update()
        _expect_equal(
            subject,
            quiet.bits(0),
            watched.bits(0),
            "learns otherwise when it is evaluated",
            "Keep nothing outside of the state, and draw from ctx.rng alone.",
        )


def safe_points(subject: Subject) -> None:
    """A run that is taken up again after any update, from the state alone, goes on as it would have."""
    world = _claimed(subject)[0]
    with _rounds(subject, world, (SEED, 0)) as through, _rounds(subject, world, (SEED, 0)) as restarted:
        through.update(4)
        for _ in range(4):
            restarted.update()
            restarted.restart()
        _expect_equal(
            subject,
            through.bits(0),
            restarted.bits(0),
            "can't be taken up again after an update",
            "What the next update needs lies in ctx.state, not in a variable of the loop or an attribute.",
        )


def generators(subject: Subject) -> None:
    """Training leaves the global generators alone."""
    with _rounds(subject, _claimed(subject)[0], (SEED,)) as run, generators_untouched(subject, "while it trains"):
        run.update(2)


CHECKS: Mapping[str, Check] = called(
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
        evaluation_moves_nothing,
        safe_points,
        generators,
    )
)


def _claimed(subject: Subject) -> list[str]:
    """The worlds whose actions the algorithm says it takes."""
    said = str(subject.component.facts.get("actions", "any")).lower()
    worlds = [world for world, words in WORDS.items() if any(word in said for word in words)]
    subject.expect(
        worlds, f'takes actions "{said}"', 'Say "any", "Discrete" or "Box" in the fact `actions`, in words of your own.'
    )
    return worlds


def _learns(subject: Subject) -> bool:
    return bool(getattr(subject.component.load(), "learns", True))


def _plan(subject: Subject, world: str, seeds: tuple[int, ...], **settings: Any) -> Plan:
    """A small run: few environments, a network of odd sizes where the algorithm takes any."""
    entry = subject.component
    model = entry.load_config() or AlgorithmConfig
    small = {name: value for name, value in SMALL.items() if name in model.model_fields}
    chosen = getattr(entry.load(), "defaults", {}).get("policy", "mlp")
    if (chosen if isinstance(chosen, str) else chosen.get("name", "mlp")) == "mlp":
        small["policy"] = {"name": "mlp", "hidden": (5, 8)}
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
        config = resolve([Layer(given, ".".join)], subject.catalog)
    except ConfigError:  # its settings don't go together with small ones
        config = resolve([Layer({k: v for k, v in given.items() if k not in SMALL}, ".".join)], subject.catalog)
    return make_plan(config, subject.catalog)


def _moved(config: RunConfig) -> Setting:
    """Another value for each float that may differ between members, as far as it is valid."""
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
def _rounds(subject: Subject, world: str, seeds: tuple[int, ...]) -> Iterator[Rounds]:
    with subject.doing(f"to train on {world} actions", f"See the check trains-{world}."):
        plan = _plan(subject, world, seeds)
    with _rounds_of(subject, world, plan) as run:
        yield run


@contextmanager
def _rounds_of(subject: Subject, world: str, plan: Plan) -> Iterator[Rounds]:
    with subject.doing(f"to train on {world} actions", f"See the check trains-{world}."):
        threads = torch.get_num_threads()
        torch.set_num_threads(plan.config.threads)  # sums are cut otherwise where there are more
        run = Rounds(plan)
        try:
            yield run
        finally:
            run.engine.close()
            torch.set_num_threads(threads)


def _trains(subject: Subject, world: str) -> None:
    claimed = world in _claimed(subject)
    advice = "Say in the fact `actions` what it takes, and raise UnfitError for the rest."
    with subject.doing(f"to train on {world} actions", advice):
        try:
            _whole_run(subject, _plan(subject, world, (SEED, 0), total_steps=150))
        except UnfitError:
            if claimed:
                raise


def _whole_run(subject: Subject, plan: Plan) -> None:
    """Train to the end; expect it to be a good one."""
    if plan.config.total_steps and plan.config.total_steps > 1000:
        plan = replace(plan, config=plan.config.model_copy(update={"total_steps": 150}))
    *_, ended = train(plan)
    assert isinstance(ended, RunEnded)
    subject.expect(
        set(ended.statuses) == {"finished"},
        f"doesn't come to its end: {ended.reasons[0]}",
        "Look for logarithms of 0 and for differences of infinities.",
    )
    _expect_finite(subject, ended.state)


def _expect_finite(subject: Subject, state: TrainState) -> None:
    bad = [k for k, v in (state.params | state.buffers).items() if not torch.isfinite(v).all()]
    subject.expect(not bad, f"ends with numbers that are not finite: {', '.join(bad)}", "Look where they come from.")


def _expect_equal(
    subject: Subject, one: Mapping[str, bytes], other: Mapping[str, bytes], what: str, advice: str
) -> None:
    apart = [name for name in one if one[name] != other.get(name)]
    subject.expect(not apart, f"{what} (first difference: {apart[0] if apart else ''})", advice)
