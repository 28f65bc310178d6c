"""The checks of what an algorithm computes in its updates: its losses, and what it does with its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgzoo.ops.acting import actor_for
from pgzoo.ops.draws import draw_noise
from pgzoo.testing.changes import (
    before_start,
    littered,
    padded,
    same,
    swapped,
    with_end,
    with_far_actions,
    with_other_advantages,
    with_other_info,
    with_other_invalid_steps,
)
from pgzoo.testing.probes import Bandit, Target
from pgzoo.testing.recording import first_difference, recording_of, updated_with
from pgzoo.testing.rounds import (
    SEED,
    Rounds,
    claimed_worlds,
    memory_policy,
    needed_info,
    needs_of,
    open_rounds,
    trains_policy,
)
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, checks_by_name
from pgzoo.training import gradients
from pgzoo.training.plan import CRITIC
from pgzoo.types import ActorInputs, TrainState, Trajectory

__all__ = ["CHECKS"]

ONE_STEP: Mapping[str, Mapping[str, Any]] = {
    "discrete": {"env": "pgzoo/Bandit-v0", "env_kwargs": {}},
    "box": {"env": "pgzoo/Target-v0", "env_kwargs": {}},
}


def loss_shape(target: CheckTarget) -> None:
    """A loss has shape `[S]`: one number per seed."""
    with suppress(Exception):  # what else fails is reported by the checks trains-discrete and trains-box
        recording_of(target)
    recording = target.remembered.get("recording")
    shapes, others = (recording.shapes, recording.others) if recording else ([], [])
    target.expect(
        not others,
        f"has a loss function that returns {others[0] if others else ''}",
        f"Let it {gradients.RETURN}.",
    )
    target.expect(
        not shapes,
        f"returns a loss of shape {shapes[0] if shapes else ''} for 2 seeds; expected [2]",
        f"The seeds of a run are trained in one batch [S, T, B], each by its own loss. {gradients.REDUCE}.",
    )


def loss_arguments(target: CheckTarget) -> None:
    """A loss depends on its arguments only: evaluated again in later updates, it returns the same, bit for bit."""
    recording = recording_of(target)
    if not recording.losses:
        raise NotApplicable("it takes no gradient steps")
    changed = sorted(set(recording.changed_losses))
    target.expect(
        not changed,
        f"computes another {changed[0] if changed else ''} from the same arguments in a later step",
        "A compiled run keeps what a loss reads besides its arguments, such as self.beta, as it was in the first step, "
        "without a warning. Put tensors that change into state.buffers, which arrive in `params`; data of the rows, "
        "such as noise, into `extra` of ctx.minibatches, which arrives in batch.extra; and constants into the "
        "settings, which arrive in `hyper`.",
    )


def padding(target: CheckTarget) -> None:
    """Rows of weight 0 change no loss, no metric and no gradient, whatever they contain and however many there are."""
    advice = (
        "Batches are padded with rows of weight 0, and steps that only reset an environment are such rows, too. Their "
        "number depends on the other seeds, so they must not count. Use weighted_mean(x, batch.weights) and the other "
        "reductions of pgzoo.ops.losses instead of x.mean() and x.std(), and targets.weights for whole trajectories."
    )
    for step in recording_of(target).steps:
        if step.batch.inputs.memory is not None:
            continue
        expected = step.results(step.batch, moved=True)
        for what, other in {"are added": padded(step.batch), "contain other numbers": littered(step.batch)}.items():
            different = first_difference(expected, step.results(other, moved=True))
            target.expect(not different, f"computes another {different} if rows of weight 0 {what}", advice)
    world = claimed_worlds(target)[0]
    plain, littered_too = updated_with(target, world, same), updated_with(target, world, with_other_invalid_steps)
    target.expect(
        plain is None
        or plain.like(littered_too)
        or not plain.like(updated_with(target, world, same)),  # no two runs are equal
        "trains differently if the steps of a trajectory that are not valid change",
        advice,
    )


def bootstrap(target: CheckTarget) -> None:
    """What is observed after a terminated step changes nothing: the episode is over."""
    world = _world_with_critic(target)
    plain, other = (updated_with(target, world, with_end("terminated", shift)) for shift in (0.0, 1.0))
    target.expect(
        plain is None
        or plain.like(other)
        or not plain.like(updated_with(target, world, with_end("terminated", 0.0))),  # as in `padding`
        "uses the value of the observation after a terminated step",
        "Nothing follows a terminal state, so its value is 0. Pass terminated and truncated to ctx.estimate as they "
        "are in the trajectory, or use the next value only where not terminated.",
    )


def truncation(target: CheckTarget) -> None:
    """What is observed after a truncated step matters: its value is the rest of the return."""
    world = _world_with_critic(target)
    plain, other = (updated_with(target, world, with_end("truncated", shift)) for shift in (0.0, 1.0))
    target.expect(
        plain is None or other is None or plain.state != other.state,
        "doesn't use the value of the observation after a truncated step",
        "A time limit isn't a failure: taking the rest of the return as 0 there punishes states for being late. Keep "
        "terminated and truncated apart, as they are in the trajectory; ctx.estimate bootstraps after a truncation.",
    )


def row_advantages(target: CheckTarget) -> None:
    """Each row's advantage weighs the log-probability of its own action."""
    steps = [step for step in recording_of(target).steps if step.batch.inputs.memory is None]
    if not steps:
        raise NotApplicable("it takes no gradient steps on single steps of a trajectory")
    used = matched = False
    for step in steps:
        ours = step.policy_gradient(step.batch)
        used |= bool(first_difference(ours, step.policy_gradient(with_other_advantages(step.batch))))
        matched |= bool(first_difference(ours, step.policy_gradient(swapped(step.batch))))
    target.expect(
        matched or not used,
        "has the same gradient if the advantages of two rows are exchanged",
        "Every advantage is multiplied by every log-probability, because shapes such as [B] and [B, 1] were broadcast "
        "to [B, B]. Keep the shape [S, T, B] of the batch in all terms, without unsqueeze or squeeze.",
    )


def critic_gradient(target: CheckTarget) -> None:
    """The critic is trained by its own loss only: its gradient doesn't depend on which actions were taken."""
    steps = [step for step in recording_of(target).steps if any(name.startswith(CRITIC) for name in step.state.params)]
    if not steps:
        raise NotApplicable("it trains no critic by gradient steps")
    for step in steps:
        other = step.batch._replace(actions=step.batch.actions.roll(1, 2))
        ours, theirs = (
            {k: v for k, v in step.results(batch).items() if k.startswith(f"gradient of {CRITIC}")}
            for batch in (step.batch, other)
        )
        different = first_difference(ours, theirs)
        target.expect(
            not different,
            f"has a {different} that depends on the actions",
            "The gradient of the policy's loss leaks into the critic through the advantage, so that the critic is "
            "trained to make advantages large. Use batch.advantages, or detach the values: output.value.detach().",
        )


def inputs_unchanged(target: CheckTarget) -> None:
    """Trajectories, targets and batches aren't written into."""
    changed = sorted(set(recording_of(target).changed_inputs))
    target.expect(
        not changed,
        f"writes into {', '.join(changed)}",
        "The same tensors are used again, in the next epoch or for a metric. Compute new tensors: x = x - m instead of "
        "x -= m, batch._replace(advantages=...) instead of batch.advantages.copy_(...).",
    )


def in_place(target: CheckTarget) -> None:
    """Parameters aren't edited in place: they change by ctx.step, ctx.move and ctx.place."""
    changed = sorted(set(recording_of(target).changed_parameters))
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
    near, far = (updated_with(target, "box", with_far_actions(distance)) for distance in (1.0, 2.0))
    if near is None or far is None:
        raise NotApplicable("it takes no gradient steps on the actions of a trajectory")
    target.expect(
        near.state != far.state,
        "trains the same for different sampled actions, if clipping to the Box makes them equal",
        "The policy's density is that of the sample: that of the clipped action is another, and so is its gradient. "
        "Use trajectory.actions and batch.actions without clipping; only the environment gets the clipped action.",
    )


def episode_starts(target: CheckTarget) -> None:
    """With a recurrent policy, nothing before the start of an episode changes the loss of the steps after it."""
    recorded = recording_of(target, policy=memory_policy(target)).steps
    steps = [step for step in recorded if step.batch.inputs.memory is not None and step.batch.weights.shape[1] > 1]
    if not steps:
        raise NotApplicable("it takes no gradient steps on sequences")
    for step in steps:
        plain, other = (step.results(batch, moved=True) for batch in before_start(step.batch))
        different = first_difference(plain, other)
        target.expect(
            not different,
            f"computes another {different} for the steps of an episode if the episode before it changes",
            "The memory must be reset where an episode starts, as it was when the steps were taken. Pass batch.inputs "
            "to policy.apply unchanged: it contains the sequence, the memory and `starts`.",
        )


def info_values(target: CheckTarget) -> None:
    """Each value of the environment's info that it needs ("info:KEY") changes what it learns or reports."""
    keys = needed_info(target)
    if not keys:
        raise NotApplicable("it needs no values of the environment's info")
    world = claimed_worlds(target)[0]
    plain = updated_with(target, world, same)
    if plain is None:
        raise NotApplicable("it takes no gradient steps on a trajectory")
    for key in keys:
        target.expect(
            any(not plain.like(updated_with(target, world, with_other_info(key, by))) for by in (10.0, -10.0)),
            f'needs "info:{key}" and trains the same whatever this value is',
            "Environments without it are refused for nothing. Use trajectory.info or batch.info, or remove it from "
            "`needs`.",
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


def critic_improves(target: CheckTarget) -> None:
    """Higher rewards lead to higher values of the critic, in a problem of one step."""
    if not trains_policy(target) or not {"value", "action_values"} & set(needs_of(target)):
        raise NotApplicable("it trains no critic of the policy")
    world = claimed_worlds(target)[0]
    before, after = zip(*(_values_with(target, world, shift) for shift in (REWARD, -REWARD)), strict=True)
    learned = [float((late - early).mean()) for early, late in zip(before, after, strict=True)]
    gap, moved = learned[0] - learned[1], abs(learned[0]) + abs(learned[1])
    target.expect(
        gap >= -0.5 * moved,
        f"trains its critic away from the returns: in {UPDATES} updates in {ONE_STEP[world]['env']}, its values change "
        f"by {learned[0]:.2g} with rewards that are {REWARD:g} higher, and by {learned[1]:.2g} with rewards that are "
        f"{REWARD:g} lower",
        "Losses are minimized: look for a wrong sign. The critic's loss, value_loss(output.value, batch.returns, "
        "batch.weights) of pgzoo.ops.losses, is added to that of the policy.",
    )


UPDATES = 8
"""Number of updates in the checks `improves` and `critic-improves`."""

REWARD = 5.0
"""What the check `critic-improves` adds to all rewards, or subtracts from them."""

CHECKS: Mapping[str, Check] = checks_by_name(
    (
        loss_shape,
        loss_arguments,
        padding,
        bootstrap,
        truncation,
        row_advantages,
        critic_gradient,
        inputs_unchanged,
        in_place,
        sampled_actions,
        episode_starts,
        info_values,
        improves,
        critic_improves,
    )
)


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


def _values_with(target: CheckTarget, world: str, shift: float) -> tuple[Tensor, Tensor]:
    """Return the critic's values `[S]` in a one-step world before and after training with shifted rewards."""
    seen: list[Trajectory] = []

    def change(trajectory: Trajectory) -> Trajectory:
        seen.append(trajectory._replace(rewards=torch.where(trajectory.valid, trajectory.rewards + shift, 0.0)))
        return seen[-1]

    def values(state: TrainState) -> Tensor:
        found = run.engine.evaluate_policy(state, seen[0]).values
        assert found is not None
        return found.mean((-2, -1))

    with open_rounds(target, world, (SEED, 0), num_envs=16, **ONE_STEP[world]) as run:
        run.change_trajectories(change)
        start = run.engine.state
        run.settle(UPDATES)
        if not seen:
            raise NotApplicable("it collects no trajectories")
        return values(start), values(run.engine.state)


def _mean_rewards(run: Rounds, world: str) -> Tensor:
    """Return the mean reward of the policy in a one-step world, `[S]`, for the same noise in every call."""
    plan, rows = run.engine.plan, 512
    noise = draw_noise(plan.policy.noise, np.random.default_rng(0), (len(plan.seeds), rows, plan.policy.noise_size))
    obs = np.ones((len(plan.seeds), rows, 1), np.float32)
    actions = actor_for(plan.policy, plan.policy_params(run.engine.state))(ActorInputs(obs), noise)[0]
    env = Bandit() if world == "discrete" else Target()
    sent = plan.policy.to_env(actions)
    return torch.tensor([[env.step(action)[1] for action in member] for member in sent]).mean(1)
