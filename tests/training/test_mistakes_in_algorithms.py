"""Mistakes in algorithms raise errors that say what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable
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
from pgzoo.types import AlgorithmState, Output


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

    for loss, message in (
        (misspelled, "Batch has the fields: inputs, actions"),
        (ratio, 'batch.log_probs is None: declare needs = {"log_probs"}'),
        (without_value, 'output.value is None: declare needs = {"value"}'),
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
