"""REPPO: its losses and its targets, checked against hand calculations."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch

from pgzoo.errors import UnfitError
from pgzoo.ops.distributions import DiagonalGaussian
from pgzoo.types import Batch, Hyper, Inputs, Output, Params

SMALL: dict[str, Any] = {"env": "probe/Target-v0", "num_envs": 3, "rollout_steps": 8, "epochs": 1, "minibatches": 1}
SETTINGS = {"kl_bound": 0.1, "target_entropy": -0.5}


class Constant:
    """A Gaussian with learned mean and log standard deviation that ignores observations: Q(a) = w a + b is linear."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        shape = (*inputs.obs.shape[:3], 1)
        mean, log_std = (params[f"policy.{name}"][:, None, None].expand(shape) for name in ("mean", "log_std"))
        return Output(DiagonalGaussian(mean, log_std))

    def vectors(self, params: Params, inputs: Inputs) -> torch.Tensor:
        return inputs.obs


def gradients(plan: Any, *, old_mean: float, noise: list[float], returns: list[float], q: float) -> tuple[Any, Any]:
    """Return loss and gradients for actions 1, mean 0.5, standard deviation 1, α = 0.2, β = 3 and Q(a) = q a."""
    rows = len(noise)

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values).reshape(1, 1, rows)

    def number(value: float) -> torch.Tensor:
        return torch.tensor([[value]])

    params = {
        "policy.mean": number(0.5),
        "policy.log_std": number(0.0),
        "reppo.q.weight.0": torch.tensor([[[0.0], [q]]]),
        "reppo.q.bias.0": number(0.0),
        "reppo.log_alpha": torch.tensor([log(0.2)]),
        "reppo.log_beta": torch.tensor([log(3.0)]),
    }
    params = {name: value.requires_grad_() for name, value in params.items()}
    ones = column([1.0] * rows)
    old = DiagonalGaussian(torch.full((1, 1, rows, 1), old_mean), torch.zeros(1, 1, rows, 1))
    extra = {"noise": column(noise).unsqueeze(-1)}
    batch = Batch(
        Inputs(torch.zeros(1, 1, rows, 1)), ones.unsqueeze(-1), ones, ones, column(returns), ones, old=old, extra=extra
    )
    hyper = Hyper({name: torch.full((1, 1, 1), value) for name, value in SETTINGS.items()})
    loss = plan("reppo", **SMALL).algorithm.loss(Constant(), params, batch, hyper)
    found = torch.autograd.grad(loss.value.sum(), list(params.values()))
    return loss, {name: value.flatten().tolist() for name, value in zip(params, found, strict=True)}


def test_within_the_kl_bound_the_policy_follows_the_gradient_of_q(plan: Any) -> None:
    loss, found = gradients(plan, old_mean=0.5, noise=[1.0, -1.0], returns=[2.0, 4.0], q=0.8)
    # a' = 0.5 + exp(log_std) z;  L = α ln π(a') - 0.8 a', and ln π(a') = -½ z² - log_std - ½ ln 2π
    assert found["policy.mean"] == pytest.approx([-0.8])
    assert found["policy.log_std"] == pytest.approx([-0.2], abs=1e-6)  # the terms of the two a' cancel
    # Q's error at a = 1 is 0.8 - G, and the policy's loss has no gradient for Q
    assert found["reppo.q.weight.0"] == pytest.approx([0.0, ((0.8 - 2) + (0.8 - 4)) / 2])
    entropy = 0.5 + 0.5 * log(2 * torch.pi)
    assert found["reppo.log_alpha"] == pytest.approx([0.2 * (entropy + 0.5)])
    assert found["reppo.log_beta"] == pytest.approx([3 * 0.1])
    assert loss.metrics["policy/kl"].item() == 0.0


def test_outside_the_kl_bound_the_policy_moves_back_to_the_old_one(plan: Any) -> None:
    _, found = gradients(plan, old_mean=-0.5, noise=[1.0], returns=[0.8], q=0.8)
    assert found["policy.mean"] == pytest.approx([3 * 1.0])  # the KL is ½ (μ - μ_old)², with weight β
    assert found["reppo.log_beta"] == pytest.approx([3 * (0.1 - 0.5)])  # gradient descent raises β


def test_returns_include_the_entropy_bonus_of_the_next_action(engine: Any) -> None:
    lam = {"estimator": {"name": "td-lambda", "lam": 1.0}}
    ctx = engine("reppo", seeds=2, gamma=0.9, temperature_init=0.3, policy={"hidden": (4,)}, **lam, **SMALL)
    state, seen = ctx.collect(ctx.state)
    values, bonus = ctx.plan.algorithm.values(ctx, state, seen, ctx.evaluate_policy(state, seen))
    returns = ctx.estimate(state, seen, ctx.evaluate_policy(state, seen)._replace(values=values), bonus=bonus).returns
    assert not bonus[seen.terminated].any() and bonus[seen.valid & ~seen.terminated].all()
    last = seen.valid[:, -1] & ~seen.terminated[:, -1]
    expected = seen.rewards[:, -1] + bonus[:, -1] + 0.9 * values[:, -1]
    torch.testing.assert_close(returns[:, -1][last], expected[last])
    without = ctx.estimate(state, seen, ctx.evaluate_policy(state, seen)._replace(values=values)).returns
    ended = seen.valid & seen.terminated
    torch.testing.assert_close(returns[ended], without[ended])
    assert torch.exp(state.params["reppo.log_alpha"]).tolist() == pytest.approx([0.3] * 2)
    ctx.close()


def test_other_actions_policies_without_a_mean_and_recurrent_policies_are_refused(plan: Any, engine: Any) -> None:
    with pytest.raises(UnfitError, match='Algorithm "reppo" supports only Box actions'):
        plan("reppo", env="probe/Bandit-v0", policy={"name": "mlp", "distribution": "auto", "state_std": False})
    with pytest.raises(UnfitError, match="which has no mean to shift"):
        plan("reppo", env="probe/Target-v0", policy={"name": "mlp", "distribution": "beta", "state_std": False})
    with pytest.raises(UnfitError, match="supports no recurrent policy"):
        engine("reppo", policy="gru", **SMALL)
