"""PPO: its surrogate and each of its options, checked against hand calculations, and its update."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.errors import UnfitError
from pgzoo.training.engine import Engine
from pgzoo.types import Loss


def rows(ratio: float, advantage: float) -> dict[str, Any]:
    return {"states": [0], "actions": [1], "advantages": [advantage], "ratios": [ratio]}


PLAIN: dict[str, Any] = {"normalize_advantages": False, "value_coef": 0.0, "clip_range": 0.2}


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "flat"),
    [
        (1.1, 2.0, 2.2, False),
        (1.5, 2.0, 2.4, True),  # no further gain
        (0.5, 2.0, 1.0, False),  # a good action that became less likely is made more likely
        (0.9, -2.0, -1.8, False),
        (0.5, -2.0, -1.6, True),
        (1.5, -2.0, -3.0, False),  # a bad action that became more likely is made less likely
    ],
)
def test_surrogate_gains_nothing_beyond_the_clip_range(
    judge: Any, ratio: float, advantage: float, gain: float, flat: bool
) -> None:
    found = judge("ppo", rows(ratio, advantage), **PLAIN)
    assert found.loss.value.item() == pytest.approx(-gain)
    slope = 0.0 if flat else -ratio * advantage / 4  # d log p / d logit of the action is 1 - 3/4
    assert found.gradients["logits"] == pytest.approx([-slope, slope, 0, 0], abs=1e-6)
    outside = float(abs(ratio - 1) > 0.2)
    assert found.loss.metrics["policy/clip_fraction"].item() == outside


def test_linear_schedule_shrinks_the_clip_range_during_the_run(judge: Any) -> None:
    found = judge("ppo", rows(1.5, 2.0), remaining=0.25, clip_range_schedule="linear", **PLAIN)
    assert found.loss.value.item() == pytest.approx(-2 * 1.05)
    kept = judge("ppo", rows(1.5, 2.0), remaining=0.25, **PLAIN)
    assert kept.loss.value.item() == pytest.approx(-2 * 1.2)


def test_dual_clipping_bounds_the_loss_of_a_bad_action(judge: Any) -> None:
    far, near, good = (rows(*at) for at in ((5.0, -2.0), (2.0, -2.0), (5.0, 2.0)))
    bounded = judge("ppo", far, dual_clip=3.0, **PLAIN)
    assert bounded.loss.value.item() == pytest.approx(6.0)
    assert bounded.gradients["logits"] == [0, 0, 0, 0]
    assert judge("ppo", near, dual_clip=3.0, **PLAIN).loss.value.item() == pytest.approx(4.0)
    assert judge("ppo", good, dual_clip=3.0, **PLAIN).loss.value.item() == pytest.approx(-2.4)


@pytest.mark.parametrize(
    ("value", "loss", "slope"),
    [
        (1.2, 0.5 * 1.8**2, -1.8),  # within the range: the unclipped error
        (2.0, 0.5 * 1.5**2, 0.0),  # toward the target by more than the range: no further gain
        (0.0, 0.5 * 3.0**2, -3.0),  # away from the target: the larger error is the unclipped one
    ],
)
def test_value_loss_gains_nothing_beyond_the_value_clip_range(
    judge: Any, value: float, loss: float, slope: float
) -> None:
    one = {"states": [1], "actions": [0], "returns": [3.0], "values": [1.0]}
    found = judge("ppo", one, {"values": [0.0, value]}, **(PLAIN | {"value_coef": 1.0, "clip_value": 0.5}))
    assert found.loss.value.item() == pytest.approx(loss)
    assert found.gradients["values"] == pytest.approx([0, slope])


def test_penalty_is_the_kl_divergence_from_the_old_policy(judge: Any) -> None:
    one = {"states": [0], "actions": [1], "old_logits": [[0.0, 0.0]]}
    kl = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    found = judge("ppo", one, {"ppo.kl_coef": 3.0}, kl_coef=3.0, **PLAIN)
    assert found.loss.value.item() == pytest.approx(3 * kl, rel=1e-5)
    assert found.gradients["logits"] == pytest.approx([3 * (0.25 - 0.5), 3 * (0.75 - 0.5), 0, 0], abs=1e-6)


def test_loss_halts_beyond_one_and_a_half_times_the_target_kl(judge: Any) -> None:
    k3 = 1.5 - 1 - np.log(1.5)
    assert judge("ppo", rows(1.5, 1.0), **PLAIN).loss.metrics["policy/kl"].item() == pytest.approx(k3, rel=1e-5)
    for target, halts in ((k3 / 1.6, True), (k3 / 1.4, False)):
        assert judge("ppo", rows(1.5, 1.0), target_kl=target, **PLAIN).loss.halt.tolist() == [halts]
    assert judge("ppo", rows(1.5, 1.0), **PLAIN).loss.halt is None


# an update


SMALL: dict[str, Any] = {"num_envs": 4, "rollout_steps": 16, "policy": {"hidden": (8,)}}


def test_only_the_member_beyond_the_target_kl_halts(engine: Any) -> None:
    ctx = engine("ppo", seeds=2, target_kl=0.01, epochs=3, minibatches=2, learning_rate_schedule="constant", **SMALL)
    state, seen = ctx.collect(ctx.state)
    algorithm = ctx.plan.algorithm

    class Moved:
        """PPO's loss with lower old log-probabilities for the second member: its ratio is 3 from the start."""

        def loss(self, policy: Any, params: Any, batch: Any, hyper: Any) -> Loss:
            age = torch.tensor([0.0, np.log(3.0)])[:, None, None].float()
            found: Loss = algorithm.loss(policy, params, batch._replace(log_probs=batch.log_probs - age), hyper)
            return found

    old = ctx.evaluate_policy(state, seen)
    after = state
    for batch in ctx.minibatches(state, seen, ctx.estimate(state, seen, old), old):
        after = ctx.step(Moved().loss, after, batch._replace(advantages=torch.zeros_like(batch.advantages)))
    assert after.optimizer["step"].tolist() == [6, 0]
    assert all(torch.equal(after.params[name][1], value[1]) for name, value in state.params.items())


def test_minibatches_contain_each_valid_row_once_per_epoch_in_a_new_order(engine: Any) -> None:
    ctx = engine("ppo", env="probe/Scripted-v0", seeds=2, epochs=3, minibatches=4, num_envs=4, rollout_steps=16)
    state, seen = ctx.collect(ctx.state)
    assert not seen.valid.all()
    marked = torch.arange(seen.valid.numel()).reshape(seen.valid.shape).float()
    targets = ctx.estimate(state, seen, ctx.evaluate_policy(state, seen))._replace(advantages=marked)
    batches = list(ctx.minibatches(state, seen, targets, ctx.evaluate_policy(state, seen)))
    assert len(batches) == 12
    for member in range(2):
        orders = []
        for epoch in range(3):
            met = [b.advantages[member][b.weights[member] > 0].tolist() for b in batches[4 * epoch : 4 * epoch + 4]]
            orders.append([row for part in met for row in part])
            assert Counter(orders[-1]) == Counter(marked[member][seen.valid[member]].tolist())
        assert orders[0] != orders[1] != orders[2]


def test_recomputed_advantages_are_refused_for_an_estimator_with_importance_ratios(plan: Any, engine: Any) -> None:
    def ratios(rewards: Any, log_rhos: Any = None) -> Any:
        return rewards

    message = r'Estimator "v-trace" includes .* algorithm "ppo" .*\. Remove --recompute-advantages, or choose another'
    with pytest.raises(UnfitError, match=message):
        engine("ppo", estimator="v-trace", recompute_advantages=True, **SMALL)
    shown = plan("ppo", recompute_advantages=True, **SMALL)
    with pytest.raises(UnfitError, match="Remove --recompute-advantages"):
        Engine(replace(shown, estimator=ratios))
    engine("ppo", estimator="v-trace", recompute_advantages=False, **SMALL)


@pytest.mark.parametrize("anew", [False, True])
def test_advantages_are_recomputed_in_each_epoch_only_if_requested(engine: Any, anew: bool) -> None:
    ctx = engine("ppo", epochs=3, minibatches=1, recompute_advantages=anew, learning_rate=0.01, **SMALL)
    state, seen = ctx.collect(ctx.state)
    batches: list[Any] = []
    steps = ctx.steps
    ctx.steps = lambda loss, state, given: steps(loss, state, (batches.append(batch) or batch for batch in given))
    before = ctx.estimate(state, seen, ctx.evaluate_policy(state, seen))
    ctx.plan.algorithm.update(ctx, state, seen)
    assert torch.equal(batches[0].advantages.flatten(), before.advantages.flatten())
    assert torch.equal(batches[1].advantages, batches[0].advantages) is not anew
    assert torch.equal(batches[1].values, batches[0].values) is not anew
    assert torch.equal(batches[2].log_probs, batches[0].log_probs)


@pytest.mark.parametrize(("aim", "factor"), [(1e-9, 2.0), (1e3, 0.5)])
def test_adaptive_kl_penalty_doubles_above_the_target_and_halves_below(engine: Any, aim: float, factor: float) -> None:
    ctx = engine("ppo", seeds=2, kl_coef=0.25, adaptive_kl_target=aim, epochs=2, minibatches=1, **SMALL)
    state, seen = ctx.collect(ctx.state)
    assert state.buffers["ppo.kl_coef"].tolist() == [0.25, 0.25]
    assert ctx.plan.algorithm.update(ctx, state, seen).buffers["ppo.kl_coef"].tolist() == [0.25 * factor] * 2


def test_an_adaptive_penalty_without_an_initial_weight_starts_from_one(engine: Any) -> None:
    ctx = engine("ppo", seeds=2, adaptive_kl_target=1e-9, epochs=2, minibatches=1, **SMALL)
    state, seen = ctx.collect(ctx.state)
    assert state.buffers["ppo.kl_coef"].tolist() == [1.0, 1.0]
    assert ctx.plan.algorithm.update(ctx, state, seen).buffers["ppo.kl_coef"].tolist() == [2.0, 2.0]


def test_adaptive_kl_penalty_is_unchanged_near_the_target(engine: Any) -> None:
    ctx = engine("ppo", kl_coef=0.25, epochs=2, minibatches=1, **SMALL)
    state, seen = ctx.collect(ctx.state)
    old = ctx.evaluate_policy(state, seen).dist
    after = ctx.plan.algorithm.update(ctx, state, seen)
    kl = old.kl(ctx.evaluate_policy(after, seen).dist)[seen.valid].mean().item()
    again = engine("ppo", kl_coef=0.25, adaptive_kl_target=kl, epochs=2, minibatches=1, **SMALL)
    state, seen = again.collect(again.state)
    assert again.plan.algorithm.update(again, state, seen).buffers["ppo.kl_coef"].tolist() == [0.25]
