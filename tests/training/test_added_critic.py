"""A critic that pgzoo adds because the estimator needs values and the algorithm trains no critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from pgzoo.errors import RunFailed, UnfitError
from pgzoo.ops.losses import weighted_mean
from pgzoo.ops.optim import flatten
from pgzoo.training.added_critic import VALUE_COEF, with_critic_loss
from pgzoo.training.engine import Engine
from pgzoo.training.events import RunEnded, UpdateDone
from pgzoo.training.gradients import gradient
from pgzoo.training.loop import train
from pgzoo.training.plan import Plan
from pgzoo.types import AlgorithmState, Batch, Hyper, Inputs, Loss, Output, Params, Steps, TrainState, Trajectory

MakePlan = Callable[..., Plan]


class Linear:
    """V = w p x: a critic with parameter w on a feature p x of the policy."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return Output(None, params["critic.w"][:, None, None] * params["policy.p"][:, None, None] * inputs.obs)  # type: ignore[arg-type]


def square(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
    value = params["policy.p"] ** 2
    return Loss(value, {"loss/policy": value.detach()})


def rows(*numbers: float) -> Tensor:
    return torch.tensor(numbers).reshape(1, 1, -1)


# x = 1, 2, 3; w = 2 and p = 1, so V = 2, 4, 6; G = 1, 2 and a row of weight 0
PARAMS = {"policy.p": torch.tensor([1.0]), "critic.w": torch.tensor([2.0])}
BATCH = Batch(Inputs(rows(1, 2, 3)), rows(0, 0, 0), rows(0, 0, 0), rows(0, 0, 0), rows(1, 2, 99), rows(1, 1, 0))


def test_the_total_loss_and_its_metrics_match_a_hand_calculation() -> None:
    # half of the mean of (2 - 1)² = 1 and (4 - 2)² = 4 is 1.25; with weight 0.5, 0.625 is added to p² = 1
    assert VALUE_COEF == 0.5
    found = with_critic_loss(square)(Linear(), PARAMS, BATCH, Hyper({}))
    assert isinstance(found, Loss) and found.value.tolist() == [1.625]
    assert found.metrics["loss/value"].tolist() == [1.25] and found.metrics["loss/policy"].tolist() == [1]
    # residuals -1 and -2 vary as much as the returns 1 and 2, so nothing is explained; values 1 and 2 explain all
    assert found.metrics["value/explained_variance"].tolist() == pytest.approx([0.0], abs=1e-6)
    known = with_critic_loss(square)(Linear(), PARAMS, BATCH._replace(values=rows(1, 2, 0)), Hyper({}))
    assert isinstance(known, Loss) and known.metrics["value/explained_variance"].tolist() == [1]


def test_the_critic_loss_has_a_gradient_only_for_the_critic() -> None:
    # d/dw 0.5 · ½ mean (w x - G)² = 0.5 · mean((2 - 1) · 1, (4 - 2) · 2) = 1.25; d/dp p² = 2
    _, vector = gradient(with_critic_loss(square), Linear(), PARAMS, {}, BATCH, Hyper({}))
    assert vector.tolist() == [[2.0, 1.25]]


def test_the_algorithms_own_value_coef_is_used() -> None:
    found = with_critic_loss(square)(Linear(), PARAMS, BATCH, Hyper({"value_coef": torch.full((1, 1, 1), 2.0)}))
    assert isinstance(found, Loss) and found.value.tolist() == [1 + 2 * 1.25]


def test_halt_flags_are_kept_and_a_loss_may_be_a_plain_tensor() -> None:
    halting = with_critic_loss(lambda *args: square(*args)._replace(halt=torch.tensor([True])))
    found = halting(Linear(), PARAMS, BATCH, Hyper({}))
    assert isinstance(found, Loss) and found.halt is not None and found.halt.tolist() == [True]
    plain = with_critic_loss(lambda *args: square(*args).value)(Linear(), PARAMS, BATCH, Hyper({}))
    assert isinstance(plain, Loss) and plain.value.tolist() == [1.625]


def test_a_loss_of_the_wrong_shape_is_still_refused() -> None:
    with pytest.raises(ValueError, match=r"a loss is one number per seed, shape \[1\]; got \[\]"):
        gradient(with_critic_loss(lambda *args: square(*args).value.sum()), Linear(), PARAMS, {}, BATCH, Hyper({}))


# algorithms with their own `update` or `loop`


class Scored:
    """A policy gradient algorithm with its own `update` that declares no need for a critic."""

    collect, estimator = Steps(16), "reward-to-go"
    defaults: ClassVar[dict[str, Any]] = {"num_envs": 2, "total_steps": 64}
    only = ""

    def init(self, ctx: Any, rng: Any) -> AlgorithmState:
        return AlgorithmState({"scored.extra": torch.ones(2)}, {})

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
        state = ctx.step(self.loss, state, batch, only=self.only)
        return ctx.step(self.own, state, batch, only="scored.")  # type: ignore[no-any-return]

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
        dist = policy.apply(params, batch.inputs).dist
        return -weighted_mean(dist.log_prob(batch.actions) * batch.advantages, batch.weights)

    def own(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
        return params["scored.extra"].square().sum(-1)


class ScoredPolicy(Scored):
    only = "policy."


class Looping(Scored):
    def loop(self, ctx: Any) -> Any:
        while ctx.running():
            ctx.state, trajectory = ctx.collect(ctx.state)
            ctx.state = self.update(ctx, ctx.state, trajectory)
            yield


class Moving(Scored):
    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
        result, vector = ctx.gradient(self.loss, state, batch)
        vector = flatten(state.params.values()) - 0.01 * vector
        return ctx.move(state, vector, batch=batch, value=result.value, gradient=vector, metrics={})  # type: ignore[no-any-return]


@pytest.mark.parametrize("algorithm", [Scored, ScoredPolicy, Looping])
def test_an_algorithms_update_or_loop_trains_the_added_critic_and_the_policy(
    plan: MakePlan, algorithm: type[Scored]
) -> None:
    one = plan("windows", estimator="gae", seeds=2, num_envs=2, total_steps=64)
    assert one.added_critic and one.needs == {"value"}
    events = list(train(replace(one, algorithm=algorithm())))
    before, ended = Engine(replace(one, algorithm=algorithm())).state, events[-1]
    assert isinstance(ended, RunEnded) and ended.statuses == ("finished",) * 2
    for name, value in ended.state.params.items():
        assert not torch.equal(value, before.params[name]), name
    assert {"loss/value", "value/explained_variance"} <= {
        name for event in events if isinstance(event, UpdateDone) for name in event.metrics
    }


def test_a_step_on_an_algorithms_own_network_leaves_the_critic_unchanged(plan: MakePlan) -> None:
    algorithm = Scored()
    ctx = Engine(replace(plan("windows", estimator="gae", num_envs=2), algorithm=algorithm))
    state, seen = ctx.collect(ctx.state)
    batch = ctx.batch(seen, ctx.estimate(state, seen))
    moved = ctx.step(algorithm.own, state, batch, only="scored.")
    assert [n for n in state.params if not torch.equal(moved.params[n], state.params[n])] == ["scored.extra"]
    ctx.close()


def test_an_algorithm_that_updates_the_policy_by_ctx_move_is_refused(plan: MakePlan) -> None:
    one = replace(plan("windows", estimator="gae", num_envs=2, total_steps=64), algorithm=Moving())
    with pytest.raises((RunFailed, UnfitError), match=r'"gae" needs .* critic, .* updates .* by ctx\.move'):
        list(train(one))


def test_a_critic_is_added_only_if_the_estimator_needs_one_and_none_is_trained(plan: MakePlan) -> None:
    assert not plan("a2c", estimator="gae").added_critic
    assert not plan("reinforce").added_critic and not plan("reinforce").needs
    assert plan("reinforce", estimator="td-lambda").added_critic


@pytest.mark.slow
def test_a_compiled_step_trains_the_added_critic_like_an_eager_step(plan: MakePlan) -> None:
    settings = {"estimator": "gae", "num_envs": 2, "total_steps": 256, "seeds": 2}
    eager, compiled = (list(train(plan("windows", compile=how, **settings)))[-1] for how in ("off", "on"))
    assert isinstance(eager, RunEnded) and isinstance(compiled, RunEnded)
    for name, value in eager.state.params.items():
        torch.testing.assert_close(compiled.state.params[name], value, rtol=1e-3, atol=1e-4)
