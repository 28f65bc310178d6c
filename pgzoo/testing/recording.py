"""A record of the first updates of an algorithm, for the checks of its losses and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pgzoo.ops.members import map_leaves
from pgzoo.ops.optim import unflatten
from pgzoo.testing.rounds import SEED, WARM_UP, Rounds, claimed_worlds, open_rounds, trains_policy
from pgzoo.testing.target import CheckTarget, bitwise_equal
from pgzoo.training.diagnostics import copied
from pgzoo.training.gradients import gradient, not_a_loss
from pgzoo.training.plan import POLICY
from pgzoo.types import Batch, Episodes, Hyper, Loss, LossFunction, Params, Targets, TrainState, Trajectory

__all__ = [
    "Change",
    "RecordedStep",
    "Recording",
    "Updated",
    "first_difference",
    "named_tensors",
    "recording_of",
    "updated_with",
]

MAX_STEPS = 3
"""Number of gradient steps whose losses are examined."""

MAX_LOSSES = 8
"""Number of different losses whose first step is evaluated again at every later step."""

MORE_UPDATES = 10
"""Further updates of an algorithm with attributes of its own: one that a loss reads may change only now and then."""

NAMES = {"value": "loss", "halt": "value of `halt`"}
"""What messages call the parts of a `Loss`."""

Change = Callable[[Trajectory, bool], Trajectory]
"""Returns a changed copy of a trajectory; the flag says whether it consists of whole episodes."""


@dataclass(frozen=True)
class RecordedStep:
    """The arguments of a gradient step."""

    policy: Any
    loss: LossFunction
    state: TrainState
    batch: Batch
    hyper: Hyper
    only: str | tuple[str, ...]

    def results(self, batch: Batch, *, moved: bool = False) -> dict[str, Tensor]:
        """Return the loss `[S]`, its metrics `[S]` and its gradients `[S, ...]` on a batch.

        If `moved`, the parameters are others: with the initial ones, the distributions of all rows are nearly equal.
        """
        params = self.state.params
        if moved:
            rng = torch.Generator().manual_seed(0)
            params = {k: v + 0.5 * torch.randn(v.shape, generator=rng, dtype=v.dtype) for k, v in params.items()}
        found, vector = gradient(self.loss, self.policy, params, self.state.buffers, batch, self.hyper, self.only)
        gradients = {f"gradient of {k}": v for k, v in unflatten(vector, params).items()}
        return {"loss": found.value, **{f"metric {k}": v for k, v in found.metrics.items()}, **gradients}

    def evaluated(self) -> dict[str, Tensor]:
        """Return what the loss returns for the recorded arguments, by name."""
        tensors, batch = self.state.params | self.state.buffers, map_leaves(torch.clone, self.batch)
        with torch.no_grad():
            found = self.loss(self.policy, tensors, batch, self.hyper)
        result = found._asdict() if isinstance(found, Loss) else {"value": found}
        return {NAMES.get(name, name.replace("metrics.", "metric ")): leaf for name, leaf in named_tensors(result)}

    def policy_gradient(self, batch: Batch) -> dict[str, Tensor]:
        """Return the gradients of the policy's parameters on a batch."""
        found = self.results(batch)
        return {name: value for name, value in found.items() if name.startswith(f"gradient of {POLICY}")}


@dataclass(frozen=True)
class Updated:
    """What became of a trajectory: the first gradient step, and the state after it."""

    step: dict[str, Tensor]
    state: dict[str, bytes]

    def like(self, other: Updated | None) -> bool:
        """Return whether both are equal up to rounding.

        The states alone can't tell: an optimizer may turn a rounding error of a gradient into a step of full length.
        """
        return other is not None and (
            self.state == other.state or bool(self.step and not first_difference(self.step, other.step))
        )


@dataclass
class Recording:
    """What an algorithm did in its first updates: gradient steps, and tensors that it should not have changed."""

    steps: list[RecordedStep] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    """The shapes of losses of a wrong shape."""
    others: list[str] = field(default_factory=list)
    """Descriptions of what loss functions returned instead of a loss."""
    inputs: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """Names, tensors and copies of the trajectories, targets and batches of an update."""
    parameters: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """Names, tensors and copies of the parameters of an update."""
    losses: list[tuple[RecordedStep, dict[str, Tensor]]] = field(default_factory=list)
    """The first step on each loss, and what the loss returned then."""
    changed_inputs: list[str] = field(default_factory=list)
    changed_parameters: list[str] = field(default_factory=list)
    changed_losses: list[str] = field(default_factory=list)
    """What a loss returned differently in a later step for the arguments of its first one."""

    def watch(self, run: Rounds) -> None:
        """Record what the algorithm does in the updates of a run."""
        engine: Any = run.engine
        step, find_gradient, collect, estimate = engine.step, engine.gradient, engine.collect, engine.estimate

        def watched_step(
            loss: LossFunction,
            state: TrainState,
            batch: Batch,
            only: str | tuple[str, ...] = "",
            *more: Any,
            **named: Any,
        ) -> TrainState:
            self._keep_step(engine, loss, state, batch, only)
            self._check_loss(engine, loss, state, batch, only)
            after: TrainState = step(loss, state, batch, only, *more, **named)
            self.parameters += [(name, leaf, leaf.clone()) for name, leaf in after.params.items()]
            return after

        def watched_gradient(
            loss: LossFunction, state: TrainState, batch: Batch, only: str | tuple[str, ...] = ""
        ) -> Any:
            self._keep_step(engine, loss, state, batch, only)
            return find_gradient(loss, state, batch, only)

        def watched_collect(state: TrainState, noise: Tensor | None = None) -> tuple[TrainState, Trajectory]:
            state, trajectory = collect(state, noise)
            self.inputs += [(f"trajectory.{name}", leaf, leaf.clone()) for name, leaf in named_tensors(trajectory)]
            return state, trajectory

        def watched_estimate(*args: Any, **kwargs: Any) -> Targets:
            targets: Targets = estimate(*args, **kwargs)
            self.inputs += [(f"targets.{name}", leaf, leaf.clone()) for name, leaf in named_tensors(targets)]
            return targets

        def watched_steps(loss: Any, state: Any, batches: Any, only: Any = "", learning_rates: Any = None) -> Any:
            for batch in batches:
                state = watched_step(loss, state, batch, only, learning_rates=learning_rates)
            return state

        engine.step, engine.steps, engine.gradient = watched_step, watched_steps, watched_gradient
        engine.collect, engine.estimate = watched_collect, watched_estimate

    def update(self, run: Rounds) -> None:
        """Run one update, and compare all tensors with their copies."""
        self.inputs, self.parameters = [], [(k, v, v.clone()) for k, v in run.engine.state.params.items()]
        run.update()
        self.changed_inputs += [name for name, leaf, copy in self.inputs if not bitwise_equal(leaf, copy)]
        self.changed_parameters += [name for name, leaf, copy in self.parameters if not bitwise_equal(leaf, copy)]

    def _keep_step(
        self, engine: Any, loss: LossFunction, state: TrainState, batch: Batch, only: str | tuple[str, ...]
    ) -> None:
        """Keep the first steps, the batches, the shapes of losses of a wrong shape, and what isn't a loss."""
        self.inputs += [(f"batch.{name}", leaf, leaf.clone()) for name, leaf in named_tensors(batch)]
        hyper = engine.hyper(state)
        if len(self.steps) < MAX_STEPS:
            kept: Batch = map_leaves(torch.clone, batch)
            self.steps.append(RecordedStep(engine.policy, loss, state, kept, hyper, only))
        with torch.no_grad():
            found = loss(engine.policy, state.params | state.buffers, map_leaves(torch.clone, batch), hyper)
        if other := not_a_loss(found):
            self.others.append(other)
            return
        value = found.value if isinstance(found, Loss) else found
        if tuple(value.shape) != (len(state.active),):
            self.shapes.append(str(list(value.shape)))

    def _check_loss(
        self, engine: Any, loss: LossFunction, state: TrainState, batch: Batch, only: str | tuple[str, ...]
    ) -> None:
        """Keep the first step on each loss; in a later one, evaluate it again."""
        step, before = next(((step, found) for step, found in self.losses if step.loss == loss), (None, {}))
        if step is not None:
            now = step.evaluated()
            same = [name in now and bitwise_equal(leaf, now[name]) for name, leaf in before.items()]
            self.changed_losses += [name for name, equal in zip(before, same, strict=True) if not equal]
        elif len(self.losses) < MAX_LOSSES:
            kept, hyper = map_leaves(torch.clone, batch), engine.hyper(state)
            step = RecordedStep(engine.policy, loss, copied(state), kept, hyper, only)
            self.losses.append((step, step.evaluated()))


def recording_of(target: CheckTarget, **settings: Any) -> Recording:
    """Return the record of the first updates, made once for all checks of a component."""
    key = f"recording {settings}" if settings else "recording"
    if key not in target.remembered:
        recording = target.remembered[key] = Recording()
        with open_rounds(target, claimed_worlds(target)[0], (SEED, 0), **settings) as run:
            recording.watch(run)
            before = {name: leaf.clone() for name, leaf in run.engine.state.params.items()}
            for _ in range(1 if not trains_policy(target) else WARM_UP):
                recording.update(run)
                if run.moved(before):
                    break
            for _ in range(1 + (MORE_UPDATES if vars(run.engine.plan.algorithm) else 0)):
                recording.update(run)
    recorded: Recording = target.remembered[key]
    return recorded


def updated_with(target: CheckTarget, world: str, change: Change) -> Updated | None:
    """Return what an algorithm does with changed trajectories, up to the first update that moves a parameter.

    None if it uses no trajectory, or changes no parameter.
    """
    used = []

    def changed(trajectory: Trajectory) -> Trajectory:
        used.append(trajectory)
        return change(trajectory, isinstance(run.engine.plan.collection, Episodes))

    with open_rounds(target, world, (SEED,)) as run:
        recording = Recording()
        recording.watch(run)
        run.change_trajectories(changed)
        before = {name: leaf.clone() for name, leaf in run.engine.state.params.items()}
        run.settle(0)
        if not used or not run.moved(before) or used[-1].memory is not None:
            return None
        first = recording.steps[0] if recording.steps else None
        return Updated(first.results(first.batch) if first else {}, run.bits(0))


def named_tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree with their names."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict) or hasattr(tree, "_asdict"):
        for key, part in (tree if isinstance(tree, dict) else tree._asdict()).items():
            yield from named_tensors(part, f"{name}.{key}".removeprefix("."))
    elif hasattr(tree, "map"):  # a distribution
        found: list[Tensor] = []

        def keep(leaf: Tensor) -> Tensor:
            found.append(leaf)
            return leaf

        tree.map(keep)
        yield from ((name, leaf) for leaf in found)


def first_difference(expected: Params, found: Params) -> str:
    """Return the name of the first result that differs by more than rounding, or an empty string."""
    for name, value in expected.items():
        finite = value[value.isfinite()].abs()
        tolerance = 2e-5 * max(1e-6, float(finite.max()) if len(finite) else 0.0)
        if not torch.allclose(value, found[name], rtol=0.0, atol=tolerance, equal_nan=True):
            return name
    return ""
