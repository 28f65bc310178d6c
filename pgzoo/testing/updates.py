"""The checks of what an algorithm computes in its updates: its losses, and what it does with its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgzoo.ops.acting import actor_for
from pgzoo.ops.draws import draw_noise
from pgzoo.ops.members import map_leaves
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.ops.optim import unflatten
from pgzoo.testing.probes import Bandit, Target
from pgzoo.testing.rounds import SEED, Rounds, claimed_worlds, open_rounds, trains_policy
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, bitwise_equal, checks_by_name
from pgzoo.training.gradients import gradient
from pgzoo.training.plan import CRITIC, POLICY
from pgzoo.types import ActorInputs, Batch, Episodes, Hyper, Loss, LossFunction, Params, Targets, TrainState, Trajectory

__all__ = ["CHECKS"]

MAX_STEPS = 3
"""Number of gradient steps whose losses are examined."""

Change = Callable[[Trajectory, bool], Trajectory]
"""Returns a changed copy of a trajectory; the flag says whether it consists of whole episodes."""

ONE_STEP: Mapping[str, Mapping[str, Any]] = {
    "discrete": {"env": "pgzoo/Bandit-v0", "env_kwargs": {}},
    "box": {"env": "pgzoo/Target-v0", "env_kwargs": {}},
}


@dataclass(frozen=True)
class RecordedStep:
    """The arguments of a gradient step."""

    policy: Any
    loss: LossFunction
    state: TrainState
    batch: Batch
    hyper: Hyper
    only: str

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
            self.state == other.state or bool(self.step and not _different(self.step, other.step))
        )


@dataclass
class Recording:
    """What an algorithm did in its first updates: gradient steps, and tensors that it should not have changed."""

    steps: list[RecordedStep] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    """Descriptions of losses of a wrong shape."""
    inputs: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """Names, tensors and copies of the trajectories, targets and batches of an update."""
    parameters: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """Names, tensors and copies of the parameters of an update."""
    changed_inputs: list[str] = field(default_factory=list)
    changed_parameters: list[str] = field(default_factory=list)

    def watch(self, run: Rounds) -> None:
        """Record what the algorithm does in the updates of a run."""
        engine: Any = run.engine
        step, find_gradient, collect, estimate = engine.step, engine.gradient, engine.collect, engine.estimate

        def look(loss: LossFunction, state: TrainState, batch: Batch, only: str) -> None:
            self.inputs += [(f"batch.{name}", leaf, leaf.clone()) for name, leaf in _tensors(batch)]
            hyper = engine.hyper(state)
            if len(self.steps) < MAX_STEPS:
                kept: Batch = map_leaves(torch.clone, batch)
                self.steps.append(RecordedStep(engine.policy, loss, state, kept, hyper, only))
            with torch.no_grad():
                found = loss(engine.policy, state.params | state.buffers, map_leaves(torch.clone, batch), hyper)
            value = found.value if isinstance(found, Loss) else found
            if not isinstance(value, Tensor) or tuple(value.shape) != (len(state.active),):
                self.shapes.append(f"{list(value.shape) if isinstance(value, Tensor) else type(value).__name__}")

        def watched_step(loss: LossFunction, state: TrainState, batch: Batch, only: str = "") -> TrainState:
            look(loss, state, batch, only)
            after: TrainState = step(loss, state, batch, only)
            self.parameters += [(name, leaf, leaf.clone()) for name, leaf in after.params.items()]
            return after

        def watched_gradient(loss: LossFunction, state: TrainState, batch: Batch, only: str = "") -> Any:
            look(loss, state, batch, only)
            return find_gradient(loss, state, batch, only)

        def watched_collect(state: TrainState) -> tuple[TrainState, Trajectory]:
            state, trajectory = collect(state)
            self.inputs += [(f"trajectory.{name}", leaf, leaf.clone()) for name, leaf in _tensors(trajectory)]
            return state, trajectory

        def watched_estimate(*args: Any, **kwargs: Any) -> Targets:
            targets: Targets = estimate(*args, **kwargs)
            self.inputs += [(f"targets.{name}", leaf, leaf.clone()) for name, leaf in _tensors(targets)]
            return targets

        engine.step, engine.gradient = watched_step, watched_gradient
        engine.collect, engine.estimate = watched_collect, watched_estimate

    def update(self, run: Rounds) -> None:
        """Run one update, and compare all tensors with their copies."""
        self.inputs, self.parameters = [], [(k, v, v.clone()) for k, v in run.engine.state.params.items()]
        run.update()
        self.changed_inputs += [name for name, leaf, copy in self.inputs if not bitwise_equal(leaf, copy)]
        self.changed_parameters += [name for name, leaf, copy in self.parameters if not bitwise_equal(leaf, copy)]


def loss_shape(target: CheckTarget) -> None:
    """A loss has shape `[S]`: one number per seed."""
    with suppress(Exception):  # what else fails is reported by the checks trains-discrete and trains-box
        _recording(target)
    shapes = target.remembered["recording"].shapes if "recording" in target.remembered else []
    target.expect(
        not shapes,
        f"returns a loss of shape {shapes[0] if shapes else ''} for 2 seeds; expected [2]",
        "The seeds of a run are trained in one batch [S, T, B], each by its own loss. Reduce over the rows only: "
        "weighted_mean(x, batch.weights) of pgzoo.ops.losses returns one number per seed.",
    )


def padding(target: CheckTarget) -> None:
    """Rows of weight 0 change no loss, no metric and no gradient, whatever they contain and however many there are."""
    advice = (
        "Batches are padded with rows of weight 0, and steps that only reset an environment are such rows, too. Their "
        "number depends on the other seeds, so they must not count. Use weighted_mean(x, batch.weights) and the other "
        "reductions of pgzoo.ops.losses instead of x.mean() and x.std(), and targets.weights for whole trajectories."
    )
    for step in _recording(target).steps:
        if step.batch.inputs.memory is not None:
            continue
        expected = step.results(step.batch, moved=True)
        for what, other in {"are added": _padded(step.batch), "contain other numbers": _littered(step.batch)}.items():
            different = _different(expected, step.results(other, moved=True))
            target.expect(not different, f"computes another {different} if rows of weight 0 {what}", advice)
    world = claimed_worlds(target)[0]
    plain, other = _updated(target, world, _same), _updated(target, world, _with_other_invalid_steps)
    target.expect(
        plain is None or plain.like(other) or not plain.like(_updated(target, world, _same)),  # no two runs are equal
        "trains differently if the steps of a trajectory that are not valid change",
        advice,
    )


def bootstrap(target: CheckTarget) -> None:
    """What is observed after a terminated step changes nothing: the episode is over."""
    world = _world_with_critic(target)
    plain, other = (_updated(target, world, _with_end("terminated", shift)) for shift in (0.0, 1.0))
    target.expect(
        plain is None
        or plain.like(other)
        or not plain.like(_updated(target, world, _with_end("terminated", 0.0))),  # no two runs are equal
        "uses the value of the observation after a terminated step",
        "Nothing follows a terminal state, so its value is 0. Pass terminated and truncated to ctx.estimate as they "
        "are in the trajectory, or use the next value only where not terminated.",
    )


def truncation(target: CheckTarget) -> None:
    """What is observed after a truncated step matters: its value is the rest of the return."""
    world = _world_with_critic(target)
    plain, other = (_updated(target, world, _with_end("truncated", shift)) for shift in (0.0, 1.0))
    target.expect(
        plain is None or other is None or plain.state != other.state,
        "doesn't use the value of the observation after a truncated step",
        "A time limit isn't a failure: taking the rest of the return as 0 there punishes states for being late. Keep "
        "terminated and truncated apart, as they are in the trajectory; ctx.estimate bootstraps after a truncation.",
    )


def row_advantages(target: CheckTarget) -> None:
    """Each row's advantage weighs the log-probability of its own action."""
    steps = [step for step in _recording(target).steps if step.batch.inputs.memory is None]
    if not steps:
        raise NotApplicable("it takes no gradient steps on single steps of a trajectory")
    used = matched = False
    for step in steps:
        swapped, none = (step.policy_gradient(change(step.batch)) for change in (_swapped, _without_advantages))
        ours = step.policy_gradient(step.batch)
        used |= bool(_different(ours, none))
        matched |= bool(_different(ours, swapped))
    target.expect(
        matched or not used,
        "has the same gradient if the advantages of two rows are exchanged",
        "Every advantage is multiplied by every log-probability, because shapes such as [B] and [B, 1] were broadcast "
        "to [B, B]. Keep the shape [S, T, B] of the batch in all terms, without unsqueeze or squeeze.",
    )


def critic_gradient(target: CheckTarget) -> None:
    """The critic is trained by its own loss only: its gradient doesn't depend on which actions were taken."""
    steps = [step for step in _recording(target).steps if any(name.startswith(CRITIC) for name in step.state.params)]
    if not steps:
        raise NotApplicable("it trains no critic by gradient steps")
    for step in steps:
        other = step.batch._replace(actions=step.batch.actions.roll(1, 2))
        ours, theirs = (
            {k: v for k, v in step.results(batch).items() if k.startswith(f"gradient of {CRITIC}")}
            for batch in (step.batch, other)
        )
        different = _different(ours, theirs)
        target.expect(
            not different,
            f"has a {different} that depends on the actions",
            "The gradient of the policy's loss leaks into the critic through the advantage, so that the critic is "
            "trained to make advantages large. Use batch.advantages, or detach the values: output.value.detach().",
        )


def inputs_unchanged(target: CheckTarget) -> None:
    """Trajectories, targets and batches aren't written into."""
    changed = sorted(set(_recording(target).changed_inputs))
    target.expect(
        not changed,
        f"writes into {', '.join(changed)}",
        "The same tensors are used again, in the next epoch or for a metric. Compute new tensors: x = x - m instead of "
        "x -= m, batch._replace(advantages=...) instead of batch.advantages.copy_(...).",
    )


def in_place(target: CheckTarget) -> None:
    """Parameters aren't edited in place: they change by ctx.step, ctx.move and ctx.place."""
    changed = sorted(set(_recording(target).changed_parameters))
    target.expect(
        not changed,
        f"edits parameters in place: {', '.join(changed)}",
        "Earlier states share these tensors: a seed that has ended, a state that is discarded and a checkpoint would "
        "change, too. Return a new state: state._replace(params={name: 0.99 * value ...}), or use ctx.place.",
    )


def sampled_actions(target: CheckTarget) -> None:
    """Log-probabilities are those of the sampled actions, not of the actions after clipping to the Box."""
    if "box" not in claimed_worlds(target):
        raise NotApplicable("it doesn't support Box actions")
    near, far = (_updated(target, "box", _with_far_actions(distance)) for distance in (1.0, 2.0))
    if near is None or far is None:
        raise NotApplicable("it takes no gradient steps on the actions of a trajectory")
    target.expect(
        near.state != far.state,
        "trains the same for different sampled actions, if clipping to the Box makes them equal",
        "The policy's density is that of the sample: that of the clipped action is another, and so is its gradient. "
        "Use trajectory.actions and batch.actions without clipping; only the environment gets the clipped action.",
    )


def improves(target: CheckTarget) -> None:
    """Training raises the mean reward in a problem of one step."""
    if not trains_policy(target):
        raise NotApplicable("it has `learns = False`")
    world = claimed_worlds(target)[0]
    seeds = (SEED, 0, 3, 5)
    with open_rounds(target, world, seeds, num_envs=16, **ONE_STEP[world]) as run:
        if run.engine.policy.memory_size:
            raise NotApplicable("its default policy has memory")
        before = _mean_rewards(run, world)
        run.settle(UPDATES)
        gain = float((_mean_rewards(run, world) - before).mean())
    target.expect(
        gain > -1e-6,
        f"lowers the mean reward in {ONE_STEP[world]['env']} (by {-gain:.2g} in {UPDATES} updates, mean of "
        f"{len(seeds)} seeds)",
        "Losses are minimized: look for a wrong sign. The policy's loss is -weighted_mean(log_prob * advantages, "
        "weights), and a bonus is subtracted from it.",
    )


UPDATES = 8
"""Number of updates in the check `improves`."""

CHECKS: Mapping[str, Check] = checks_by_name(
    (
        loss_shape,
        padding,
        bootstrap,
        truncation,
        row_advantages,
        critic_gradient,
        inputs_unchanged,
        in_place,
        sampled_actions,
        improves,
    )
)


def _recording(target: CheckTarget) -> Recording:
    """Return the record of the first updates, made once for all checks of a component."""
    if "recording" not in target.remembered:
        recording = target.remembered["recording"] = Recording()
        with open_rounds(target, claimed_worlds(target)[0], (SEED, 0)) as run:
            recording.watch(run)
            before = {name: leaf.clone() for name, leaf in run.engine.state.params.items()}
            for _ in range(1 if not trains_policy(target) else 50):
                recording.update(run)
                if run.moved(before):
                    break
            recording.update(run)
    recorded: Recording = target.remembered["recording"]
    return recorded


def _tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree with their names."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict) or hasattr(tree, "_asdict"):
        for key, part in (tree if isinstance(tree, dict) else tree._asdict()).items():
            yield from _tensors(part, f"{name}.{key}".removeprefix("."))
    elif hasattr(tree, "map"):  # a distribution
        found: list[Tensor] = []

        def keep(leaf: Tensor) -> Tensor:
            found.append(leaf)
            return leaf

        tree.map(keep)
        yield from ((name, leaf) for leaf in found)


def _padded(batch: Batch) -> Batch:
    """Return the batch with more rows of weight 0, copies of the first ones."""
    rows = min(ROW_BLOCK, batch.weights.shape[2])
    padded: Batch = map_leaves(lambda leaf: torch.cat([leaf, leaf[:, :, :rows]], 2), batch)
    weights = padded.weights.clone()
    weights[:, :, -rows:] = 0.0
    return padded._replace(weights=weights)


def _littered(batch: Batch) -> Batch:
    """Return the batch with more rows of weight 0, and other numbers in all rows of weight 0."""
    batch = _padded(batch)
    changed: dict[str, Any] = {}
    for name in ("advantages", "returns", "values", "log_probs"):
        leaf = getattr(batch, name)
        if leaf is not None:
            changed[name] = torch.where(batch.weights > 0, leaf, leaf + 1.0)
    obs = batch.inputs.obs
    if obs.is_floating_point():
        weights = batch.weights.reshape(*batch.weights.shape, *[1] * (obs.ndim - 3))
        changed["inputs"] = batch.inputs._replace(obs=torch.where(weights > 0, obs, obs + 3.0))
    return batch._replace(**changed)


def _swapped(batch: Batch) -> Batch:
    """Return the batch with the advantages and returns of two rows exchanged, of the most different ones."""
    low = torch.where(batch.weights > 0, batch.advantages, torch.inf)[:, 0].argmin(1)
    high = torch.where(batch.weights > 0, batch.advantages, -torch.inf)[:, 0].argmax(1)
    member = torch.arange(len(low))
    changed: dict[str, Any] = {}
    for name in ("advantages", "returns"):
        leaf = getattr(batch, name).clone()
        leaf[member, 0, low], leaf[member, 0, high] = leaf[member, 0, high], leaf[member, 0, low]
        changed[name] = leaf
    return batch._replace(**changed)


def _without_advantages(batch: Batch) -> Batch:
    """Return the batch with other advantages and returns, in another ratio to each other."""
    return batch._replace(advantages=-2 * batch.advantages, returns=-2 * batch.returns)


def _different(expected: Params, found: Params) -> str:
    """Return the name of the first result that differs by more than rounding, or an empty string."""
    for name, value in expected.items():
        finite = value[value.isfinite()].abs()
        tolerance = 2e-5 * max(1e-6, float(finite.max()) if len(finite) else 0.0)
        if not torch.allclose(value, found[name], rtol=0.0, atol=tolerance, equal_nan=True):
            return name
    return ""


def _updated(target: CheckTarget, world: str, change: Change) -> Updated | None:
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


def _world_with_critic(target: CheckTarget) -> str:
    """Return a kind of actions. Raises NotApplicable if the algorithm doesn't estimate returns with a critic."""
    if (world := claimed_worlds(target)[0]) and "critic" not in target.remembered:
        with open_rounds(target, world, (SEED,)) as run:
            takes = inspect.signature(run.engine.plan.estimator).parameters
            critic = any(name.startswith(CRITIC) for name in run.engine.state.params)
            target.remembered["critic"] = critic and "next_values" in takes
    if not target.remembered["critic"]:
        raise NotApplicable("it estimates returns without a critic")
    return world


def _same(trajectory: Trajectory, whole_episodes: bool) -> Trajectory:
    return trajectory


def _with_other_invalid_steps(trajectory: Trajectory, whole_episodes: bool) -> Trajectory:
    """Return the trajectory with other actions in steps that are not valid, and more such steps after whole episodes.

    A window has a fixed number of steps.
    """
    valid = trajectory.valid.reshape(*trajectory.valid.shape, *[1] * (trajectory.actions.ndim - 3))
    changed = trajectory._replace(actions=torch.where(valid, trajectory.actions, trajectory.actions.flip(1)))
    if not whole_episodes:
        return changed
    padded = changed._asdict()
    for name, leaf in _tensors(changed._replace(memory=None)):
        last = leaf[:, -1:] if name in ("obs", "actions", "action_mask") else torch.zeros_like(leaf[:, -1:])
        padded[name] = torch.cat([leaf, *[last] * 8], 1)
    return Trajectory(**padded)


def _with_end(kind: str, shift: float) -> Change:
    """Return the function that ends episodes by `terminated` or `truncated`, and shifts their last observations."""

    def change(trajectory: Trajectory, whole_episodes: bool) -> Trajectory:
        at = min(5, trajectory.valid.shape[1] - 3)
        ending = trajectory.valid[:, at : at + 3].all(1)  # [S, N]
        fields = {name: leaf.clone() for name, leaf in _tensors(trajectory)}
        for name in ("terminated", "truncated"):
            fields[name][:, at : at + 2] &= ~ending[:, None]
        fields[kind][:, at] |= ending
        fields["valid"][:, at + 1] &= ~ending
        fields["rewards"][:, at + 1] *= ~ending
        fields["starts"][:, at + 2] |= ending
        fields["obs"][:, at + 1][ending] += torch.tensor(shift).to(fields["obs"].dtype)
        return trajectory._replace(**fields)

    return change


def _with_far_actions(distance: float) -> Change:
    """Return the function that puts every third action outside of the Box, at this distance from the bound."""

    def change(trajectory: Trajectory, whole_episodes: bool) -> Trajectory:
        actions = trajectory.actions.clone()
        actions[:, ::3] = 2.0 + distance  # the bound of the world "box" is 2
        return trajectory._replace(actions=actions)

    return change


def _mean_rewards(run: Rounds, world: str) -> Tensor:
    """Return the mean reward of the policy in a one-step world, `[S]`, for the same noise in every call."""
    plan, rows = run.engine.plan, 512
    noise = draw_noise(plan.policy.noise, np.random.default_rng(0), (len(plan.seeds), rows, plan.policy.noise_size))
    obs = np.ones((len(plan.seeds), rows, 1), np.float32)
    actions = actor_for(plan.policy, plan.policy_params(run.engine.state))(ActorInputs(obs), noise)[0]
    env = Bandit() if world == "discrete" else Target()
    sent = plan.policy.to_env(actions)
    return torch.tensor([[env.step(action)[1] for action in member] for member in sent]).mean(1)
