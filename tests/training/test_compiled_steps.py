"""`ctx.steps` in a compiled run does the same as a loop over `ctx.step`. The step itself isn't compiled here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.ops.losses import weighted_mean
from pgzoo.training import compiled_steps
from pgzoo.training.engine import Engine
from pgzoo.training.plan import Plan
from pgzoo.types import Batch, Hyper, Loss, Params, TrainState

MakePlan = Callable[..., Plan]

HALTS, FAILS = 1.0, 2.0


pytestmark = pytest.mark.usefixtures("no_compiler")


def loss(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
    """A loss that halts some members in minibatches of late time steps and is NaN for others."""
    assert batch.extra is not None
    kind = batch.extra["kind"].amax((-2, -1))
    value = weighted_mean(policy.apply(params, batch.inputs).dist.log_prob(batch.actions), batch.weights)
    halt = (kind == HALTS) & (weighted_mean(batch.timestep.float(), batch.weights) > 8)
    metrics = {"own/advantage": weighted_mean(batch.advantages, batch.weights)}
    return Loss(torch.where(kind == FAILS, torch.nan, value), metrics, halt)


def outcome(ctx: Engine, kinds: tuple[float, ...], take: Callable[..., TrainState]) -> tuple[Any, ...]:
    ctx.begin_update()
    state, trajectory = ctx.collect(ctx.state)
    evaluated = ctx.evaluate_policy(state, trajectory)
    targets = ctx.estimate(state, trajectory, evaluated)
    kind = torch.tensor(kinds)[:, None, None].expand_as(trajectory.rewards)
    batches = ctx.minibatches(state, trajectory, targets, evaluated, epochs=range(2), count=4, extra={"kind": kind})
    return take(ctx, state, batches), ctx.metrics.means(), dict(ctx.failures)


def in_a_loop(ctx: Engine, state: TrainState, batches: Any) -> TrainState:
    for batch in batches:
        state = ctx.step(loss, state, batch)
    return state


def at_once(ctx: Engine, state: TrainState, batches: Any) -> TrainState:
    return ctx.steps(loss, state, batches)


def after_one(ctx: Engine, state: TrainState, batches: Any) -> TrainState:
    """Take the first step alone, two steps on a list of batches, and the rest from the partly consumed iterator."""
    state = ctx.step(loss, state, next(batches))
    state = ctx.steps(loss, state, [next(batches), next(batches)])
    return ctx.steps(loss, state, batches)


@pytest.mark.parametrize("take", [at_once, after_one])
@pytest.mark.parametrize("rows", [32, 10_000])  # groups of two members (the last one repeats a member), or one group
def test_ctx_steps_equals_single_steps_when_members_halt_or_fail(
    take: Callable[..., TrainState], rows: int, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_steps, "GROUP_ROWS", rows)
    kinds = (0.0, HALTS, FAILS, 0.0, HALTS)
    made = plan("ppo", seeds=5, num_envs=4, rollout_steps=16, compile="on", policy={"name": "mlp", "hidden": (8,)})
    (one, means, failures), (many, other_means, other_failures) = (
        outcome(Engine(made), kinds, how) for how in (in_a_loop, take)
    )
    steps = one.optimizer["step"].tolist()
    assert steps[0] == steps[3] == 8 and steps[2] == 0
    assert 0 < min(steps[1], steps[4]) < 8  # a member halts midway
    assert many.optimizer["step"].tolist() == steps
    for name, value in one.params.items():
        torch.testing.assert_close(many.params[name], value, rtol=0, atol=1e-6)
    assert one.halted is not None and many.halted is not None
    halted = [kind == HALTS and step < 8 for step, kind in zip(steps, kinds, strict=True)]
    assert many.halted.tolist() == one.halted.tolist() == halted
    assert list(other_failures.items()) == list(failures.items()) == [(2, "loss: NaN")]
    assert list(other_means) == list(means)
    for name, metric in means.items():
        np.testing.assert_allclose(other_means[name], metric, atol=1e-5, err_msg=name)


def test_only_the_active_member_changes_if_a_group_has_no_active_member(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_steps, "GROUP_ROWS", 32)
    made = plan("ppo", seeds=4, num_envs=4, rollout_steps=16, compile="on", policy={"name": "mlp", "hidden": (8,)})
    ctx = Engine(made)
    before = ctx.state = ctx.state._replace(active=np.array([False, False, True, False]))
    state, means, failures = outcome(ctx, (0.0, 0.0, 0.0, 0.0), at_once)
    assert state.optimizer["step"].tolist() == [0, 0, 8, 0]
    for name, value in state.params.items():
        moved = [not torch.equal(value[member], before.params[name][member]) for member in range(4)]
        assert moved == [False, False, name.startswith("policy."), False], name  # the loss has no values
    assert np.isnan(means["loss/total"]).tolist() == [True, True, False, True] and not failures


def test_groups_have_equal_sizes_and_a_single_member_only_if_it_trains_alone() -> None:
    def split(members: int, rows: int) -> list[tuple[tuple[int, ...], int]]:
        return [(group.ids, group.own.start) for group in compiled_steps._split(members, rows)]

    assert split(33, 512) == [*((tuple(range(k, k + 4)), 0) for k in range(0, 32, 4)), ((29, 30, 31, 32), 3)]
    assert split(3, 5000) == [((0, 1), 0), ((1, 2), 1)]
    assert split(1, 5000) == [((0,), 0)]


def test_members_with_whole_episodes_are_grouped_by_their_number_of_steps() -> None:
    def split(stepping: list[bool], lengths: list[int]) -> list[tuple[int, ...]]:
        groups = compiled_steps._split_by_length(stepping, lengths)
        assert sorted(m for group in groups for m in group.ids[group.own]) == [m for m, s in enumerate(stepping) if s]
        return [group.ids for group in groups]

    lengths = [300, 9000, 200, 5000, 400, 9000, 700]
    assert split([True] * 7, lengths) == [(1, 5), (3, 6), (0, 2, 4, 0)]  # four members of 512 rows make a group
    assert split([False, True] * 3 + [False], lengths) == [(1, 5), (3, 3)]
    assert split([True], [9000]) == [(0,)]
    assert split([True, True, True], [100, 100, 100]) == [(0, 1, 2)]


@pytest.mark.parametrize("active", [(True, True, True), (True, False, True), (False, True, False)])
def test_ctx_steps_equals_single_steps_on_whole_episodes(active: tuple[bool, ...], plan: MakePlan) -> None:
    def trained(how: Callable[..., TrainState]) -> tuple[TrainState, dict[str, Any], Any]:
        made = plan("reinforce", seeds=3, num_envs=20, compile="on", policy={"name": "mlp", "hidden": (8,)})
        ctx = Engine(made)
        ctx.state = ctx.state._replace(active=np.array(active))
        ctx.begin_update()
        state, trajectory = ctx.collect(ctx.state)
        rows = trajectory.valid.sum((1, 2)).tolist()
        batches = ctx.minibatches(state, trajectory, ctx.estimate(state, trajectory), epochs=range(2), count=2)
        assert batches.lengths == tuple(rows) and len(set(rows)) > 1
        return how(ctx, state, batches), ctx.metrics.means(), made

    def one_by_one(ctx: Engine, state: TrainState, batches: Any) -> TrainState:
        for batch in batches:
            state = ctx.step(ctx.plan.algorithm.loss, state, batch)
        return state

    def together(ctx: Engine, state: TrainState, batches: Any) -> TrainState:
        return ctx.steps(ctx.plan.algorithm.loss, state, batches)

    (one, means, _), (many, other_means, _) = trained(one_by_one), trained(together)
    assert many.optimizer["step"].tolist() == one.optimizer["step"].tolist() == [4.0 * moves for moves in active]
    for name, value in one.params.items():
        torch.testing.assert_close(many.params[name], value, rtol=0, atol=1e-6)
    assert list(other_means) == list(means)
    for name, metric in means.items():
        np.testing.assert_allclose(other_means[name], metric, atol=1e-5, err_msg=name)
