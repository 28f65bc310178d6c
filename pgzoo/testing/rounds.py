"""Small training runs that the checks of algorithms inspect and change, one update at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pgzoo.config import AlgorithmConfig, Layer
from pgzoo.errors import ConfigError
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import resolve
from pgzoo.testing import probes  # noqa: F401  registers the environments
from pgzoo.testing.target import CheckTarget, NotApplicable, generator_states
from pgzoo.training.engine import Engine, rounds_of
from pgzoo.training.plan import Plan, info_keys
from pgzoo.types import TrainState, Trajectory

__all__ = [
    "OTHERS",
    "SEED",
    "SMALL",
    "WORLDS",
    "Rounds",
    "Undisturbed",
    "claimed_worlds",
    "expect_equal",
    "memory_policy",
    "needed_info",
    "needs_of",
    "open_plan",
    "open_rounds",
    "plan_of",
    "trains_policy",
    "undisturbed",
]

WORLDS: Mapping[str, Mapping[str, Any]] = {
    "discrete": {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"action": "discrete"}},
    "box": {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"action": "one"}},
}
WORDS = {"discrete": ("any", "discrete"), "box": ("any", "box", "continuous")}
"""Words in the registered `actions` that stand for each kind of action space."""

SMALL: Mapping[str, Any] = {"rollout_steps": 12, "epochs": 2, "minibatches": 2, "critic_steps": 2}
"""Values for settings of these names: small, because checks don't test learning performance."""

SEED, OTHERS = 7, (0, 11, 3, 5, 1, 2, 20)
WARM_UP = 50
"""Maximum number of updates in which an algorithm may change no parameter, for example while it fills a buffer."""


class Rounds:
    """Trains like `training.train`, one update at a time, so that a check can inspect and change the state."""

    def __init__(self, plan: Plan) -> None:
        self.engine = Engine(plan)
        self.rounds = rounds_of(self.engine)

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

    def settle(self, more: int = 2) -> int:
        """Update until a parameter changes, and `more` times after that; return the number of updates.

        If no parameter changes in `WARM_UP` updates, or the algorithm doesn't train the policy, it stops there.
        """
        before = {name: leaf.clone() for name, leaf in self.engine.state.params.items()}
        limit = WARM_UP if before and getattr(self.engine.plan.algorithm, "learns", True) else 1
        count = 0
        while count < limit and not self.moved(before):
            self.update()
            count += 1
        self.update(more)
        return count + more

    def moved(self, before: Mapping[str, torch.Tensor]) -> list[str]:
        """Return the names of the parameters that differ from those of `before`."""
        return [name for name, leaf in self.engine.state.params.items() if not torch.equal(leaf, before[name])]

    def change_trajectories(self, change: Callable[[Trajectory], Trajectory]) -> None:
        """Pass every trajectory that is collected from now on through `change`."""
        engine: Any = self.engine

        def with_change(collect: Callable[..., tuple[TrainState, Trajectory]]) -> Callable[..., Any]:
            def changed(*arguments: Any, **named: Any) -> tuple[TrainState, Trajectory]:
                state, trajectory = collect(*arguments, **named)
                return state, change(trajectory)

            return changed

        engine.collect, engine.collect_while = with_change(engine.collect), with_change(engine.collect_while)

    def restart(self) -> None:
        """Continue from the state only, with a new instance of the algorithm, like a resumed run."""
        plan = self.engine.plan
        self.engine.plan = replace(plan, algorithm=type(plan.algorithm)())
        self.rounds = rounds_of(self.engine)

    def freeze(self, member: int) -> None:
        """Mark a seed as ended."""
        active = self.engine.state.active.copy()
        active[member] = False
        self.engine.state = self.engine.state._replace(active=active)

    def bits(self, member: int) -> dict[str, bytes]:
        """Return the bytes of a seed's parameters, buffers, optimizer state and step count, by name.

        A number that the optimizer has once for all parameters, `[S, 1]`, is repeated for each, `[S, P]`, as in the
        first step that is limited to some parameters.
        """
        state = self.engine.state
        size = sum(leaf[0].numel() for leaf in state.params.values())
        optimizer = {
            name: leaf.expand(-1, size) if leaf.shape[1:] == (1,) else leaf for name, leaf in state.optimizer.items()
        }
        trees = {"parameter ": state.params, "buffer ": state.buffers, "optimizer's ": optimizer}
        return {
            kind + name: np.ascontiguousarray(leaf[member].numpy()).tobytes()
            for kind, tree in trees.items()
            for name, leaf in tree.items()
        } | {"number of steps": state.env_steps[member].tobytes()}


@dataclass(frozen=True)
class Undisturbed:
    """A run in which nothing happens but updates. The checks compare it with runs that they evaluate, freeze, restart.

    It has `first` updates until a parameter changes (see `Rounds.settle`), and `updates` altogether.
    """

    first: int
    updates: int
    moved: Mapping[str, bool]
    """For each parameter whether it differs from the initial one after `first + 3` updates."""
    bits: list[dict[str, bytes]]
    """The bits of each seed after `first + 2` updates."""
    final_bits: list[dict[str, bytes]]
    """The bits of each seed after all updates."""
    metrics: Sequence[Mapping[str, Any]]
    """The metrics of each update, from `first` on."""
    generators: list[str]
    """The names of the global random generators that were used."""


def undisturbed(target: CheckTarget, world: str, seeds: tuple[int, ...]) -> Undisturbed:
    """Return a run of some seeds, made once for all checks of a component.

    It continues for three updates after the first one that changes a parameter. Several seeds continue for eleven if
    the algorithm may keep more than the state: a counter may matter only after many updates, for a target network.
    """
    key = f"undisturbed {world} {seeds}"
    if key not in target.remembered:
        with open_rounds(target, world, seeds) as run:
            before, states = {k: v.clone() for k, v in run.engine.state.params.items()}, generator_states()
            first, algorithm = run.settle(0), run.engine.plan.algorithm
            metrics, more = [run.engine.metrics.means()], 3
            if len(seeds) > 1 and (hasattr(algorithm, "loop") or vars(algorithm)):
                more = 11
            bits, moved = [], dict.fromkeys(before, False)
            for update in range(1, more + 1):
                run.update()
                metrics.append(run.engine.metrics.means())
                if update == 2:
                    bits = [run.bits(member) for member in range(len(seeds))]
                if update == 3:
                    moved |= dict.fromkeys(run.moved(before), True)
            used = [name for name, state in generator_states().items() if state != states[name]]
            final = [run.bits(member) for member in range(len(seeds))]
        target.remembered[key] = Undisturbed(first, first + more, moved, bits, final, metrics, used)
    found: Undisturbed = target.remembered[key]
    return found


def claimed_worlds(target: CheckTarget) -> list[str]:
    """Return the kinds of action that the algorithm claims to support."""
    claim = str(target.component.facts.get("actions", "any")).lower()
    worlds = [world for world, words in WORDS.items() if any(word in claim for word in words)]
    target.expect(worlds, f'is registered with actions="{claim}"', 'Use a text with "any", "Discrete" or "Box".')
    return worlds


def trains_policy(target: CheckTarget) -> bool:
    """Return whether the algorithm claims to train the policy."""
    return bool(getattr(target.component.load(), "learns", True))


def memory_policy(target: CheckTarget) -> dict[str, Any]:
    """Return a small recurrent policy. Raises NotApplicable if the algorithm doesn't train such policies."""
    if not target.component.facts.get("recurrent"):
        raise NotApplicable("it is registered without recurrent=True")
    known = [name for name in ("gru", "lstm") if name in target.catalog.names("policy")]
    if not known or not trains_policy(target):
        raise NotApplicable("no recurrent policy is installed" if not known else "it doesn't learn")
    return {"name": known[0], "hidden": (8,), "memory": 8}


def needs_of(target: CheckTarget) -> tuple[str, ...]:
    """Return the needs of the algorithm, for its default settings."""
    needs = getattr(target.component.load()(), "needs", ())
    if callable(needs):
        needs = needs((target.component.load_config() or AlgorithmConfig)())
    return (needs,) if isinstance(needs, str) else tuple(needs)


def needed_info(target: CheckTarget) -> list[str]:
    """Return the keys of the environment's info that the algorithm needs."""
    return list(info_keys(needs_of(target)))


def plan_of(target: CheckTarget, world: str, seeds: tuple[int, ...], **settings: Any) -> Plan:
    """Return the plan of a small run: few environments, and an mlp of odd sizes unless the algorithm needs another.

    A plan is made once for all checks; each call returns it with a new instance of the algorithm.
    """
    key = f"plan {world} {seeds} {settings}"
    if key not in target.remembered:
        target.remembered[key] = _new_plan(target, world, seeds, **settings)
    plan: Plan = target.remembered[key]
    return replace(plan, algorithm=type(plan.algorithm)())


@contextmanager
def open_rounds(target: CheckTarget, world: str, seeds: tuple[int, ...], **settings: Any) -> Iterator[Rounds]:
    """Open a small run of some seeds; an exception in it fails the check."""
    with target.errors_fail_check(f"to train on {world} actions", f"See the check trains-{world}."):
        plan = plan_of(target, world, seeds, **settings)
    with open_plan(target, world, plan) as run:
        yield run


@contextmanager
def open_plan(target: CheckTarget, world: str, plan: Plan) -> Iterator[Rounds]:
    """Open the run of a plan; an exception in it fails the check."""
    with target.errors_fail_check(f"to train on {world} actions", f"See the check trains-{world}."):
        run = Rounds(plan)
        try:
            yield run
        finally:
            run.engine.close()


def expect_equal(
    target: CheckTarget, one: Mapping[str, bytes], other: Mapping[str, bytes], what: str, advice: str
) -> None:
    """Expect the same bytes under each name."""
    different = [name for name in one if one[name] != other.get(name)]
    target.expect(not different, f"{what} (first difference: {different[0] if different else ''})", advice)


def _new_plan(target: CheckTarget, world: str, seeds: tuple[int, ...], **settings: Any) -> Plan:
    entry = target.component
    model = entry.load_config() or AlgorithmConfig
    small = {name: value for name, value in SMALL.items() if name in model.model_fields}
    chosen = getattr(entry.load(), "defaults", {}).get("policy", "mlp")
    if (chosen if isinstance(chosen, str) else chosen.get("name", "mlp")) == "mlp":
        small["policy"] = ({} if isinstance(chosen, str) else dict(chosen)) | {"name": "mlp", "hidden": (5, 8)}
    given: dict[str, Any] = {
        "algorithm": entry.name,
        "num_envs": 4,
        "eval_episodes": 2,
        "total_steps": 100_000,
        **WORLDS[world],
        **small,
        "seeds": seeds,
        **settings,
    }
    if keys := needed_info(target):
        given["env_kwargs"] = given["env_kwargs"] | {"info": keys}
    try:
        config = resolve([Layer(given, ".".join)], target.catalog)
    except ConfigError:  # small sizes are invalid for this algorithm
        config = resolve([Layer({k: v for k, v in given.items() if k not in SMALL}, ".".join)], target.catalog)
    return make_plan(config, target.catalog)
