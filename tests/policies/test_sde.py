"""Generalized state-dependent exploration: its distribution computed by hand, and noise kept for several steps."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log, pi, sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from pgzoo.config import SDEConfig
from pgzoo.envs.spec import make_spec
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.ops.draws import draw_noise, draw_perturbation
from pgzoo.ops.heads import ActionHead
from pgzoo.registry import PluginCatalog
from pgzoo.registry.components import resolve_component
from pgzoo.training.behavior import NOISE_BLOCK, Behavior, Noise
from pgzoo.training.rollout import collect, reset_all
from pgzoo.types import Inputs, StepResult, Trajectory

FEATURES = torch.tensor([[[[1.0, 2.0]]], [[[-3.0, 0.0]]]])  # [S, T, B, L]
STD = torch.tensor([[[0.5, 1.0], [0.25, 2.0]], [[0.1, 1.0], [1.0, 1.0]]])  # [S, L, A]
MEAN = torch.tensor([[[[1.0, -1.0]]], [[[0.0, 0.0]]]])


def head(size: int = 2, **settings: Any) -> ActionHead:
    return ActionHead(
        make_spec(Box(-1, 1, (3,)), Box(-1, 1, (size,))), SDEConfig(sde=True, **settings), frozenset(), "", 2
    )


def test_the_variance_is_the_squared_features_times_the_squared_deviations() -> None:
    dist: Any = head().distribution(MEAN, {"log_std": STD.log()}, None, FEATURES)
    # 1² 0.5² + 2² 0.25² = 0.5; 1² 1² + 2² 2² = 17; (-3)² 0.1² = 0.09; (-3)² 1² = 9
    variances = torch.tensor([[[[0.5, 17.0]]], [[[0.09, 9.0]]]]) + 1e-6
    torch.testing.assert_close((2 * dist.log_std).exp(), variances)
    # the log-probability of a = (1.5, -1) is -(½ 0.5²/0.5 + ½ log 0.5 + ½ log 17 + log 2π)
    log_prob = dist.log_prob(torch.tensor([1.5, -1.0]))[0, 0, 0].item()
    assert log_prob == pytest.approx(-(0.25 + 0.5 * log(0.5) + 0.5 * log(17) + log(2 * pi)), abs=1e-4)


def test_an_action_is_the_mean_plus_the_features_times_the_noise_matrix() -> None:
    noise = np.array([1.0, 2.0, -1.0, 0.5], np.float32)  # L * A: rows (1, 2) and (-1, 0.5)
    dist: Any = head().distribution(MEAN, {"log_std": STD.log()}, None, FEATURES)
    drawn = dist.draw(np.tile(noise, (2, 1, 1, 1)))
    # 1 + 1 (0.5 · 1) + 2 (0.25 · -1) = 1; -1 + 1 (1 · 2) + 2 (2 · 0.5) = 3; -3 (0.1 · 1) = -0.3; -3 (1 · 2) = -6
    np.testing.assert_allclose(drawn[:, 0, 0], [[1.0, 3.0], [-0.3, -6.0]], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dist.mode(), MEAN)


def test_many_draws_have_the_variance_of_the_distribution() -> None:
    noise = draw_noise("normal", np.random.default_rng(0), (100_000, 4))
    drawn = draw_perturbation(FEATURES[0, 0].numpy(), STD[0].log().numpy(), noise)
    assert drawn.var(0) == pytest.approx([0.5, 17.0], rel=0.02)


@pytest.mark.parametrize("distribution", ["gaussian", "tanh"])
def test_the_features_get_no_gradient_and_the_deviations_do(distribution: str) -> None:
    features, log_std, mean = (x.clone().requires_grad_() for x in (FEATURES, STD.log(), MEAN))
    dist = head(distribution=distribution).distribution(mean, {"log_std": log_std}, None, features)
    loss = dist.entropy().sum() + dist.log_prob(torch.zeros(2)).sum()
    slopes = torch.autograd.grad(loss, [features, log_std, mean], allow_unused=True)
    assert slopes[0] is None
    assert slopes[1].abs().sum() > 0 and (slopes[1][1, 1] == 0).all()  # a feature of 0 has no effect
    assert slopes[2].abs().sum() > 0


def test_zero_features_give_a_finite_log_std_and_a_zero_gradient() -> None:
    log_std = torch.zeros(1, 2, 1, requires_grad=True)
    dist: Any = head(1).distribution(torch.zeros(1, 1, 1, 1), {"log_std": log_std}, None, torch.zeros(1, 1, 1, 2))
    assert dist.log_std.item() == pytest.approx(0.5 * log(1e-6), rel=1e-5)
    (slope,) = torch.autograd.grad(dist.log_prob(torch.zeros(1)).sum(), log_std)
    assert (slope == 0).all()


def test_the_initial_standard_deviation_equals_the_setting() -> None:
    """The setting is for actions with features of ±1; the parameter is corrected for the number of features."""
    made = head(log_std=-1.0).init()["log_std"]
    assert made.tolist() == [[pytest.approx(-1 - 0.5 * log(2))] * 2] * 2
    dist: Any = head().distribution(torch.zeros(1, 1, 1, 2), {"log_std": made[None]}, None, torch.ones(1, 1, 1, 2))
    assert dist.log_std.exp()[0, 0, 0].tolist() == pytest.approx([exp(-1)] * 2, rel=1e-5)


@pytest.mark.parametrize(("kept", "same"), [(1, 1), (3, 3), (None, 200)])
def test_noise_is_kept_for_the_number_of_steps_that_the_policy_requests(kept: int | None, same: int) -> None:
    policy: Any = SimpleNamespace(noise="normal", noise_size=2, noise_steps=kept)
    noise = Noise(policy, [np.random.default_rng(seed) for seed in (0, 1)], 3)
    assert NOISE_BLOCK < 200
    drawn = np.stack([noise[t] for t in range(200)])
    assert drawn.shape == (200, 2, 3, 2)
    first = drawn[::same]
    np.testing.assert_array_equal(drawn, np.repeat(first, same, 0)[:200])
    assert len(np.unique(first)) == first.size
    each = np.random.default_rng(1).standard_normal((len(first), 3, 2), np.float32)
    np.testing.assert_array_equal(first[:, 1], each)  # the draws of a member come one after another from its generator


class Still:
    """Environments with a constant observation; the episode of each row ends after 5 steps."""

    observation_space, action_mask = Box(-1, 1, (3,)), None

    def reset(self, seeds: Any) -> Any:
        self.rows, self.t = len(seeds), 0
        return np.ones((self.rows, 3), np.float32)

    def step(self, actions: Any, live: Any) -> Any:
        self.t += 1
        ended = np.full(self.rows, self.t % 6 == 5)
        return StepResult(np.ones((self.rows, 3), np.float32), np.zeros(self.rows), ended, np.zeros_like(ended))


def acted(catalog: PluginCatalog, window: int, **settings: Any) -> Trajectory:
    component, factory = resolve_component("policy", {"name": "mlp", "sde": True, **settings}, catalog)
    policy = factory(component.settings, make_spec(Box(-1, 1, (3,)), Box(-1, 1, (2,))), frozenset())
    params = {name: value[None] for name, value in policy.init(np.random.default_rng(0)).items()}
    envs: Any = Still()
    noise = Noise(policy, [np.random.default_rng(0)], 2, window)
    start = reset_all(envs, policy, np.zeros((1, 2), np.int64))
    return collect(envs, Behavior(policy, params, noise), start, np.full((1, 2), 99), window)[0]


def test_a_rollout_samples_matrices_at_its_start_and_at_fixed_intervals(catalog: PluginCatalog) -> None:
    """The same observation gives the same action while the matrix is kept, even across the start of an episode."""
    actions = acted(catalog, 24, sde_sample_freq=4).actions[0]
    for t in range(1, 24):
        for env in (0, 1):
            assert torch.equal(actions[t, env], actions[t - 1, env]) == (t % 4 != 0)
    assert not torch.equal(actions[:, 0], actions[:, 1])  # each environment has its own matrix
    whole = acted(catalog, 24, sde_sample_freq=None).actions[0]
    assert torch.equal(whole, whole[:1].expand_as(whole))


def test_a_loaded_policy_resamples_its_matrix_at_intervals_and_on_reset(make_policy: Callable[..., Any]) -> None:
    policy, obs = make_policy({"name": "mlp", "sde": True, "sde_sample_freq": 3}), np.ones(3, np.float32)
    rng = np.random.default_rng(0)
    acts = [policy.act(obs, rng=rng).tolist() for _ in range(7)]
    assert acts[0] == acts[1] == acts[2] != acts[3] == acts[4] == acts[5] != acts[6]
    policy.reset()
    assert policy.act(obs, rng=rng).tolist() != acts[6]
    assert len(policy.act(np.stack([obs] * 4), rng=rng)) == 4  # a different number of rows gets its own matrices
    assert policy.act(obs, deterministic=True).tolist() == policy.act(obs, deterministic=True).tolist()


@pytest.fixture
def make_policy(catalog: PluginCatalog) -> Callable[..., Any]:
    def made(settings: dict[str, Any]) -> LoadedPolicy:
        component, factory = resolve_component("policy", settings, catalog)
        spec = make_spec(Box(-1, 1, (3,)), Box(-9, 9, (1,)))
        policy = factory(component.settings, spec, frozenset())
        params = {name: value[None] for name, value in policy.init(np.random.default_rng(0)).items()}
        return LoadedPolicy(component, spec, policy, params)

    return made


def test_the_mean_initial_standard_deviation_is_of_the_order_of_1(catalog: PluginCatalog) -> None:
    component, factory = resolve_component("policy", {"name": "mlp", "sde": True}, catalog)
    policy = factory(component.settings, make_spec(Box(-1, 1, (3,)), Box(-1, 1, (2,))), frozenset())
    each = [policy.init(np.random.default_rng(seed)) for seed in range(5)]
    params = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    obs = torch.rand(5, 1, 32, 3) * 2 - 1
    spread = policy.apply(params, Inputs(obs)).dist.log_std.exp()
    assert 0.1 < spread.mean() < sqrt(2)
