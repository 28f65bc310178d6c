"""Diagnostics measure what they claim to, obey the seed law, and don't change the results of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgzoo.diagnostics.advantage_skew import AdvantageSkew, skewness
from pgzoo.diagnostics.dead_units import DeadUnits
from pgzoo.diagnostics.gradient_snr import GradientSNR, signal_to_noise
from pgzoo.errors import ConfigError, UnfitError, UnknownName
from pgzoo.registry import PluginCatalog, PluginInfo, Registry
from pgzoo.runs.planning import make_plan
from pgzoo.training.diagnostics import ReadOnlyContext
from pgzoo.training.engine import Engine
from pgzoo.training.events import RunEnded, UpdateDone
from pgzoo.training.loop import train
from pgzoo.types import TrainState, Trajectory

BUILT_IN = ("gradient-snr", "dead-units", "advantage-skew")
MEASURED = {"diagnostic/gradient-snr/ratio", "diagnostic/gradient-snr/variance"}
MEASURED |= {"diagnostic/dead-units", "diagnostic/advantage-skew"}

Metrics = list[dict[str, Any]]


def trained(plan: Any) -> tuple[TrainState, Metrics]:
    """Return the last state of a run and the metrics of its updates."""
    metrics: Metrics = []
    for event in train(plan):
        if isinstance(event, UpdateDone):
            metrics.append(dict(event.metrics))
        if isinstance(event, RunEnded):
            return event.state, metrics
    raise AssertionError


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])  # windows, and whole episodes of different lengths
def test_diagnostics_do_not_change_results_and_obey_the_seed_law(plan: Callable[..., Any], algorithm: str) -> None:
    settings: dict[str, Any] = {"total_steps": 1500, "num_envs": 4, "normalize_reward": True, "eval_episodes": 1}
    settings |= {"rollout_steps": 64} if algorithm == "ppo" else {}
    measuring = {"diagnostics": BUILT_IN, "diagnostics_every": 2}
    plain, without = trained(plan(algorithm, seeds=(3, 5), **settings))
    state, found = trained(plan(algorithm, seeds=(3, 5), **settings, **measuring))
    for leaves in ("params", "buffers", "optimizer"):
        for name, value in getattr(plain, leaves).items():
            assert torch.equal(value, getattr(state, leaves)[name])
    assert len(found) == len(without) > 3
    for k, (now, then) in enumerate(zip(found, without, strict=True)):
        assert set(now) - set(then) == (MEASURED if k % 2 else set())
        for name, value in then.items():
            assert np.array_equal(value, now[name], equal_nan=True)
        assert all(np.isfinite(now[name]).any() for name in set(now) & MEASURED)  # NaN for a seed that has ended
    _, alone = trained(plan(algorithm, seeds=(5,), **settings, **measuring))
    for now, one in zip(found, alone, strict=False):
        for name in set(now) & MEASURED:
            assert now[name][1] == one[name][0], name


def measured(diagnostic: Any, engine: Engine, trajectory: Trajectory | None = None) -> Any:
    state, collected = engine.collect(engine.state)
    context: Any = ReadOnlyContext(engine)
    return diagnostic.measure(context, state, trajectory or collected)


@pytest.mark.parametrize(("activation", "dead"), [("relu", -9.0), ("tanh", 9.0)])
def test_dead_units_are_counted(engine: Callable[..., Engine], activation: str, dead: float) -> None:
    policy = {"name": "mlp", "hidden": (6, 2), "activation": activation, "layer_norm": activation == "tanh"}
    one = engine("a2c", policy=policy, seeds=2, num_envs=2, rollout_steps=16)
    name = "policy.shift.0" if activation == "tanh" else "policy.bias.0"
    one.state.params["policy.weight.0"][1, :, 2:5] *= 1e-3
    one.state.params[name][1, 2:5] = dead  # three units of the second seed
    before = measured(DeadUnits(), one)
    assert before[0] < 3 / 8 and before[1].item() >= 3 / 8
    one.state.params[name][1] = dead
    assert measured(DeadUnits(), one)[1].item() >= 6 / 8


def test_the_advantage_skew_matches_numpy(engine: Callable[..., Engine]) -> None:
    one = engine("a2c", seeds=2, num_envs=3, rollout_steps=11)
    state, trajectory = one.collect(one.state)
    skew = AdvantageSkew().measure(one, state, trajectory)
    advantages = one.estimate(state, trajectory, one.evaluate_policy(state, trajectory)).advantages
    for member in range(2):
        x = advantages[member][trajectory.valid[member]].double().numpy()
        expected = ((x - x.mean()) ** 3).mean() / x.std() ** 3
        assert skew[member].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("size", [1.0, 1e-16, 1e-30, 1e30])
def test_skewness_and_signal_to_noise_do_not_depend_on_the_scale(size: float) -> None:
    x = torch.tensor([[[0.0, 1.0, 5.0, -2.0, 99.0]]])
    weights = torch.tensor([[[1.0, 1.0, 1.0, 1.0, 0.0]]])
    known = x[0, 0, :4].double().numpy()
    expected = ((known - known.mean()) ** 3).mean() / known.std() ** 3
    assert skewness(x * size, weights).item() == pytest.approx(expected, rel=1e-5)
    gradients = torch.tensor([[[1.0, 2.0]], [[3.0, 2.5]]])
    assert signal_to_noise(gradients * size)["ratio"].item() == pytest.approx((4 + 2.25**2) / 2.125, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-16, -7e8])
def test_equal_advantages_have_skewness_zero(value: float) -> None:
    assert skewness(torch.full((1, 1, 77), value), torch.ones(1, 1, 77)).item() == 0
    assert skewness(torch.full((1, 1, 2), value), torch.tensor([[[1.0, 0.0]]])).item() == 0


def test_the_gradient_snr_matches_separately_computed_gradients(engine: Callable[..., Engine]) -> None:
    one = engine("a2c", seeds=1, num_envs=4, rollout_steps=16)
    state, trajectory = one.collect(one.state)
    evaluated = one.evaluate_policy(state, trajectory)
    targets = one.estimate(state, trajectory, evaluated)
    batches = list(one.minibatches(state, trajectory, targets, evaluated, epochs=range(1), count=8))
    g = torch.stack([one.gradient(one.algorithm.loss, state, batch)[1][0] for batch in batches]).double().numpy()
    found = GradientSNR().measure(one, state, trajectory)
    variance = g.var(0, ddof=1).sum()
    assert len(g) == 8 and found["variance"].item() == pytest.approx(variance, rel=1e-4)
    assert found["ratio"].item() == pytest.approx((g.mean(0) ** 2).sum() / variance, rel=1e-4)


class Meddler:
    """A diagnostic that modifies its inputs and then tries to collect."""

    def measure(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> Tensor:
        for value in (state.params | state.buffers).values():
            value.zero_()
        return ctx.collect(state)  # type: ignore[no-any-return]


def test_a_diagnostic_that_interferes_is_disabled_and_changes_nothing(
    catalog: PluginCatalog, configure: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    more, registry = catalog.copy(), Registry(PluginInfo("more", "entry point", "more", "more", "1.0"))
    registry.diagnostic("meddler", Meddler)
    more.add(registry.plugin, object(), registry.entries.values())
    settings = configure("a2c", total_steps=400, num_envs=2, rollout_steps=16, eval_episodes=1)
    plain, _ = trained(make_plan(settings, more))
    with caplog.at_level(logging.WARNING, "pgzoo"):
        meddled = settings.model_copy(update={"diagnostics": ("meddler",), "diagnostics_every": 1})
        state, metrics = trained(make_plan(meddled, more))
    assert all(torch.equal(value, state.params[name]) for name, value in plain.params.items())
    [warning] = caplog.messages
    assert warning.startswith('Diagnostic "meddler" raised and is not measured any more: AttributeError: a diagnostic')
    assert not any("diagnostic/meddler" in one for one in metrics)


def test_unfit_diagnostics_and_invalid_settings_are_refused_before_the_run(plan: Callable[..., Any]) -> None:
    def refused(message: str, *args: str, error: type[Exception] = UnfitError, **settings: Any) -> None:
        with pytest.raises(error, match=message):
            plan(*args, **settings)

    refused("gradient-snr.* the algorithm has no method loss", "cem", diagnostics="gradient-snr")
    refused("gradient-snr.* reads batch.extra", "rpo", "Pendulum-v1", diagnostics="gradient-snr")
    refused('dead-units.* it measures the policy "mlp", not "gru"', "ppo", diagnostics="dead-units", policy="gru")
    refused("advantage-skew.* a critic of its own", "reppo", "Pendulum-v1", diagnostics=["advantage-skew"])
    policy = {"name": "mlp", "activation": "gelu"}
    refused("dead-units.* not gelu", "ppo", diagnostics=["dead-units"], policy=policy)
    refused('"dead-unit"\\. Did you mean "dead-units"', "ppo", diagnostics=["dead-unit"], error=UnknownName)
    refused("diagnostics_every", "ppo", diagnostics_every=0, error=ConfigError)


def test_diagnostics_do_not_affect_the_setting_hash(configure: Callable[..., Any]) -> None:
    plain, measuring = configure("ppo"), configure("ppo", diagnostics=BUILT_IN)
    assert plain.setting_hash() == measuring.setting_hash() and plain.flat() == measuring.flat()
