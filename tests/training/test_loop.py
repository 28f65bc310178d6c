"""The training loop: its events, when a seed ends, evaluations, gradient steps, and failures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.errors import RunFailed, UnfitError
from pgzoo.training.engine import Engine
from pgzoo.training.events import EpisodesFinished, Evaluated, Event, RunEnded, RunStarted, UpdateDone
from pgzoo.training.loop import Control, Stop, train
from pgzoo.types import Loss

Play = Callable[..., list[Event]]
MakePlan = Callable[..., Any]


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def of(kind: type[Any], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def last(events: list[Event]) -> RunEnded:
    assert isinstance(events[-1], RunEnded)
    return events[-1]


def params(events: list[Event], row: int) -> dict[str, bytes]:
    return {name: value[row].numpy().tobytes() for name, value in last(events).state.params.items()}


def listen(plan: Any, control: Control | None = None) -> tuple[list[Event], RunFailed | None]:
    events: list[Event] = []
    try:
        for event in train(plan, control):
            events.append(event)
    except RunFailed as error:
        return events, error
    return events, None


# events


def test_a_run_yields_its_events_in_a_fixed_order(play: Play) -> None:
    events = play(total_steps=500, seeds=2)
    updates = len(of(UpdateDone, events))
    expected = ["RunStarted", *["EpisodesFinished", "UpdateDone"] * updates, "Evaluated", "Evaluated", "RunEnded"]
    assert kinds(events) == expected
    assert [event.mode for event in of(Evaluated, events)] == ["sampled", "greedy"]


def test_run_started_has_the_seeds_and_run_keys(play: Play) -> None:
    (started,) = of(RunStarted, play(total_steps=100, seeds=(3, 8)))
    assert started.seeds == (3, 8)
    assert started.run_keys == (f"{started.group}-s3", f"{started.group}-s8")


def test_counts_of_steps_and_episodes_add_up(play: Play) -> None:
    events = play(total_steps=1000, seeds=2, num_envs=8)
    played, updates = of(EpisodesFinished, events), of(UpdateDone, events)
    assert [event.update for event in played] == [event.update for event in updates] == list(range(len(updates)))
    steps = np.zeros(2, np.int64)
    for event in played:
        fresh = np.array([lengths.sum() for lengths in event.lengths])
        steps = steps + fresh
        assert event.env_steps.tolist() == steps.tolist()
        for returns, lengths in zip(event.returns, event.lengths, strict=True):
            assert returns.tolist() == lengths.tolist()  # CartPole pays 1 a step
            assert len(returns) in (0, 8)
    assert last(events).env_steps.tolist() == steps.tolist()
    state = last(events).state
    assert state.episodes.tolist() == [sum(len(event.returns[row]) for event in played) for row in (0, 1)]


def test_update_done_has_the_metrics_of_every_member(play: Play) -> None:
    for event in of(UpdateDone, play(total_steps=300, seeds=3)):
        assert {"loss/total", "loss/policy", "policy/entropy", "optim/grad_norm"} <= set(event.metrics)
        for values in event.metrics.values():
            assert values.shape == (3,) and values.dtype == np.float64


def test_the_first_metrics_are_those_of_a_uniform_policy(play: Play) -> None:
    metrics = of(UpdateDone, play(total_steps=1))[0].metrics
    assert metrics["policy/entropy"] == pytest.approx(np.log(2), abs=1e-3)
    assert metrics["loss/policy"] == pytest.approx(0, abs=1e-2)  # advantages have mean 0


def test_timed_phases_account_for_at_least_half_of_the_loop(play: Play) -> None:
    timing = last(play(total_steps=1000)).timing
    parts = sum(timing[phase] for phase in ("collect", "estimate", "update", "track", "compile"))
    assert 0.5 * timing["loop"] < parts <= timing["loop"] and timing["evaluate"] > 0


# when a seed ends


def test_each_seed_finishes_with_the_first_update_that_reaches_total_steps(play: Play) -> None:
    events = play(total_steps=700, seeds=4)
    ended, updates = last(events), of(UpdateDone, events)
    assert ended.statuses == ("finished",) * 4 and ended.reasons == ("completed 700 steps",) * 4
    assert (ended.env_steps >= 700).all()
    for row in range(4):
        final = [event for event in updates if event.active[row]][-1]
        assert final.ended[row] and sum(event.ended[row] for event in updates) == 1
        before = [event.env_steps[row] for event in updates if event.update < final.update]
        assert max(before) < 700 <= final.env_steps[row] == ended.env_steps[row]


def test_training_on_windows_ends_when_total_steps_is_reached_exactly(play: Play) -> None:
    ended = last(play("windows", env="Pendulum-v1", num_envs=2, total_steps=256))
    assert ended.env_steps.tolist() == [256] and ended.state.updates.tolist() == [2]


def test_a_seed_finishes_when_total_episodes_is_reached(play: Play) -> None:
    ended = last(play(total_episodes=20, seeds=2, num_envs=8))
    assert ended.state.episodes.tolist() == [24, 24] and ended.reasons[0] == "completed 20 episodes"


def test_training_ends_at_the_first_of_two_limits(play: Play) -> None:
    ended = last(play(total_episodes=8, total_steps=10**6, num_envs=8))
    assert ended.state.updates.tolist() == [1]


def test_a_seed_stops_at_the_requested_mean_return(play: Play) -> None:
    ended = last(play(total_steps=10**5, stop_at=9.0, num_envs=8))
    assert ended.statuses == ("stopped",) and ended.reasons == ("the mean return of 100 episodes reached 9",)
    assert ended.state.episodes.tolist() == [104]


def test_training_stops_on_a_plateau_of_the_mean_return(plan: MakePlan) -> None:
    """Episodes of the bandit have one step, so the counts of steps and episodes are equal."""
    events, _ = listen(plan("windows", "probe/Bandit-v0", total_steps=10**6, stop_on_plateau=300, log_every=10))
    returns = np.concatenate([event.returns[0] for event in of(EpisodesFinished, events)])
    counts = np.cumsum([len(event.returns[0]) for event in of(EpisodesFinished, events)])
    steps = [int(event.env_steps[0]) for event in of(EpisodesFinished, events)]
    best, at = -np.inf, 0
    for count, step in zip(counts, steps, strict=True):
        if count >= 100 and (mean := returns[count - 100 : count].mean()) > best:
            best, at = mean, step
        stops = count >= 100 and step - at >= 300
        assert stops == (step == steps[-1])
    ended = last(events)
    assert ended.statuses == ("stopped",)
    assert ended.reasons == ("no better mean return of 100 episodes for 300 steps",)
    assert ended.state.buffers["stop.best"].tolist() == [best] and ended.state.buffers["stop.best_at"].tolist() == [at]


def test_plateaus_of_seeds_are_independent(plan: MakePlan) -> None:
    settings = {"total_steps": 10**6, "stop_on_plateau": 1000, "num_envs": 4}
    alone = listen(plan("windows", "probe/Bandit-v0", seed=7, **settings))[0]
    among = listen(plan("windows", "probe/Bandit-v0", seeds=(3, 7, 9), **settings))[0]
    assert params(alone, 0) == params(among, 1)
    assert last(alone).env_steps[0] == last(among).env_steps[1]
    assert len(set(last(among).env_steps.tolist())) > 1


def test_there_is_no_plateau_before_100_episodes(play: Play) -> None:
    ended = last(play(total_steps=600, stop_on_plateau=1, num_envs=2))
    assert ended.statuses == ("finished",) and ended.state.episodes[0] < 100


def test_training_stops_at_the_time_limit(play: Play) -> None:
    ended = last(play(total_steps=10**9, max_minutes=0.005, eval_episodes=1))
    assert ended.statuses == ("stopped",) and ended.reasons == ("reached the limit of 0.005 minutes",)
    assert 0.3 <= ended.timing["loop"] < 3


def test_a_run_stops_on_request_after_the_current_update(plan: MakePlan) -> None:
    control, events = Control(), []
    for event in train(plan(total_steps=10**9), control):
        events.append(event)
        if len(of(UpdateDone, events)) == 2:
            control.stop(reason="seen enough")
    assert last(events).statuses == ("stopped",) and last(events).reasons == ("seen enough",)
    assert len(of(UpdateDone, events)) == 3  # the current update is finished
    assert [event.final for event in of(Evaluated, events)] == [True, True]


def test_stopping_a_nonexistent_member_is_an_error(plan: MakePlan) -> None:
    for member in (-1, 1):
        control = Control()
        control.stop((member,))
        with pytest.raises(ValueError, match=f"there is no member {member}: there are 1, from 0"):
            list(train(plan(seeds=(3,)), control))


def test_no_stop_is_lost_that_another_thread_requests_while_stops_are_taken() -> None:
    control, requested = Control(), [(0,)]
    control.stop(requested[0])
    seen_by_thread = control.stops

    def request(frame: FrameType, event: str, arg: Any) -> Any:
        """Append a stop before an instruction of `take_stops`, as another thread may do."""
        frame.f_trace_opcodes = True
        if len(requested) < 100:
            requested.append((len(requested),))
            seen_by_thread.append(Stop(requested[-1], "later", "stopped"))
        return request

    tracer = sys.gettrace()
    sys.settrace(request)
    taken = control.take_stops()
    sys.settrace(tracer)
    assert [stop.members for stop in taken + control.take_stops()] == requested != [(0,)]


def test_an_interrupted_run_keeps_its_last_completed_update(plan: MakePlan) -> None:
    control, events = Control(), []
    for event in train(plan(total_steps=10**9), control):
        events.append(event)
        if len(of(UpdateDone, events)) == 2 and not control.stops:
            control.stop(reason="Ctrl-C", status="interrupted")
    assert last(events).statuses == ("interrupted",) and last(events).reasons == ("Ctrl-C",)
    assert last(events).state.updates.tolist() == [2] and len(of(UpdateDone, events)) == 2


# evaluation


def test_evaluations_follow_updates_that_cross_a_multiple_of_eval_every(play: Play) -> None:
    settings = {"env": "Pendulum-v1", "num_envs": 2, "max_episode_steps": 5000, "eval_episodes": 1}
    events = play("windows", total_steps=640, eval_every=200, **settings)
    # updates end at 128, 256, 384, 512 and 640 steps; 200, 400 and 600 are crossed by the second, fourth and last
    assert [(int(e.env_steps[0]), e.mode, e.final) for e in of(Evaluated, events)] == [
        (256, "sampled", False),
        (512, "sampled", False),
        (640, "sampled", True),
        (640, "greedy", True),
    ]


def test_an_evaluation_can_be_requested(plan: MakePlan) -> None:
    control = Control()
    control.evaluate()
    events = list(train(plan(total_steps=500, seeds=2, num_envs=8), control))
    early = of(Evaluated, events)[0]
    assert not early.final and early.active.tolist() == [True, True]
    assert len(of(Evaluated, events)) == 3


@pytest.mark.parametrize("episodes", [1, 4, 11, 130])
def test_every_evaluation_has_the_requested_number_of_episodes(play: Play, episodes: int) -> None:
    for backend in ("native", "sync") if episodes < 100 else ("native",):
        for event in of(Evaluated, play(total_steps=50, eval_episodes=episodes, backend=backend, seeds=2)):
            assert [len(returns) for returns in event.returns] == [episodes] * 2
            assert event.returns[0].tolist() == event.lengths[0].tolist()


def test_greedy_evaluations_of_seeds_with_equal_parameters_are_equal(plan: MakePlan) -> None:
    ctx = Engine(plan(seeds=2))
    state = ctx.init()
    same = {name: value[:1].expand_as(value).clone() for name, value in state.params.items()}
    greedy = ctx.evaluate(state._replace(params=same), np.ones(2, np.bool_), "greedy")
    sampled = ctx.evaluate(state._replace(params=same), np.ones(2, np.bool_), "sampled")
    ctx.close()
    assert greedy.returns[0].tolist() == greedy.returns[1].tolist()
    assert sampled.returns[0].tolist() != sampled.returns[1].tolist()


# schedules, clipping


def rates(plan: Any) -> tuple[list[float], list[float]]:
    """Return the learning rate of each of four updates, and the number of environment steps before it."""
    ctx, seen, done = Engine(plan), [], []
    state = ctx.init()
    for _ in range(4):
        before = int(state.env_steps[0])
        state, _ = ctx.collect(state)
        seen.append(float(ctx.learning_rate(state)[0]))
        done.append(before)
    ctx.close()
    return seen, done


def test_a_linear_schedule_decreases_with_the_environment_steps(plan: MakePlan) -> None:
    settings = {"env": "Pendulum-v1", "num_envs": 2, "total_steps": 400}
    seen, done = rates(plan("windows", learning_rate=0.1, learning_rate_schedule="linear", **settings))
    assert done == [0, 128, 256, 384]
    assert seen == pytest.approx([0.1, 0.1 * (1 - 128 / 400), 0.1 * (1 - 256 / 400), 0.1 * (1 - 384 / 400)])
    assert rates(plan("windows", learning_rate=0.1, **settings))[0] == pytest.approx([0.1] * 4)


def test_each_seeds_gradient_is_clipped_separately(plan: MakePlan) -> None:
    """Plain SGD with learning rate 1 moves the parameters by the clipped gradient."""
    settings = {"optimizer": "sgd", "learning_rate": 1.0, "learning_rate_schedule": "constant", "seeds": 3}
    ctx = Engine(plan(max_grad_norm=0.05, **settings))
    state, trajectory = ctx.collect(ctx.init())
    batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
    scaled = batch._replace(advantages=batch.advantages * torch.tensor([1.0, 100.0, 1e-3])[:, None, None])
    loss = lambda policy, params, batch, hyper: (  # noqa: E731
        policy.apply(params, batch.inputs).dist.log_prob(batch.actions) * batch.advantages
    ).mean((-2, -1))
    moved = ctx.step(loss, state, scaled)
    ctx.close()
    lengths = sum((moved.params[n] - state.params[n]).flatten(1).square().sum(1) for n in state.params) ** 0.5
    norms = torch.from_numpy(ctx.metrics.means()["optim/grad_norm"]).float()
    assert norms[1] > 0.05 > norms[2]
    torch.testing.assert_close(lengths, norms.clamp(max=0.05), rtol=1e-4, atol=1e-7)


def test_a_gradient_step_leaves_inactive_members_unchanged(plan: MakePlan) -> None:
    ctx = Engine(plan(seeds=2))
    state, trajectory = ctx.collect(ctx.init())
    state = state._replace(active=np.array([True, False]))
    moved = ctx.step(ctx.plan.algorithm.loss, state, ctx.batch(trajectory, ctx.estimate(state, trajectory)))
    ctx.close()
    for name, value in state.params.items():
        assert torch.equal(moved.params[name][1], value[1])
    assert not torch.equal(moved.params["policy.weight.0"][0], state.params["policy.weight.0"][0])
    assert moved.optimizer["step"].tolist() == [1, 0]


def test_a_batch_of_episodes_has_each_members_valid_steps_then_zero_weights(plan: MakePlan) -> None:
    ctx = Engine(plan(env="probe/AnySpaces-v0", seeds=3, num_envs=4))
    state, trajectory = ctx.collect(ctx.init())
    targets = ctx.estimate(state, trajectory)
    batch = ctx.batch(trajectory, targets)
    ctx.close()
    assert batch.weights.shape[-1] % 256 == 0
    for row in range(3):
        valid = trajectory.valid[row]
        count = int(valid.sum())
        assert 0 < count < valid.numel()
        assert batch.weights[row, 0].tolist() == [1.0] * count + [0.0] * (batch.weights.shape[-1] - count)
        assert torch.equal(batch.inputs.obs[row, 0, :count], trajectory.obs[row, :-1][valid])
        assert torch.equal(batch.actions[row, 0, :count], trajectory.actions[row][valid])
        assert torch.equal(batch.advantages[row, 0, :count], targets.advantages[row][valid])
        assert torch.equal(batch.timestep[row, 0, :count], trajectory.timestep[row][valid])


# failures


@pytest.mark.parametrize(
    ("organ", "reason"),
    [
        ("advantages", "advantages: infinite"),
        ("loss", "loss: NaN"),
        ("gradient", "gradient of policy.bias.0: NaN"),
    ],
)
def test_a_seed_with_non_finite_numbers_fails_without_affecting_the_others(play: Play, organ: str, reason: str) -> None:
    settings = {"seeds": (1, 2, 3), "total_steps": 1200, "organ": organ, "learning_rate": 1e-2}
    sick = play("sick", sick_seed=2, sick_update=3, **settings)
    healthy = play("sick", **settings)
    assert last(sick).statuses == ("finished", "failed", "finished")
    assert last(sick).reasons[1] == reason
    assert params(sick, 0) == params(healthy, 0) and params(sick, 2) == params(healthy, 2)
    # it keeps the parameters from after the three updates before the failure
    short = play("sick", **settings | {"seeds": (2,), "total_steps": None, "total_episodes": 3 * 4})
    assert last(short).state.updates.tolist() == [3] and params(sick, 1) == params(short, 0)
    final = of(Evaluated, sick)[-1]
    assert final.active.tolist() == [True, False, True] and final.returns[1].size == 0


def test_an_overflowing_gradient_norm_is_named_as_the_reason_for_the_failure(plan: MakePlan) -> None:
    ctx = Engine(plan("windows", optimizer="sgd"))
    state, trajectory = ctx.collect(ctx.init())
    batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
    ctx.step(lambda policy, params, batch, hyper: 1e25 * params["policy.bias.0"].sum(-1), state, batch)
    ctx.close()
    assert ctx.failures == {0: "norm of the gradient: infinite"}


def test_a_run_whose_only_seed_failed_is_not_evaluated(play: Play) -> None:
    events = play("sick", sick_seed=0, sick_update=1, total_steps=400)
    assert last(events).statuses == ("failed",) and not of(Evaluated, events)


def test_an_exception_in_the_algorithm_fails_the_run_and_is_attributed_to_it(plan: MakePlan) -> None:
    events, error = listen(plan("boom", seeds=2))
    assert str(error).startswith('algorithm "boom" raised ZeroDivisionError: boom (') and "conftest.py, line" in str(
        error
    )
    assert last(events).statuses == ("failed", "failed") and last(events).reasons[0] == str(error)
    assert len(of(UpdateDone, events)) == 2


def test_an_exception_in_the_environment_fails_the_run_and_is_attributed_to_it(plan: MakePlan) -> None:
    events, error = listen(plan(env="probe/Faulty-v0", env_kwargs={"patience": 5}, num_envs=1))
    assert str(error).startswith('environment "probe/Faulty-v0" raised OSError: the simulator is gone in step (')
    assert "conftest.py, line" in str(error)
    assert last(events).statuses == ("failed",)


def test_an_exception_in_the_environment_during_final_evaluation_fails_the_run(plan: MakePlan) -> None:
    one = plan(env="probe/Faulty-v0", env_kwargs={"patience": 3}, num_envs=1, total_episodes=3, eval_episodes=100)
    events, error = listen(one)
    assert str(error).startswith('environment "probe/Faulty-v0" raised OSError: the simulator is gone in step (')
    assert "conftest.py, line" in str(error)
    assert last(events).statuses == ("failed",) and last(events).reasons == (str(error),)
    assert last(events).state.updates.tolist() == [3]


def test_an_estimator_with_an_unknown_argument_is_refused_before_any_event(plan: MakePlan) -> None:
    one = replace(plan(), estimator=lambda *, rewards, wishes: rewards)
    with pytest.raises(
        UnfitError, match=r'Estimator "reward-to-go" requires the argument wishes.*Available: .*rewards'
    ):
        next(train(one))


def test_a_misspelled_argument_of_an_estimator_is_refused_with_the_nearest_name(plan: MakePlan) -> None:
    one = replace(plan(), estimator=lambda *, rewards, gama: rewards)
    with pytest.raises(
        UnfitError, match=r'requires the argument gama, .* provide\. Did you mean "gamma"\? Available: '
    ):
        next(train(one))


def test_an_estimator_that_needs_a_critic_is_refused_if_none_is_trained(plan: MakePlan) -> None:
    one = replace(plan(), estimator=lambda *, rewards, values: rewards)
    with pytest.raises(UnfitError, match=r'needs the values of a critic, but algorithm "reinforce" trains none'):
        next(train(one))


def test_an_estimator_of_whole_episodes_is_refused_for_windows(plan: MakePlan) -> None:
    def whole(*, rewards: Any) -> Any:
        return rewards

    whole.whole_episodes = True  # type: ignore[attr-defined]
    with pytest.raises(UnfitError, match=r"needs whole episodes.*collects windows of 64 steps"):
        next(train(replace(plan("windows"), estimator=whole)))


def test_a_loss_of_the_wrong_shape_is_refused_and_both_shapes_are_shown(plan: MakePlan) -> None:
    one = plan("windows", seeds=2)
    one.algorithm.loss = lambda policy, params, batch, hyper: params["policy.bias.0"].sum()
    _, error = listen(one)
    assert (
        'algorithm "windows" raised ValueError: a loss is one number per seed, shape [2]; got []. '
        "Reduce over the rows only: weighted_mean(x, batch.weights) of pgzoo.ops.losses returns one number per seed"
    ) in str(error)


def test_metrics_may_be_attached_to_the_autograd_graph(plan: MakePlan) -> None:
    from pgzoo.types import Loss

    one = plan("windows", total_steps=300)
    plain = one.algorithm.loss

    def loss(*args: Any) -> Loss:
        value = plain(*args)
        return Loss(value, {"loss/mine": value})

    one.algorithm.loss = loss
    events, error = listen(one)
    assert error is None and np.isfinite(of(UpdateDone, events)[0].metrics["loss/mine"]).all()


def test_a_setting_may_have_the_name_of_a_method_of_hyper(plan: MakePlan) -> None:
    """`rows` is also a method of `Hyper`, the object that holds the settings."""
    one = plan("windows", seeds=40, total_steps=100)
    ctx = Engine(one)
    ctx.hyperparameters.others["rows"] = 3
    state, trajectory = ctx.collect(ctx.init())
    batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
    seen: list[int] = []

    def loss(policy: Any, params: Any, batch: Any, hyper: Any) -> Any:
        seen.append(hyper.rows)
        return one.algorithm.loss(policy, params, batch, hyper)

    ctx.gradient(loss, state, batch)
    ctx.close()
    assert set(seen) == {3} and len(seen) > 1


def test_a_stop_during_the_final_evaluation_interrupts_the_run(plan: MakePlan) -> None:
    control, events = Control(), []
    for event in train(plan(total_steps=300, num_envs=8, eval_episodes=8), control):
        events.append(event)
        if isinstance(event, Evaluated) and event.mode == "sampled":
            control.stop(reason="enough", status="interrupted")
    assert last(events).statuses == ("interrupted",) and last(events).reasons == ("enough",)


def test_a_metric_of_the_wrong_shape_is_refused(plan: MakePlan) -> None:
    ctx = Engine(plan(total_steps=300, num_envs=8, seeds=2))
    state, trajectory = ctx.collect(ctx.init())
    batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
    ctx.close()

    def loss(policy: Any, params: Any, batch: Any, hyper: Any) -> Loss:
        value = ctx.plan.algorithm.loss(policy, params, batch, hyper).value  # type: ignore[union-attr]
        return Loss(value, {"odd": value[:, None]})

    with pytest.raises(ValueError, match=r"metric odd is one number per seed.*\[2, 1\]"):
        ctx.step(loss, state, batch)


def test_a_profile_splits_collecting_into_environment_acting_and_storing(play: Play) -> None:
    ended = play(total_steps=300, num_envs=2)[-1]
    assert isinstance(ended, RunEnded)
    profile = ended.profile()
    assert list(profile)[:3] == ["collect/environment", "collect/acting", "collect/storing"]
    assert all(seconds > 0 for phase, seconds in profile.items() if phase.startswith("collect/"))
    assert sum(list(profile.values())[:3]) == pytest.approx(ended.timing["collect"])
    assert set(profile) - set(list(profile)[:3]) == {"estimate", "update", "track", "compile", "evaluate"}
