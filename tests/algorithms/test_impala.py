"""IMPALA: its gradient, its targets, which each epoch recomputes, and training on rollouts of earlier updates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from pgzoo.training.engine import Engine
from pgzoo.types import Batch, TrainState

SMALL: dict[str, Any] = {"num_envs": 3, "rollout_steps": 8, "policy": {"hidden": (8,)}, "learning_rate": 0.01}


def test_gradients_match_a_hand_calculation_and_do_not_depend_on_the_probability_ratio(judge: Any) -> None:
    rows = {"states": [0, 1], "actions": [1, 0], "advantages": [2.0, -1.0], "returns": [3.0, 1.0], "ratios": [0.5, 0.8]}
    found = judge("impala", rows, {"values": [1.0, 2.0]}, entropy_coef=0.0, value_coef=0.5)
    expected = -np.array([-1 / 4, 1 / 4, 1 / 2, -1 / 2]) * [2, 2, -1, -1] / 2
    assert found.gradients["logits"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert found.gradients["values"] == pytest.approx([0.5 * (1 - 3) / 2, 0.5 * (2 - 1) / 2])


def test_targets_are_recomputed_with_the_current_policy_in_each_epoch(engine: Any) -> None:
    ctx = engine("impala", seeds=2, epochs=3, minibatches=1, **SMALL)
    state, seen = ctx.collect(ctx.state)
    steps: list[Any] = []

    def recorded(loss: Any, state: TrainState, batches: Iterable[Batch]) -> TrainState:
        for batch in batches:
            steps.append((state, batch))
            state = ctx.step(loss, state, batch)
        return state

    ctx.steps = recorded
    ctx.plan.algorithm.update(ctx, state, seen)
    acted = ctx.evaluate_policy(state, seen).log_probs
    assert len(steps) == 3
    for at, batch in steps:
        now = ctx.evaluate_policy(at, seen)
        expected = ctx.estimate(at, seen, now, behavior=acted)
        rows = batch.weights > 0
        assert torch.equal(batch.advantages[rows], expected.advantages[seen.valid])
        assert torch.equal(batch.returns[rows], expected.returns[seen.valid])
    assert not torch.equal(steps[0][1].advantages, steps[1][1].advantages)


def test_importance_weights_scale_advantages_and_are_at_most_one(engine: Any) -> None:
    ctx = engine("impala", **SMALL)
    state, seen = ctx.collect(ctx.state)
    now = ctx.evaluate_policy(state, seen)
    on = ctx.estimate(state, seen, now, behavior=now.log_probs)
    last = seen.valid & (torch.arange(8)[:, None] == 7)  # nothing follows these steps in the window
    rarer = ctx.estimate(state, seen, now, behavior=now.log_probs + np.log(2.0))
    likelier = ctx.estimate(state, seen, now, behavior=now.log_probs - np.log(2.0))
    torch.testing.assert_close(rarer.advantages[last], on.advantages[last] / 2)
    torch.testing.assert_close(likelier.advantages[last], on.advantages[last])  # the importance weight is at most 1


def test_with_a_lag_of_n_updates_train_on_the_rollout_from_n_updates_ago(engine: Any) -> None:
    lag = 2
    ctx = engine("impala", seeds=2, lag=lag, **SMALL)
    collected: list[Any] = []
    trained: list[Any] = []
    estimate = ctx.estimate
    ctx.estimate = lambda state, seen, now, behavior: (
        trained.append((seen, behavior)) or estimate(state, seen, now, behavior=behavior)
    )
    for _ in range(5):
        ctx.begin_update()
        before = ctx.state
        state, seen = ctx.collect_while(before, lambda state: ctx.plan.algorithm.update_meanwhile(ctx, state))
        collected.append((seen, ctx.evaluate_policy(before, seen).log_probs))
        ctx.state = ctx.plan.algorithm.update(ctx, state, seen)
        ctx.state, _ = ctx.end_update(before)
        moved = any(not ctx.state.params[name].equal(before.params[name]) for name in before.params)
        assert moved == (len(collected) > lag)  # before, no rollout is old enough
        assert ("impala/lag_kl" in ctx.metrics.means()) == moved
    epochs = ctx.settings.epochs
    assert len(trained) == 3 * epochs
    for k, (rollout, behavior) in enumerate(trained):
        expected, log_probs = collected[k // epochs]
        for name, leaf in rollout._asdict().items():
            assert leaf is None or leaf.equal(getattr(expected, name)), name
        assert behavior.equal(log_probs)  # under the parameters that collected the rollout
    now = ctx.evaluate_policy(ctx.state, trained[-1][0]).log_probs
    assert not now.equal(trained[-1][1])


class Numbers(gym.Env[Any, Any]):
    """Random observations and actions of any shape; an episode has five steps. The info of a step has a random cost."""

    def __init__(self, obs: tuple[int, ...] = (), action: tuple[int, ...] = ()) -> None:
        self.observation_space, self.action_space = gym.spaces.Box(-1, 1, obs), gym.spaces.Box(-1, 1, action)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._obs(), float(np.sum(action)), self.t == 5, False, {"cost": self.np_random.random()}

    def _obs(self) -> Any:
        return np.asarray(self.np_random.uniform(-1, 1, self.observation_space.shape), np.float32)


gym.register("probe/Numbers-v0", f"{__name__}:Numbers")


def two_updates(ctx: Any) -> list[Any]:
    """Collect and update twice; return the rollouts."""
    algorithm, seen = ctx.plan.algorithm, []
    for _ in range(2):
        ctx.begin_update()
        before = ctx.state
        state, one = ctx.collect_while(before, lambda state: algorithm.update_meanwhile(ctx, state))
        ctx.state = algorithm.update(ctx, state, one)
        ctx.state, _ = ctx.end_update(before)
        seen.append(one)
    return seen


@pytest.mark.parametrize(("obs", "action"), [((3,), ()), ((3,), (2, 2)), ((), (1,))])
def test_a_lag_stores_numbers_of_any_shape(engine: Any, obs: tuple[int, ...], action: tuple[int, ...]) -> None:
    ctx = engine("impala", env="probe/Numbers-v0", env_kwargs={"obs": obs, "action": action}, lag=1, **SMALL)
    start = ctx.state
    *_, last = two_updates(ctx)
    for name in ("obs", "actions"):
        stored = ctx.state.buffers[f"impala.rollout.{name}"]
        assert stored.dtype == start.buffers[f"impala.rollout.{name}"].dtype
        assert stored[:, 0].equal(getattr(last, name)) and bool(stored.any()), name
    assert any(not ctx.state.params[name].equal(start.params[name]) for name in start.params)


def test_a_lag_stores_the_values_of_the_info(plan: Any, engine: Any) -> None:
    def saving(rewards: Any, info: Any) -> Any:
        given.append(info["cost"])
        return rewards - info["cost"]

    given: list[Any] = []
    shown = plan("impala", env="probe/Numbers-v0", backend="sync", lag=1, **SMALL)
    ctx = Engine(replace(shown, estimator=saving, needs=shown.needs | {"info:cost"}))
    first, last = two_updates(ctx)
    assert ctx.state.buffers["impala.rollout.info.cost"][:, 0].equal(last.info["cost"])
    assert len(given) == ctx.settings.epochs and all(cost.equal(first.info["cost"]) for cost in given)
    assert bool(first.info["cost"].any())
    ctx.close()


def test_the_state_that_a_diagnostic_gets_has_old_parameters_and_the_current_progress(engine: Any) -> None:
    ctx = engine("impala", seeds=2, total_steps=1000, **SMALL)
    for _ in range(3):
        ctx.begin_update()
        before = ctx.state
        state, _ = ctx.collect_while(before, lambda state: state)
        given = ctx.record.collected_by
        assert given.params is before.params
        assert ctx.hyper(given).remaining.flatten().tolist() == pytest.approx(1 - before.env_steps / 1000)
        ctx.state = state


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"policy": {"name": "gru", "hidden": (8,)}}, {"env": "Taxi-v4"}, {"env": "Pendulum-v1"}, {"normalize_obs": True}],
    ids=str,
)
def test_lag_of_one_trains_with_memory_masks_box_actions_and_normalization(
    engine: Any, settings: dict[str, Any]
) -> None:
    ctx = engine("impala", lag=1, **(SMALL | settings))
    start = ctx.state
    two_updates(ctx)
    assert any(not ctx.state.params[name].equal(start.params[name]) for name in start.params)
