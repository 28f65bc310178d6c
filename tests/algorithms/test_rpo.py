"""RPO: PPO with noise on the mean of the policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pgzoo.errors import UnfitError

SMALL: dict[str, Any] = {"env": "probe/Target-v0", "num_envs": 4, "rollout_steps": 16, "policy": {"hidden": (8,)}}
ONCE: dict[str, Any] = {"epochs": 1, "minibatches": 1, "normalize_reward": False, **SMALL}


def noises(ctx: Any) -> list[Any]:
    """Return the batches of an update, which contain the noise."""
    state, seen = ctx.collect(ctx.state)
    met: list[Any] = []
    steps = ctx.steps
    ctx.steps = lambda loss, state, given: steps(loss, state, (met.append(batch) or batch for batch in given))
    ctx.plan.algorithm.update(ctx, state, seen)
    return met


def test_rpo_without_noise_equals_ppo(engine: Any) -> None:
    same = {"learning_rate": 1e-3, "gamma": 0.9, "optimizer_eps": 1e-5, **ONCE, "epochs": 3, "minibatches": 2}
    a, b = engine("rpo", alpha=0.0, seeds=2, **same), engine("ppo", seeds=2, **same)
    states = [ctx.plan.algorithm.update(ctx, *ctx.collect(ctx.state)) for ctx in (a, b)]
    for name, value in states[0].params.items():
        assert torch.equal(value, states[1].params[name]), name


def test_the_mean_is_shifted_by_alpha_times_the_noise(engine: Any) -> None:
    ctx = engine("rpo", alpha=0.25, **ONCE)
    (batch,) = noises(ctx)
    ratio_at = {}
    for sign in (-1.0, 0.0, 1.0):
        noise = torch.full_like(batch.extra["noise"], sign)
        loss, _ = ctx.gradient(ctx.plan.algorithm.loss, ctx.state, batch._replace(extra={"noise": noise}))
        ratio_at[sign] = loss.metrics["policy/kl"].item()
    assert ratio_at[0.0] == 0.0  # in the first step and without a shift, the ratio is 1
    mean = ctx.policy.apply(ctx.state.params, batch.inputs).dist.mean
    for sign in (-1.0, 1.0):  # N(mean + alpha, 1) over N(mean, 1)
        log_ratio = sign * 0.25 * (batch.actions - mean).squeeze(-1) - 0.25**2 / 2
        k3 = (log_ratio.exp() - 1 - log_ratio)[batch.weights > 0].mean().item()
        assert ratio_at[sign] == pytest.approx(k3, rel=1e-4)


def test_noise_is_uniform_and_differs_between_rows_epochs_and_members(engine: Any) -> None:
    met = noises(engine("rpo", seeds=2, **(ONCE | {"epochs": 2, "rollout_steps": 256})))
    first, second = (batch.extra["noise"] for batch in met)
    assert first.shape == (2, 1, 1024, 1)
    assert first.min() >= -1 and first.max() < 1
    assert abs(first.mean()) < 0.05 and abs(first.var() - 1 / 3) < 0.03
    assert len(first.unique()) > 2000
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "CartPole-v1"}, r'Algorithm "rpo" supports only Box actions, not Discrete\(2\)'),
        ({"env": "probe/Target-v0", "policy": {"distribution": "beta"}}, "shifts the mean"),
    ],
    ids=["discrete", "beta"],
)
def test_a_policy_without_a_mean_to_shift_is_refused(plan: Any, settings: Any, message: str) -> None:
    with pytest.raises(UnfitError, match=message):
        plan("rpo", **settings)
