"""VPG, NPG and TRPO: policy steps, checked against hand calculations, and critic steps, which are separate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pgzoo.ops.natural import mean_kl
from pgzoo.training.engine import Engine
from pgzoo.training.events import RunEnded, UpdateDone
from pgzoo.types import Batch, TrainState

MakePlan = Callable[..., Any]
ALGORITHMS = ["vpg", "npg", "trpo"]
STEP: dict[str, dict[str, Any]] = {"vpg": {}, "npg": {"step_kl": 0.05}, "trpo": {"max_kl": 0.05}}


class Update(NamedTuple):
    """One update: the engine, the states before and after it, and its batch."""

    ctx: Engine
    before: TrainState
    after: TrainState
    batch: Batch

    def logits(self, state: TrainState) -> Tensor:
        """Return the logits of the three arms, `[S, 3]`; the observation is always 1."""
        return state.params["policy.weight.0"][:, 0] + state.params["policy.bias.0"]

    def metrics(self) -> dict[str, Any]:
        return self.ctx.metrics.means()


@pytest.fixture
def update(plan: MakePlan) -> Callable[..., Update]:
    """Return `update(algorithm, **settings)`, which makes the first update of a run, by default on a bandit."""

    def first(algorithm: str, **settings: Any) -> Update:
        given = {"env": "probe/Bandit-v0", "rollout_steps": 32, "num_envs": 4, "seeds": 3, "policy": {"hidden": ()}}
        ctx = Engine(plan(algorithm, **given | settings))
        ctx.begin_update()
        before, trajectory = ctx.collect(ctx.state)
        evaluated = ctx.evaluate_policy(before, trajectory)
        batch = ctx.batch(trajectory, ctx.estimate(before, trajectory, evaluated), evaluated)
        after = ctx.plan.algorithm.update(ctx, before, trajectory)  # type: ignore[attr-defined]
        ctx.close()
        return Update(ctx, before, after, batch)

    return first


def by_hand(seen: Update, row: int) -> tuple[Any, Any, Any]:
    """Return p, the gradient and the Fisher matrix for the logits of one member on the bandit.

    The gradient is E[A (e_a - p)], and the Fisher matrix is diag(p) - ppᵀ.
    """
    p = torch.softmax(seen.logits(seen.before)[row].double(), -1).numpy()
    weights = seen.batch.weights[row, 0].double().numpy()
    advantages, actions = seen.batch.advantages[row, 0].double().numpy(), seen.batch.actions[row, 0].numpy()
    mean = (weights * advantages).sum() / weights.sum()
    deviation = np.sqrt((weights * (advantages - mean) ** 2).sum() / weights.sum())
    weighted = weights * (advantages - mean) / deviation / weights.sum()
    gradient = weighted @ (np.eye(3)[actions] - p)
    return p, gradient, np.diag(p) - np.outer(p, p)


def test_natural_gradient_step_matches_a_hand_calculation(update: Any) -> None:
    """The logits are weight plus bias, so each of the two has the gradient g and contributes half of the step."""
    seen = update("npg", step_kl=0.02, damping=0.01)
    for row in range(3):
        _, gradient, fisher = by_hand(seen, row)
        g, matrix = np.tile(gradient, 2), np.tile(fisher, (2, 2)) + 0.01 * np.eye(6)
        x = np.linalg.solve(matrix, g)
        step = np.sqrt(2 * 0.02 / (x @ matrix @ x)) * x
        moved = (seen.logits(seen.after) - seen.logits(seen.before))[row].numpy()
        np.testing.assert_allclose(moved, step[:3] + step[3:], rtol=2e-3, atol=1e-4)


def test_plain_gradient_step_matches_a_hand_calculation(update: Any) -> None:
    """With SGD the logits change by 2 alpha g: alpha g from the weight and alpha g from the bias."""
    seen = update("vpg", optimizer="sgd", learning_rate=0.1, learning_rate_schedule="constant")
    for row in range(3):
        _, gradient, _ = by_hand(seen, row)
        moved = (seen.logits(seen.after) - seen.logits(seen.before))[row].numpy()
        np.testing.assert_allclose(moved, 0.2 * gradient, atol=1e-6)


def test_plain_gradient_step_includes_the_entropy_bonus(update: Any) -> None:
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "learning_rate_schedule": "constant"}
    without, with_it = update("vpg", **sgd), update("vpg", entropy_coef=0.5, **sgd)
    for row in range(3):
        p, _, _ = by_hand(without, row)
        slope = -p * (np.log(p) - p @ np.log(p))
        bonus = (with_it.logits(with_it.after) - without.logits(without.after))[row].numpy()
        np.testing.assert_allclose(bonus, 0.2 * 0.5 * slope, atol=1e-6)


def test_accepted_steps_improve_the_surrogate_within_the_trust_region(update: Any) -> None:
    seen = update("trpo", max_kl=0.03, env="CartPole-v1", policy={"hidden": (8,)})
    ctx, hyper, algorithm = seen.ctx, seen.ctx.hyper(seen.before), seen.ctx.plan.algorithm
    kl = mean_kl(ctx.policy, seen.after.params, seen.batch, hyper)
    before, after = (
        algorithm.loss(ctx.policy, state.params, seen.batch, hyper).value for state in (seen.before, seen.after)
    )
    assert (kl > 0.003).all() and (kl <= 0.03).all()
    assert (after < before).all()
    metrics = seen.metrics()
    np.testing.assert_allclose(metrics["policy/kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/surrogate_gain"], before - after, rtol=1e-3, atol=1e-6)
    assert metrics["policy/step_accepted"].tolist() == [1, 1, 1]


NOISY = {"env": "probe/AnySpaces-v0", "env_kwargs": {"action": "one"}, "seeds": 12, "max_kl": 0.5, "damping": 1e-3}
"""If a Gaussian narrows, the KL is larger than in the quadratic model: such a step may leave the trust region."""


def test_line_search_shortens_steps_that_leave_the_trust_region(update: Any) -> None:
    metrics = update("trpo", line_search_steps=20, **NOISY).metrics()
    tried = metrics["policy/line_search_steps"]
    assert tried.min() == 1 and tried.max() > 1
    assert (metrics["policy/kl"] <= 0.5).all() and (metrics["policy/surrogate_gain"] > 0).all()
    assert (metrics["policy/step_accepted"] == 1).all()


def test_members_with_a_rejected_step_keep_their_policy_and_fit_the_critic(update: Any) -> None:
    """With only one try of the line search, some members have their step rejected and others don't."""
    seen = update("trpo", line_search_steps=1, **NOISY)
    metrics = seen.metrics()
    accepted = metrics["policy/step_accepted"].astype(bool)
    assert 0 < accepted.sum() < 12
    for name in seen.before.params:
        same = [torch.equal(seen.before.params[name][row], seen.after.params[name][row]) for row in range(12)]
        assert same == ([False] * 12 if name.startswith("critic.") else (~accepted).tolist()), name
    assert np.abs(metrics["policy/kl"][~accepted]).max() < 1e-6
    assert not metrics["policy/surrogate_gain"][~accepted].any()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_critic_steps_equal_those_of_a_separate_adam_optimizer(update: Any, algorithm: str) -> None:
    """The reference is Adam for the critic only, on half the mean squared error, without a step of the policy."""
    settings = {"learning_rate": 0.01, "learning_rate_schedule": "constant", "critic_steps": 7, "seeds": 1}
    seen = update(algorithm, env="CartPole-v1", policy={"hidden": (8,), "activation": "tanh"}, **settings)
    names = [name for name in seen.before.params if name.startswith("critic.")]
    theirs = {name: seen.before.params[name].clone().requires_grad_() for name in names}
    optimizer = torch.optim.Adam(theirs.values(), lr=0.01)
    weights, returns = seen.batch.weights, seen.batch.returns
    for _ in range(7):
        value = seen.ctx.policy.apply(seen.before.params | theirs, seen.batch.inputs).value
        optimizer.zero_grad()
        (0.5 * (weights * (value - returns) ** 2).sum() / weights.sum()).backward()
        optimizer.step()
    for name in names:
        torch.testing.assert_close(seen.after.params[name], theirs[name].detach(), rtol=1e-4, atol=1e-5)


def test_adam_state_of_the_policy_does_not_count_critic_steps(plan: MakePlan) -> None:
    """After many critic steps, the policy's second step is still the second one for Adam."""
    settings = {"learning_rate": 0.01, "learning_rate_schedule": "constant", "policy": {"hidden": ()}, "num_envs": 4}
    ctx = Engine(plan("vpg", env="probe/Bandit-v0", rollout_steps=32, critic_steps=50, **settings))
    state = ctx.state
    theirs = {k: v.clone().requires_grad_() for k, v in state.params.items() if k.startswith("policy.")}
    optimizer = torch.optim.Adam(theirs.values(), lr=0.01)
    for _ in range(4):
        ctx.begin_update()
        state, trajectory = ctx.collect(state)
        evaluated = ctx.evaluate_policy(state, trajectory)
        batch = ctx.batch(trajectory, ctx.estimate(state, trajectory, evaluated), evaluated)
        loss = ctx.plan.algorithm.loss(ctx.policy, state.params | theirs, batch, ctx.hyper(state)).value  # type: ignore[union-attr]
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        state = ctx.plan.algorithm.update(ctx, state, trajectory)  # type: ignore[attr-defined]
    ctx.close()
    for name, value in theirs.items():
        torch.testing.assert_close(state.params[name], value.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.learning
@pytest.mark.parametrize(
    "algorithm", ["trpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ALGORITHMS if name != "trpo")]
)
def test_a_recurrent_policy_finds_the_best_bandit_arm(play: Any, algorithm: str) -> None:
    settings = {"env": "probe/Bandit-v0", "seeds": 2, "num_envs": 8, "rollout_steps": 16, "total_steps": 1500}
    events = play(
        algorithm, policy={"name": "gru"}, learning_rate=0.05, eval_episodes=20, **STEP[algorithm], **settings
    )
    assert isinstance(events[-1], RunEnded) and set(events[-1].statuses) == {"finished"}
    assert [float(r.mean()) for r in events[-2].returns] == [1.0, 1.0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_various_action_spaces_and_a_shared_critic_are_supported(play: Any, algorithm: str) -> None:
    worlds = [
        {"env_kwargs": {"action": "one"}, "policy": {"hidden": (8,), "critic": "shared"}},
        {"env_kwargs": {"action": "one"}, "policy": {"hidden": (8,), "distribution": "beta"}},
        {"env_kwargs": {"action": "matrix"}, "policy": {"hidden": (8,), "distribution": "tanh"}},
        {"env_kwargs": {"action": "multi-discrete"}, "policy": {"hidden": (8,)}},
        {"env_kwargs": {"action": "multi-binary"}, "policy": {"hidden": (8,)}},
    ]
    for world in worlds:
        events = play(
            algorithm, env="probe/AnySpaces-v0", seeds=2, num_envs=4, rollout_steps=32, total_steps=700, **world
        )
        assert events[-1].statuses == ("finished", "finished"), world
        updates = [event for event in events if isinstance(event, UpdateDone)]
        for name, value in updates[0].metrics.items():
            assert np.isfinite(value).all(), (name, world)
