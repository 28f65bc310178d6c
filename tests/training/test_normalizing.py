"""Normalizing: which rows count, when the statistics change, and that reported returns are not normalized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from pgzoo.envs.spec import make_spec
from pgzoo.errors import UnfitError
from pgzoo.export.bundle import LoadedPolicy, load_policy
from pgzoo.ops.members import select
from pgzoo.ops.normalize import NormalizedPolicy
from pgzoo.registry import PluginCatalog
from pgzoo.training.engine import Engine
from pgzoo.training.events import EpisodesFinished, Event, RunEnded
from pgzoo.training.loop import train
from pgzoo.types import ActorInputs, Episodes, Inputs, Steps, TrainState, Trajectory

MakePlan = Callable[..., Any]
COLLECTIONS = {"windows": Steps(7), "episodes": Episodes(2)}
GAMMA = 0.9


class Watcher:
    """An algorithm that learns nothing, and stores the state and the trajectory of each update."""

    estimator = "reward-to-go"

    def __init__(self, collection: Any) -> None:
        self.collect = collection
        self.seen: list[tuple[TrainState, Trajectory]] = []

    def update(self, ctx: Engine, state: TrainState, trajectory: Trajectory) -> TrainState:
        self.seen.append((state, trajectory))
        return state


def watch(plan: MakePlan, collection: str, **settings: Any) -> tuple[Watcher, list[Event], Any]:
    watcher = Watcher(COLLECTIONS[collection])
    made = plan("windows", num_envs=3, total_steps=300, seeds=2, gamma=GAMMA, **settings)
    made = replace(made, algorithm=watcher, collection=watcher.collect)
    return watcher, list(train(made)), made


def last(events: list[Event]) -> TrainState:
    assert isinstance(events[-1], RunEnded)
    return events[-1].state


@pytest.mark.parametrize("collection", COLLECTIONS)
@pytest.mark.parametrize("env", ["probe/AnySpaces-v0", "probe/Scripted-v0"])
def test_the_moments_of_observations_are_computed_from_valid_rows_only(
    plan: MakePlan, collection: str, env: str
) -> None:
    watcher, events, _ = watch(plan, collection, env=env, normalize_obs=True)
    assert any(not trajectory.valid.all() for _, trajectory in watcher.seen)  # some rows are invalid
    before = last(events).buffers
    for member in range(2):
        rows = np.zeros((0, *watcher.seen[0][1].obs.shape[3:]))
        for state, trajectory in watcher.seen:
            count = float(state.buffers["policy.norm.count"][member])
            assert count == len(rows)  # the moments change after an update, not while collecting
            if len(rows):
                np.testing.assert_allclose(
                    state.buffers["policy.norm.mean"][member], rows.mean(0), rtol=1e-9, atol=1e-9
                )
                spread = state.buffers["policy.norm.square"][member] / count
                np.testing.assert_allclose(spread.sqrt(), rows.std(0), rtol=1e-9, atol=1e-9)
            if before["policy.norm.count"][member] > count:  # still active
                steps = trajectory.valid.shape[1]
                rows = np.concatenate([rows, trajectory.obs[member, :steps][trajectory.valid[member]].double().numpy()])
        np.testing.assert_allclose(before["policy.norm.mean"][member], rows.mean(0), rtol=1e-9, atol=1e-9)


def test_the_normalizer_does_not_change_during_an_evaluation(plan: MakePlan) -> None:
    _, _, made = watch(plan, "windows", env="Pendulum-v1", max_episode_steps=20, normalize_obs=True)
    engine = Engine(made)
    state, _ = engine.collect(engine.state)
    kept = {name: value.clone() for name, value in state.buffers.items()}
    engine.evaluate(state, np.ones(2, np.bool_), "sampled")
    engine.close()
    assert all(torch.equal(kept[name], value) for name, value in state.buffers.items())
    _, often, _ = watch(plan, "windows", env="CartPole-v1", normalize_obs=True, eval_every=20)
    _, never, _ = watch(plan, "windows", env="CartPole-v1", normalize_obs=True)
    assert all(torch.equal(value, last(never).buffers[name]) for name, value in last(often).buffers.items())


def test_the_normalizer_is_saved_with_the_policy(plan: MakePlan, catalog: PluginCatalog, tmp_path: Path) -> None:
    _, events, made = watch(plan, "windows", env="CartPole-v1", normalize_obs=True, policy={"name": "gru", "memory": 8})
    params = select(made.policy_params(last(events)), [1])
    saved = LoadedPolicy(made.config.policy, made.spec, made.policy, params)
    loaded = load_policy(saved.save(tmp_path), catalog)
    assert float(loaded.params["norm.count"]) >= 300
    assert all(torch.equal(value, params[name]) for name, value in loaded.params.items())
    views = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    acts = [[int(p.act(v, rng=np.random.default_rng(k))) for k, v in enumerate(views)] for p in (saved, loaded)]
    assert acts[0] == acts[1] and len(set(acts[0])) == 2


def test_normalizing_categorical_observations_is_refused(plan: MakePlan) -> None:
    with pytest.raises(UnfitError, match="are categories; remove --normalize-obs"):
        plan("windows", "FrozenLake-v1", normalize_obs=True)


class LiteralScale:
    """The running discounted return, computed step by step for each environment, as in an environment wrapper."""

    def __init__(self, num_envs: int) -> None:
        self.running, self.all = np.zeros(num_envs), list[float]()

    def see(self, rewards: Any, valid: Any, starts: Any) -> None:
        for t in range(len(rewards)):
            for n in range(rewards.shape[1]):
                if starts[t, n]:
                    self.running[n] = 0.0
                if valid[t, n]:
                    self.running[n] = rewards[t, n] + GAMMA * self.running[n]
                    self.all.append(self.running[n])


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_rewards_are_divided_by_the_standard_deviation_of_the_running_return(plan: MakePlan, collection: str) -> None:
    watcher, _, made = watch(plan, collection, env="probe/AnySpaces-v0", normalize_reward=True)
    engine, literal = Engine(made), LiteralScale(3)
    for state, trajectory in watcher.seen[:20]:
        steps = trajectory.valid.shape[1]
        rewards = trajectory.rewards[0].numpy()
        literal.see(rewards, trajectory.valid[0].numpy(), trajectory.starts[0, :steps].numpy())
        deviation = np.sqrt(np.var(literal.all) + 1e-8)
        assert float(state.buffers["reward.count"][0]) == len(literal.all)
        estimated = engine.estimate(state, trajectory).returns[0]
        expected = np.clip(rewards / deviation, -10, 10)
        for t in reversed(range(steps - 1)):  # the reward-to-go, as the estimator computes it
            goes_on = trajectory.valid[0, t] & ~(trajectory.terminated | trajectory.truncated)[0, t]
            expected[t] += GAMMA * goes_on.numpy() * expected[t + 1]
        np.testing.assert_allclose(estimated, expected, rtol=1e-4, atol=1e-5)
    engine.close()


def test_reported_returns_are_not_normalized(plan: MakePlan) -> None:
    """The rewards of the scripted environment don't depend on the actions."""
    reported = []
    for normalize in (False, True):
        _, events, _ = watch(plan, "windows", env="probe/Scripted-v0", normalize_reward=normalize)
        reported.append([r.tolist() for e in events if isinstance(e, EpisodesFinished) for r in e.returns])
    assert reported[0] == reported[1] and max(max(r, default=0) for r in reported[0]) > 1000


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32, np.float32, np.uint8])
def test_observations_with_a_large_mean_are_normalized_alike_in_acting_and_learning(
    catalog: PluginCatalog, dtype: Any
) -> None:
    """In single precision, a time in seconds since 1970 would be rounded to two minutes."""
    offset = {np.uint8: 200, np.float32: 1000}.get(dtype, 1_700_000_063)
    space = gym.spaces.Box(0, 255 if dtype is np.uint8 else 2e9, (1,), dtype)
    entry = catalog.get("policy", "mlp")
    settings, spec = entry.load_config()(hidden=(4,)), make_spec(space, gym.spaces.Discrete(2))
    policy = NormalizedPolicy(entry.load()(settings, spec, frozenset()), spec)
    obs = np.array([offset - 1, offset + 1, offset - 1, offset + 1], dtype)[:, None]
    batch = torch.from_numpy(obs)[None, None]
    params = {name: value[None] for name, value in policy.init(np.random.default_rng(0)).items()}
    buffers = {name: value[None] for name, value in policy.buffers().items()}
    params |= policy.absorb(buffers, batch, torch.ones(1, 1, 4, dtype=torch.bool))
    assert policy.normalize(params, batch).flatten().tolist() == pytest.approx([-1, 1, -1, 1])
    acted = policy.actor(params)(ActorInputs(obs[None]), None)[0]
    np.testing.assert_array_equal(acted, policy.apply(params, Inputs(batch)).dist.mode()[:, 0])
