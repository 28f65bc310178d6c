"""Compiled steps equal eager ones and are cached in pgzoo's home folder; without a compiler, steps run eagerly."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pgzoo.config import RunConfig
from pgzoo.ops.losses import weighted_mean
from pgzoo.training import compiled_steps, inductor
from pgzoo.training.compiling import Compiled, FlatFunction, _digest, _Flattened, leaves_of, own_copy
from pgzoo.training.engine import Engine
from pgzoo.training.metrics import Stopwatch
from pgzoo.training.plan import Plan
from pgzoo.training.step_loop import step_loop_of
from pgzoo.training.targets import EvaluationInputs
from pgzoo.types import Batch, Hyper, Loss, Params, Targets, TrainState

MakePlan = Callable[..., Plan]
LastState = Callable[..., TrainState]
SMALL: dict[str, Any] = {"num_envs": 2, "total_steps": 50, "policy": {"name": "mlp", "hidden": (8,)}}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder that only these tests use."""
    where = tmp_path_factory.getbasetemp() / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(where))
    monkeypatch.setitem(
        inductor.BUILD, "aot_inductor.precompile_headers", True
    )  # saves two seconds for each function below
    return where


class Point(NamedTuple):
    x: Tensor
    more: dict[str, Tensor]
    nothing: Tensor | None = None


class Slope(NamedTuple):
    slope: Tensor
    value: Tensor
    name: str


def squares(point: Point) -> Slope:
    """Return the sum of x² + y, and its gradient by automatic differentiation."""
    x = point.x.detach().requires_grad_()
    value = (x.square() + point.more["y"]).sum(-1)
    return Slope(torch.autograd.grad(value.sum(), [x])[0], value.detach(), "squares")


def test_a_compiled_function_differentiates_and_keeps_its_result_structure() -> None:
    watch = Stopwatch("compile")
    compiled = Compiled(squares, watch, one_piece=True)
    for numbers in ([1.0, 2.0], [3.0, -4.0]):
        found = compiled(Point(torch.tensor([numbers]), {"y": torch.ones(1, 2)}))
        assert found.slope.tolist() == [[2 * number for number in numbers]]
        assert found.value.tolist() == [numbers[0] ** 2 + numbers[1] ** 2 + 2]
        assert found.name == "squares"
        pieces = {leaf.untyped_storage().data_ptr() for leaf in (found.slope, found.value)}
        assert len(pieces) == 1 and own_copy(found.value).untyped_storage().nbytes() == found.value.nbytes
    assert watch.seconds["compile"] > 0


def test_a_function_that_cannot_be_traced_runs_eagerly_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def undecided(point: Point) -> Slope:
        return squares(point) if float(point.x.sum()) > 0 else Slope(point.x, point.x, "other")

    compiled = Compiled(undecided, Stopwatch("compile"))
    with caplog.at_level(logging.WARNING, "pgzoo"):
        for sign in (1.0, -1.0):
            point = Point(torch.tensor([[sign]]), {"y": torch.ones(1, 1)})
            assert compiled(point).name == undecided(point).name
    assert [record.getMessage()[:46] for record in caplog.records] == ["The update can't be compiled and runs eagerly:"]


@pytest.mark.parametrize("algorithm", [pytest.param("ppo", marks=pytest.mark.slow), "a2c"])
def test_a_compiled_update_equals_an_eager_one_up_to_rounding(algorithm: str, last_state: LastState) -> None:
    more = {"epochs": 2, "minibatches": 2} if algorithm == "ppo" else {}  # a2c's update is compiled as one function
    both = [
        last_state(algorithm, seeds=(1, 2), rollout_steps=30, compile=how, **more, **SMALL) for how in ("off", "on")
    ]
    assert list(both[0].updates) == list(both[1].updates) == [1, 1]
    for name, value in both[0].params.items():
        torch.testing.assert_close(both[1].params[name], value, rtol=0, atol=1e-5)


def test_a_member_of_a_compiled_run_trains_identically_among_two_and_four(last_state: LastState) -> None:
    settings = {**SMALL, "total_steps": 300, "rollout_steps": 30, "compile": "on"}
    two, four = (last_state("a2c", seeds=seeds, **settings) for seeds in ((3, 7), (1, 7, 2, 3)))
    assert list(two.updates) == [6, 6]
    for name, value in two.params.items():
        assert torch.equal(value[0], four.params[name][3])
        assert torch.equal(value[1], four.params[name][1])


@pytest.mark.slow
def test_a_member_trains_identically_among_two_and_four_on_whole_episodes(last_state: LastState) -> None:
    settings = {**SMALL, "num_envs": 8, "total_steps": 4000, "compile": "on"}
    two, four = (last_state("reinforce", seeds=seeds, **settings) for seeds in ((3, 7), (1, 7, 2, 3)))
    assert two.updates.min() > 5
    for name, value in two.params.items():
        assert torch.equal(value[0], four.params[name][3])
        assert torch.equal(value[1], four.params[name][1])


def test_precomputed_targets_are_used_only_if_the_inputs_are_unchanged(plan: MakePlan) -> None:
    ctx = Engine(plan("ppo", compile="on", seeds=(0, 1), rollout_steps=16, **SMALL))
    state, trajectory = ctx.collect(ctx.state)

    def estimate(**other: Any) -> tuple[Targets, Targets]:
        """Return the targets of the first call after an evaluation, and those of a second call."""
        evaluated = ctx.evaluate_policy(state, trajectory)._replace(**other)
        return ctx.estimate(state, trajectory, evaluated), ctx.estimate(state, trajectory, evaluated)

    evaluated, known = ctx.evaluate_policy(state, trajectory), ctx.record.estimated
    for leaf in leaves_of(evaluated):  # the evaluation is kept in memory during the update
        assert leaf.untyped_storage().nbytes() <= 2 * leaf.nbytes
    assert known and ctx.estimate(state, trajectory, evaluated) is known.targets
    together, apart = estimate()
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    values = ctx.evaluate_policy(state, trajectory).values
    assert values is not None
    raised, again = estimate(values=values + 1.0)
    assert torch.equal(raised.returns, again.returns) and not torch.allclose(raised.returns, apart.returns)
    evaluated, bonus = ctx.evaluate_policy(state, trajectory), torch.ones_like(trajectory.rewards)
    paid = ctx.estimate(state, trajectory, evaluated, bonus=bonus)
    other = trajectory._replace(rewards=trajectory.rewards + 1.0)
    evaluated = ctx.evaluate_policy(state, trajectory)
    assert torch.allclose(ctx.estimate(state, other, evaluated).returns, paid.returns)
    assert not torch.allclose(paid.returns, apart.returns)
    assert torch.equal(paid.returns, ctx.estimate(state, trajectory, evaluated, bonus=bonus).returns)


def loops(rewards: Tensor) -> Tensor:
    returns = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        returns[:, t] = rewards[:, t] + (returns[:, t + 1] if t + 1 < rewards.shape[1] else 0.0)
    return returns


def reads(rewards: Tensor) -> Tensor:
    return rewards if rewards.sum().item() > 0 else -rewards


def raises(rewards: Tensor) -> Tensor:
    raise ValueError("no estimate")


@pytest.mark.parametrize(
    ("function", "steps", "compiled"),
    [(loops, 8, True), (loops, 128, False), (reads, 8, False), (raises, 8, False), (None, 128, True)],
)
def test_estimators_with_many_operations_tensor_reads_or_errors_stay_eager(
    plan: MakePlan, function: Any, steps: int, compiled: bool
) -> None:
    ctx = Engine(plan("ppo", compile="on", seeds=(0, 1), rollout_steps=steps, **SMALL))
    state, trajectory = ctx.collect(ctx.state)
    if function:
        ctx._estimator = ctx._estimator._replace(function=function, takes=frozenset({"rewards"}))
    assert ctx._can_compile_estimates(EvaluationInputs(state.params | state.buffers, trajectory)) == compiled


def test_batches_of_whole_episodes_in_compiled_runs_have_one_of_few_sizes(plan: MakePlan) -> None:
    from pgzoo.training.engine import Engine

    ctx = Engine(plan("reinforce", compile="on", seeds=(0,), num_envs=40))
    _, trajectory = ctx.collect(ctx.state)
    batch = ctx.batch(trajectory, ctx.estimate(ctx.state, trajectory))
    columns = batch.weights.shape[-1]
    assert columns in (256, 512, 1024, 2048)
    assert int(batch.weights.sum()) == int(trajectory.valid.sum()) > columns // 2 - 256


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"algorithm": "ppo", "total_steps": 100_000}, "off"),  # 98 updates of 40 gradient steps
        ({"algorithm": "ppo", "total_steps": 1_000_000}, "on"),
        ({"algorithm": "ppo", "total_steps": 1_000_000, "normalize_obs": True}, "on"),
        ({"algorithm": "ppo", "total_steps": 1_000_000, "compile": "off"}, "off"),
        ({"algorithm": "ppo", "total_steps": 1_000_000, "policy": "gru"}, "off"),
        ({"algorithm": "reinforce", "total_steps": 10_000_000}, "off"),
        ({"algorithm": "ars", "total_steps": 10_000_000}, "off"),
    ],
)
@pytest.mark.parametrize("seeds", [(0,), tuple(range(32))])
def test_auto_depends_on_the_gradient_steps_per_seed(
    settings: dict[str, Any], expected: str, seeds: tuple[int, ...], plan: MakePlan
) -> None:
    config: RunConfig = plan(**{"compile": "auto", **settings}, seeds=seeds).config
    assert config.compile == expected
    assert config.flat()["compile"] == expected


@pytest.mark.slow  # tests/runs/test_host_process.py tests both without starting processes
def test_the_cache_is_in_the_home_and_a_missing_compiler_causes_one_warning(tmp_path: Path) -> None:
    short = ["run", "a2c", "--env", "CartPole-v1", "--num-envs", "2", "--total-steps", "60", "--eval-episodes", "1"]
    short += ["--policy.hidden", "8", "--compile", "on", "--no-progress"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHINDUCTOR", "CXX", "MLFLOW_", "PGZOO_"))}

    def run(home: str, seed: str = "0", **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pgzoo", *short, "--seed", seed],
            cwd=tmp_path,
            env={**inherited, "PGZOO_HOME": str(tmp_path / home), **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    said = run("without", CXX="/there/is/no/compiler", PATH="/nowhere")
    assert len([line for line in said.splitlines() if "can't be compiled and runs eagerly" in line]) == 1
    assert "can't be compiled" not in run("with")
    made = sorted((tmp_path / "with" / "compiled").glob("*.so"))
    assert len(made) == 1  # the whole update is one function
    # the cached library is loaded by its name, for another seed too, and no compiler is needed
    assert "can't be compiled" not in run("with", seed="1", CXX="/there/is/no/compiler", PATH="/nowhere")
    assert sorted((tmp_path / "with" / "compiled").glob("*.so")) == made


def plus(constant: float) -> Callable[[Point], Slope]:
    return lambda point: Slope(point.x + torch.tensor([constant]), point.more["y"] * 3, "plus")


def test_the_name_of_a_library_depends_on_constants() -> None:
    point = Point(torch.ones(1, 2), {"y": torch.ones(1, 2)})
    one, three, again = (_digest(_Flattened(plus(k), point), leaves_of(point), "combined") for k in (1.0, 3.0, 1.0))
    assert one == again != three


@pytest.mark.slow
def test_there_is_one_library_per_constant_even_if_inputs_are_the_same_tensor(cache: Path) -> None:
    one, two, before = torch.ones(1, 2), torch.full((1, 2), 2.0), set(cache.glob("*.so"))
    for constant in (1.0, 3.0, 1.0):
        compiled = Compiled(plus(constant), Stopwatch("compile"))
        for y in (one, two):
            found = compiled(Point(one, {"y": y}))
            assert torch.equal(found.slope, one + constant) and torch.equal(found.value, 3 * y)
    assert len(set(cache.glob("*.so")) - before) == 2


def test_a_compiled_update_reports_the_same_metrics_as_an_eager_one(plan: MakePlan) -> None:
    from pgzoo.training.engine import Engine, default_loop

    means = []
    for how in ("off", "on"):
        ctx = Engine(plan("a2c", seeds=(1, 2), rollout_steps=30, compile=how, **SMALL))
        ctx.begin_update()
        assert ctx.compiles_whole_updates == (how == "on")
        next(default_loop(ctx))
        means.append(ctx.metrics.means())
    assert list(means[0]) == list(means[1])
    for name, value in means[0].items():
        assert np.allclose(value, means[1][name], atol=1e-4), name


HALTS, FAILS = 1.0, 2.0


def sometimes(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
    """A loss that, in minibatches of late time steps, halts some members and is NaN for others."""
    assert batch.extra is not None
    late = weighted_mean(batch.timestep.float(), batch.weights) > 7.5
    kind = batch.extra["kind"].amax((-2, -1))
    value = weighted_mean(policy.apply(params, batch.inputs).dist.log_prob(batch.actions), batch.weights)
    metrics = {"own/weight": weighted_mean(batch.actions.float(), batch.weights)}
    return Loss(torch.where((kind == FAILS) & late, torch.nan, value), metrics, (kind == HALTS) & late)


def test_the_loop_over_steps_in_c_gives_the_same_results_as_in_python(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_steps, "GROUP_ROWS", 32)  # two groups of two members, with one member in both
    made = plan("a2c", seeds=3, num_envs=4, rollout_steps=16, compile="on", policy={"name": "mlp", "hidden": (8,)})
    kind, found, taken = torch.tensor([HALTS, FAILS, 0.0])[:, None, None], [], list[int]()

    def counting(step: Compiled, flat: FlatFunction) -> Any:
        assert flat.library is not None
        loop = step_loop_of(flat.library)
        assert loop is not None

        def take(inputs: Any, stacks: Any, places: Any, first: int, kept: Any) -> Any:
            steps = loop(inputs, stacks, places, first, kept)
            taken.append(steps.next - first)
            return steps

        return take

    for loop_of in (counting, lambda step, flat: None):
        monkeypatch.setattr(Compiled, "loop", loop_of)
        ctx = Engine(made)
        ctx.begin_update()
        state, trajectory = ctx.collect(ctx.state)
        ones = torch.ones_like(trajectory.rewards)
        extra = {"kind": kind.expand_as(ones)}
        batches = ctx.minibatches(state, trajectory, Targets(ones, ones, ones), epochs=range(4), count=4, extra=extra)
        found.append((ctx.steps(sometimes, state, batches), ctx.metrics.means(), dict(ctx.failures)))
    (state, means, failures), (other, other_means, other_failures) = found
    assert failures == other_failures == {1: "loss: NaN"}
    steps = state.optimizer["step"].tolist()
    assert 0 < steps[0] < 16 and 0 < steps[1] < 16 and steps[2] == 16  # halted, failed midway, took all steps
    assert len(taken) > 2 and sum(taken) > 16  # the loop stopped at a failure and was restarted
    for leaf, same in ((state.params, other.params), (state.optimizer, other.optimizer)):
        assert all(torch.equal(value, same[name]) for name, value in leaf.items())
    assert state.halted is not None and other.halted is not None and torch.equal(state.halted, other.halted)
    assert all(np.array_equal(value, other_means[name], equal_nan=True) for name, value in means.items())


@pytest.mark.parametrize("way", ["steps", "step"])
def test_results_of_steps_do_not_keep_intermediate_results_in_memory(way: str, plan: MakePlan) -> None:
    ctx = Engine(
        plan("a2c", seeds=2, num_envs=4, rollout_steps=16, compile="on", policy={"name": "mlp", "hidden": (8,)})
    )
    ctx.begin_update()
    state, trajectory = ctx.collect(ctx.state)
    ones = torch.ones_like(trajectory.rewards)
    extra = {"kind": torch.zeros_like(ones)}
    batches = ctx.minibatches(state, trajectory, Targets(ones, ones, ones), epochs=range(1), count=4, extra=extra)
    if way == "steps":
        state = ctx.steps(sometimes, state, batches)
    else:
        for batch in batches:
            state = ctx.step(sometimes, state, batch)
    numbers = sum(leaf.numel() for leaf in state.params.values())
    assert next(iter(state.params.values())).untyped_storage().nbytes() == 4 * numbers
    for leaf in (state.halted, *state.optimizer.values()):
        assert leaf is not None and leaf.untyped_storage().nbytes() == leaf.nbytes
    assert list(state.optimizer["step"]) == [4, 4] and np.isfinite(ctx.metrics.means()["own/weight"]).all()


@pytest.mark.slow
def test_large_results_are_allocated_separately_and_small_ones_together(monkeypatch: pytest.MonkeyPatch) -> None:
    point, storages = Point(torch.ones(1, 3), {"y": torch.ones(1, 3)}), list[int]()
    for small in (inductor.SMALL, 1):
        monkeypatch.setattr(inductor, "SMALL", small)
        compiled = Compiled(
            lambda p, scale=float(small): squares(p._replace(x=p.x * scale)), Stopwatch("compile"), one_piece=True
        )
        found = compiled(point)
        storages.append(len({leaf.untyped_storage().data_ptr() for leaf in (found.slope, found.value)}))
    assert storages == [1, 2]


def test_without_a_compiler_there_is_no_loop_in_c_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "/there/is/no/compiler")
    caplog.set_level(logging.DEBUG, "pgzoo")
    assert step_loop_of(tmp_path / "x.so") is None
    assert "runs in Python" in caplog.text
