"""PPG: both losses, checked against hand calculations, the stored windows, and when the auxiliary phase runs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from pgzoo.ops.optim import unflatten
from pgzoo.types import Targets, TrainState

PLAIN: dict[str, Any] = {"normalize_advantages": False, "value_coef": 0.0, "clip_range": 0.2}
SMALL: dict[str, Any] = {"num_envs": 2, "rollout_steps": 8, "policy_phases": 3, "policy": {"hidden": (8,)}}
KL = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)


@pytest.mark.parametrize(("ratio", "advantage", "gain"), [(1.1, 2.0, 2.2), (1.5, 2.0, 2.4), (1.5, -2.0, -3.0)])
def test_policy_phase_uses_the_clipped_surrogate_of_ppo(
    judge: Any, ratio: float, advantage: float, gain: float
) -> None:
    rows = {"states": [0], "actions": [1], "advantages": [advantage], "ratios": [ratio]}
    found = judge("ppg", rows, **PLAIN)
    assert found.loss.value.item() == pytest.approx(-gain)
    assert found.gradients["aux"] == [0, 0]


def test_auxiliary_loss_fits_both_value_functions_and_penalizes_the_kl(judge: Any) -> None:
    rows = {"states": [0, 1], "actions": [1, 0], "returns": [3.0, 1.0], "old_logits": [[0.0, 0.0]] * 2}
    tables = {"values": [1.0, 2.0], "aux": [0.0, 2.0], "ppg.windows": 16}
    settings = PLAIN | {"value_coef": 0.5, "beta_clone": 4.0}
    found = judge("ppg", rows, tables, loss="auxiliary_loss", **settings)
    assert found.loss.value.item() == pytest.approx((9 + 1) / 4 + 4 * KL / 2 + 0.5 * (4 + 1) / 4, rel=1e-5)
    assert found.gradients["aux"] == pytest.approx([-3 / 2, 1 / 2])
    assert found.gradients["values"] == pytest.approx([0.5 * -2 / 2, 0.5 * 1 / 2])
    assert found.gradients["logits"] == pytest.approx([4 * -0.25 / 2, 4 * 0.25 / 2, 0, 0], abs=1e-6)
    assert found.loss.halt.tolist() == [False]


def test_auxiliary_loss_halts_members_with_too_few_stored_windows(judge: Any) -> None:
    rows = {"states": [0], "actions": [1], "old_logits": [[0.0, 0.0]]}
    assert judge("ppg", rows, {"ppg.windows": 15}, loss="auxiliary_loss").loss.halt.tolist() == [True]


@pytest.mark.parametrize("policy", [{"name": "mlp", "critic": "shared"}, {"name": "gru"}], ids=lambda p: p["name"])
def test_policy_phase_trains_only_the_critics_own_layers_on_the_value_loss(engine: Any, policy: dict[str, Any]) -> None:
    ctx = engine("ppg", num_envs=2, rollout_steps=8, policy=policy | {"hidden": (8,)}, minibatches=1)
    state, trajectory = ctx.collect(ctx.state)
    old = ctx.evaluate_policy(state, trajectory)
    returns = torch.full_like(trajectory.rewards, 9.0)
    nothing = torch.zeros_like(returns)
    (batch,) = ctx.minibatches(state, trajectory, Targets(nothing, returns, trajectory.valid.float()), old)
    _, gradient = ctx.gradient(ctx.plan.algorithm.loss, state, batch)  # advantages are 0
    moved = {name: bool(leaf.any()) for name, leaf in unflatten(gradient, state.params).items()}
    assert moved["critic.weight.0"] and not any(moved[name] for name in moved if name.startswith("policy."))
    ctx.close()


def updated(ctx: Any, state: TrainState) -> tuple[TrainState, Any]:
    ctx.begin_update()
    state, seen = ctx.collect(state)
    state = ctx.plan.algorithm.update(ctx, state, seen)
    return state._replace(updates=state.updates + 1), seen


def test_auxiliary_phase_runs_after_every_third_update(engine: Any) -> None:
    ctx = engine("ppg", seeds=2, minibatches=2, aux_epochs=5, aux_minibatches=3, **SMALL)
    state, steps, windows = ctx.state, [], []
    moved = []
    for _ in range(6):
        before = state.params["critic.aux.weight.0"]
        state, _ = updated(ctx, state)
        steps.append(state.optimizer["step"].tolist())
        windows.append(state.buffers["ppg.windows"].tolist())
        moved.append(not torch.equal(state.params["critic.aux.weight.0"], before))
    assert steps == [[2, 2], [4, 4], [21, 21], [23, 23], [25, 25], [42, 42]]
    assert windows == [[1, 1], [2, 2], [0, 0]] * 2
    assert moved[:3] == [False, False, True]  # in later updates Adam's momentum moves it


def test_the_latest_windows_are_stored_side_by_side(engine: Any) -> None:
    ctx = engine("ppg", env="probe/Scripted-v0", seeds=2, **SMALL)
    state, seen = ctx.state, []
    for _ in range(4):
        state, one = updated(ctx, state)
        seen.append(one)
    for name in ("obs", "valid", "starts"):
        stored = torch.cat([getattr(one, name) for one in seen[1:]], 2)
        assert torch.equal(state.buffers[f"ppg.{name}"], stored), name
    assert state.buffers["ppg.returns"].shape == state.buffers["ppg.valid"].shape == (2, 8, 6)


def test_single_numbers_are_stored_without_rounding(engine: Any) -> None:
    class Number(gym.Env[Any, Any]):
        """Observations are single numbers between -1 and 1, in an array without dimensions."""

        observation_space, action_space = gym.spaces.Box(-1, 1, ()), gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            return np.asarray(self.np_random.uniform(-1, 1), np.float32), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return np.asarray(self.np_random.uniform(-1, 1), np.float32), 0.0, False, False, {}

    gym.register("probe/Number-v0", Number)
    ctx = engine("ppg", env="probe/Number-v0", **SMALL)
    state, seen = updated(ctx, ctx.state)
    gym.registry.pop("probe/Number-v0")
    assert state.buffers["ppg.obs"][:, :, -2:].equal(seen.obs) and bool((seen.obs % 1).any())


@pytest.mark.parametrize("policy", ["mlp", "gru"])
@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake-v1", "Taxi-v4", "probe/AnySpaces-v0", "probe/Corridor-v0"])
def test_buffers_for_windows_keep_their_names_shapes_and_dtypes(engine: Any, env: str, policy: str) -> None:
    ctx = engine("ppg", env=env, **(SMALL | {"policy": policy}))
    state, _ = updated(ctx, ctx.state)
    assert state.buffers.keys() == ctx.state.buffers.keys()
    for name, value in ctx.state.buffers.items():
        assert (state.buffers[name].shape, state.buffers[name].dtype) == (value.shape, value.dtype), name


def test_memory_and_action_masks_are_stored(engine: Any) -> None:
    ctx = engine("ppg", env="Taxi-v4", seeds=2, aux_epochs=1, aux_minibatches=2, **(SMALL | {"policy": "gru"}))
    state, seen = ctx.state, []
    for _ in range(3):
        state, one = updated(ctx, state)
        seen.append(one)
    for name, axis in (("memory", 1), ("action_mask", 2)):
        stored = torch.cat([getattr(one, name) for one in seen], axis)
        assert torch.equal(state.buffers[f"ppg.{name}"], stored), name
    assert state.buffers["ppg.memory"].any() and not state.buffers["ppg.action_mask"].all()


def test_auxiliary_phase_runs_only_for_members_with_enough_windows(engine: Any) -> None:
    ctx = engine("ppg", seeds=2, minibatches=1, aux_epochs=2, aux_minibatches=2, **SMALL)
    late = ctx.state.buffers | {"ppg.windows": torch.tensor([2, 1])}
    state, _ = updated(ctx, ctx.state._replace(buffers=late, updates=np.array([2, 1])))
    assert state.optimizer["step"].tolist() == [5, 1]
    assert state.buffers["ppg.windows"].tolist() == [0, 2]
