"""Mistakes in algorithms raise errors that say what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import pgzoo
from pgzoo.algorithms.a2c import A2C
from pgzoo.errors import PluginError, RunFailed, UnfitError
from pgzoo.ops.heads import ObsEncoder
from pgzoo.ops.losses import weighted_mean
from pgzoo.ops.nets import linear
from pgzoo.ops.optim import flatten
from pgzoo.runs.planning import collection_of
from pgzoo.training.metrics import Stopwatch
from pgzoo.types import AlgorithmState, Loss, Output


class Settings:
    rollout_steps = "8"


def mine(**attributes: Any) -> Any:
    return type("Mine", (), attributes)()


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (mine(collect=pgzoo.Steps("rollout_steps")), "`count` must be an integer, at least 1"),  # type: ignore[arg-type]
        (mine(collect=pgzoo.Episodes(0)), "`per_env` must be an integer, at least 1"),
        (mine(collect=pgzoo.Steps), "`collect` is the class Steps. Make it an object"),
        (mine(collect=lambda self, config: 8), "`collect` is 8. Make it pgzoo.Steps"),
        (mine(), "must be an integer"),
    ],
)
def test_an_invalid_collection_is_refused(algorithm: Any, message: str) -> None:
    with pytest.raises(PluginError, match=r"^Mine") as caught:
        collection_of(algorithm, Settings())
    assert message in str(caught.value)


class NumberedMetric:
    """A policy gradient that names a metric by a number: in its loss, by `ctx.report`, or by `ctx.move`."""

    collect, estimator = pgzoo.Steps(4), "reward-to-go"

    def loss(self, policy: Any, params: Any, batch: Any, hyper: Any) -> Any:
        value = -weighted_mean(policy.apply(params, batch.inputs).dist.log_prob(batch.actions), batch.weights)
        return pgzoo.Loss(value, {3: value.detach()} if type(self) is NumberedMetric else {})  # type: ignore[dict-item]


class NumberedReport(NumberedMetric):
    def update(self, ctx: Any, state: Any, trajectory: Any) -> Any:
        ctx.report({3: torch.zeros(1)})
        return state


class NumberedMove(NumberedMetric):
    def update(self, ctx: Any, state: Any, trajectory: Any) -> Any:
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
        loss, gradient = ctx.gradient(self.loss, state, batch)
        vector = flatten(state.params.values())
        return ctx.move(state, vector, batch=batch, value=loss.value, gradient=gradient, metrics={3: loss.value})


@pytest.mark.parametrize("made", [NumberedMetric, NumberedReport, NumberedMove])
def test_a_metric_whose_name_is_no_text_fails_the_run_with_the_name_of_the_algorithm(made: type) -> None:
    plan = pgzoo.plan(made, env="probe/Bandit-v0", num_envs=2, total_steps=8, policy="linear", eval_episodes=1)
    with pytest.raises(RunFailed, match=rf'{made.__name__}" raised TypeError: the name of a metric must be .* got 3'):
        list(pgzoo.train(plan))


def test_misuse_of_batches_outputs_steps_and_estimates_raises_clear_errors(engine: Any) -> None:
    ctx = engine("a2c", num_envs=2, rollout_steps=4)
    state, seen = ctx.collect(ctx.state)
    evaluated = ctx.evaluate_policy(state, seen)
    batch = ctx.batch(seen, ctx.estimate(state, seen, evaluated), evaluated)

    def misspelled(policy: Any, params: Any, batch: Any, hyper: Any) -> Any:
        return batch.log_prob

    def ratio(policy: Any, params: Any, batch: Any, hyper: Any) -> Any:
        return (batch.advantages - batch.log_probs).sum((-2, -1))

    def without_value(policy: Any, params: Any, batch: Any, hyper: Any) -> Any:
        output = Output(policy.apply(params, batch.inputs).dist)
        return output.value.mean((-2, -1))

    def in_no_variable(policy: Any, params: Any, batch: Any, hyper: Any) -> Any:
        return policy.apply(params, batch.inputs).aux_value ** 2

    def without_values(policy: Any, params: Any, batch: Any, hyper: Any) -> Any:
        own = evaluated._replace(values=None)
        return own.values * 2

    for loss, message in (
        (misspelled, "Batch has the fields: inputs, actions"),
        (ratio, 'batch.log_probs is None: declare needs = {"log_probs"} and pass `evaluated` to ctx.batch or'),
        (without_value, 'output.value is None: declare needs = {"value"}'),
        (in_no_variable, 'The aux_value that policy.apply returns is None: declare needs = {"aux_value"}'),
        (without_values, 'own.values is None: declare needs = {"value"}, or pass the values of the algorithm\'s own'),
    ):
        with pytest.raises(RunFailed) as caught, Stopwatch("update").phase("update", 'algorithm "mine"'):
            ctx.step(loss, state, batch)
        assert message in str(caught.value)

    for only in ("critc.", ("critic.", "critc.")):
        with pytest.raises(ValueError, match=r'only="critc\.": no parameter has a name that starts so\. There are: '):
            ctx.step(A2C().loss, state, batch, only)
    moved = ctx.step(A2C().loss, state, batch, ("critic.", "policy.bias"))
    changed = {name for name, leaf in state.params.items() if not torch.equal(leaf, moved.params[name])}
    assert changed == {name for name in state.params if name.startswith(("critic.", "policy.bias"))}

    with pytest.raises(RunFailed, match=r"Write evaluated = ctx\.evaluate_policy\(state, trajectory\), and then"):
        ctx.estimate(state, seen)
    with pytest.raises(RunFailed, match=r"evaluated\.values` None"):
        ctx.estimate(state, seen, evaluated._replace(values=None))
    with pytest.raises(RunFailed, match=r"bonus of ctx\.estimate is \[1, 5, 2\]; it must be .* \[1, 4, 2\]"):
        ctx.estimate(state, seen, evaluated, bonus=torch.zeros(1, 5, 2))


def test_a_loss_that_uses_the_value_without_the_need_gets_a_hint_wherever_the_value_is_kept(plan: Any) -> None:
    one = plan("windows")
    one.algorithm.loss = lambda policy, params, batch, hyper: policy.apply(params, batch.inputs).value ** 2
    with pytest.raises(RunFailed, match=r'The value that policy\.apply returns is None: declare needs = \{"value"\}$'):
        list(pgzoo.train(one))


def test_init_may_not_replace_the_tensors_of_the_policy(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    init: Callable[..., Any] = lambda self, ctx, rng: AlgorithmState({}, {"policy.weight.0": torch.zeros(())})  # noqa: E731
    monkeypatch.setattr(A2C, "init", init, raising=False)
    with pytest.raises(PluginError, match=r'"a2c" returns from init a tensor named "policy\.weight\.0"'):
        engine("a2c")


def test_linear_refuses_wrong_shapes_and_the_observation_encoder_refuses_images() -> None:
    with pytest.raises(ValueError, match=r"x is \[S, rows, D\]; got \[1, 2, 3, 4\]"):
        linear(torch.zeros(1, 2, 3, 4), torch.zeros(1, 4, 2), torch.zeros(1, 2))
    images = gym.spaces.Box(0, 255, (84, 84, 3), np.uint8)
    with pytest.raises(UnfitError, match="Take another environment"):
        ObsEncoder(images, "algorithm", "Take another environment.")


def a_loss(policy: Any, params: Any, batch: Any, hyper: Any) -> Any:
    return (params["policy.bias.0"].sum(-1) - 1).square()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: None, "TypeError: the loss function returns None; return a tensor [S]"),
        (lambda value: (value, {}), "TypeError: the loss function returns tuple; return a tensor [S]"),
        (lambda value: Loss(None, {}), "TypeError: the loss function returns a Loss whose value is None; return a"),  # type: ignore[arg-type]
        (lambda value: value.detach(), "ValueError: the loss doesn't depend on the parameters"),
        (lambda value: Loss(value, {"mine/x": 1.0}), "metric mine/x is a float; it must be a tensor [S]"),
        (lambda value: Loss(value, {}, halt=value.mean() > 0), "halt is one number per seed, shape [2]; got []"),
        (lambda value: Loss(value, {}, halt=value), "halt must be a tensor [S] of bool; got torch.float32"),
        (lambda value: Loss(value, {}, halt=False), "halt must be a tensor [S] of bool; got bool"),
    ],
)
def test_what_a_loss_may_not_return(engine: Any, change: Callable[[Any], Any], message: str) -> None:
    ctx = engine("a2c", seeds=2, num_envs=2, rollout_steps=4)
    state, seen = ctx.collect(ctx.state)
    batch = ctx.batch(seen, ctx.estimate(state, seen, ctx.evaluate_policy(state, seen)))
    with pytest.raises(RunFailed) as caught, Stopwatch("update").phase("update", 'algorithm "mine"'):
        ctx.step(lambda *given: change(a_loss(*given)), state, batch)
    assert str(caught.value).startswith('algorithm "mine" raised ') and message in str(caught.value)
    assert "declare needs" not in str(caught.value)


@pytest.mark.parametrize(
    ("rate", "prefix", "message"),
    [
        (torch.ones(2), "critc.", r'learning_rates\["critc\."\]: no parameter has a name that starts so'),
        (torch.ones(()), "critic.", r"must be a tensor \[S\], here \[2\]; got \[\]"),
        (0.1, "critic.", r"must be a tensor \[S\], here \[2\]; got a float"),
    ],
)
def test_a_learning_rate_must_be_one_number_per_member_and_belong_to_a_parameter(
    engine: Any, rate: Any, prefix: str, message: str
) -> None:
    ctx = engine("a2c", seeds=2, num_envs=2, rollout_steps=4)
    state, seen = ctx.collect(ctx.state)
    batch = ctx.batch(seen, ctx.estimate(state, seen, ctx.evaluate_policy(state, seen)))
    with pytest.raises((TypeError, ValueError), match=message):
        ctx.step(a_loss, state, batch, learning_rates={prefix: rate})


@pytest.mark.parametrize(
    ("estimate", "message"),
    [
        (
            lambda rewards: rewards.transpose(1, 2),
            "ValueError: an estimate has the shape [S, T, N], here [1, 4, 2]; got ",
        ),
        (lambda rewards: rewards[..., :1], "here [1, 4, 2]; got [1, 4, 1]"),
        (lambda rewards: (rewards, rewards[:, 1:]), "here [1, 4, 2]; got [1, 3, 2]"),
        (
            lambda rewards: None,
            "TypeError: an estimator returns a tensor [S, T, N] or two, (advantages, returns); got None",
        ),
        (lambda rewards: [rewards], "got a list"),
        (lambda rewards: (rewards,), "got a tuple of Tensor"),
        (lambda rewards: (rewards, None), "got a tuple of Tensor, NoneType"),
    ],
)
def test_an_estimate_has_the_shape_of_the_rewards(plan: Any, estimate: Callable[[Any], Any], message: str) -> None:
    one = replace(
        plan("windows", num_envs=2), estimator=lambda *, rewards: estimate(rewards), collection=pgzoo.Steps(4)
    )
    with pytest.raises(RunFailed) as caught:
        list(pgzoo.train(one))
    assert str(caught.value).startswith('estimator "reward-to-go" raised ') and message in str(caught.value)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (
            lambda state: None,
            "must leave a TrainState: return it from update, or assign it to ctx.state in loop. It is None",
        ),
        (lambda state: (state, {}), "must leave a TrainState: .* It is of type tuple"),
        (
            lambda state: state._replace(buffers=state.buffers | {"mine.x": np.zeros(1)}),
            '"mine.x" is of type ndarray after an update; expected a tensor of shape \\[1, 3\\]',
        ),
        (
            lambda state: state._replace(buffers=state.buffers | {"mine.x": torch.zeros(3)}),
            "is a tensor of shape \\[3\\]",
        ),
        (lambda state: state._replace(buffers={}), 'the state after an update lacks "mine.x"'),
        (lambda state: state._replace(params=state.params | {"new": torch.zeros(1)}), 'has a new tensor, "new"'),
    ],
)
def test_the_state_after_an_update_has_the_tensors_that_it_had(
    plan: Any, update: Callable[[Any], Any], message: str
) -> None:
    one = plan("windows")
    one.algorithm.update = lambda ctx, state, trajectory: update(state)
    one.algorithm.init = lambda ctx, rng: AlgorithmState({}, {"mine.x": torch.zeros(3)})
    with pytest.raises(RunFailed, match=f'^Algorithm "windows".*{message}'):
        list(pgzoo.train(one))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda: AlgorithmState({"mine.x": np.zeros(3)}, {}), r'params\["mine\.x"\] is of type ndarray'),
        (lambda: AlgorithmState({}, {"mine.x": 1.0}), r'buffers\["mine\.x"\] is of type float'),
        (lambda: AlgorithmState({}, None), "buffers is None"),
        (lambda: None, "what it returned is None"),
        (lambda: 1 / 0, "init raised ZeroDivisionError: division by zero"),
    ],
)
def test_init_returns_two_dicts_of_tensors(plan: Any, returned: Callable[[], Any], message: str) -> None:
    one = plan("windows")
    one.algorithm.init = lambda ctx, rng: returned()
    with pytest.raises(PluginError, match=rf'^Algorithm "windows".*{message}'):
        list(pgzoo.train(one))


def test_the_order_of_tensors_in_a_state_has_no_effect(plan: Any) -> None:
    """Steps and compiled functions depend on the order, so the engine restores it."""

    def run(order: Callable[[Any], Any]) -> Any:
        one = plan("windows", total_steps=1300)
        one.algorithm.init = lambda ctx, rng: AlgorithmState({"mine.a": torch.ones(2)}, {"mine.b": torch.zeros(())})

        def update(ctx: Any, state: Any, trajectory: Any) -> Any:
            batch = ctx.batch(trajectory, ctx.estimate(state, trajectory))
            for _ in range(2):
                state = ctx.step(one.algorithm.loss, order(state), batch)
            return order(state)

        one.algorithm.update = update
        *_, ended = pgzoo.train(one)
        return ended.state

    def reversed_tensors(state: Any) -> Any:
        params, buffers = (dict(reversed(tree.items())) for tree in (state.params, state.buffers))
        return state._replace(params=params, buffers=buffers)

    plain, mixed = run(lambda state: state), run(reversed_tensors)
    assert plain.updates[0] == 6
    assert list(mixed.params) == list(plain.params) and list(mixed.buffers) == list(plain.buffers)
    for name, leaf in plain.params.items():
        assert torch.equal(mixed.params[name], leaf), name
