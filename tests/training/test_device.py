"""Updates on a device other than the CPU, tested on a machine that has only a CPU.

The device "meta" stands in for a GPU. Its tensors have shapes but no numbers, so code that reads a number during an
update raises an error, as does code that mixes them with tensors on the CPU. These tests can't show that the numbers
are right: the same code runs on the CPU, and if there is a GPU, the last test trains on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pgzoo.errors import UnfitError
from pgzoo.ops.acting import ApplyActor, actor_for
from pgzoo.ops.members import freeze, surely_empty, to_device
from pgzoo.ops.returns import retrace
from pgzoo.registry import discover
from pgzoo.training import interaction
from pgzoo.training.engine import Engine, default_loop, default_update
from pgzoo.training.failures import FailedStep, largest
from pgzoo.training.minibatches import Batcher
from pgzoo.training.plan import Plan
from pgzoo.types import Batch, Hyper, Params, Targets

MakePlan = Callable[..., Plan]
Elsewhere = Callable[..., Engine]
CATALOG = discover(inline=False)
LEARNERS = [name for name in CATALOG.names("algorithm") if hasattr(CATALOG.get("algorithm", name).load(), "loss")]
META = torch.device("meta")

SMALL: Mapping[str, Any] = {"rollout_steps": 12, "epochs": 2, "minibatches": 2, "policy_phases": 1, "critic_steps": 2}


class OneDevice(TorchDispatchMode):
    """Raises an error for operations on tensors of two devices, and for blocking copies from the CPU."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim}
        if len(found) > 1:
            raise AssertionError(f"{operation} mixes devices")
        if operation is torch.ops.aten._to_copy.default and found == {"cpu"} and kwargs.get("device") == META:
            assert kwargs.get("non_blocking"), "a copy that is waited for"
        return operation(*args, **kwargs)


@pytest.fixture
def elsewhere(plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Return `elsewhere(**settings)`: an engine whose state is on "meta"; it acts with parameters on the CPU."""

    def make(algorithm: str, **settings: Any) -> Engine:
        model = CATALOG.get("algorithm", algorithm).load_config() if algorithm in CATALOG.names("algorithm") else None
        small = {key: value for key, value in SMALL.items() if model and key in model.model_fields}
        given = {"env": "pgzoo/AnySpaces-v0", "seeds": 2, "num_envs": 4, "total_steps": 10_000, **small, **settings}
        made = plan(algorithm, **given)
        params, collect = made.policy_params(Engine(made).state), interaction.collect
        monkeypatch.setattr(
            interaction, "collect", lambda envs, how, *rest: collect(envs, how._replace(params=params), *rest)
        )
        return Engine(replace(made, config=made.config.model_copy(update={"device": "meta"})))

    return make


def update(ctx: Engine) -> None:
    """Run one update, and check that the host reads no number and that the state stays on the device."""
    rounds = default_loop(ctx)
    with OneDevice():
        ctx.begin_update()
        next(rounds)
    ctx.close()
    leaves = [leaf for tree in (ctx.state.params, ctx.state.buffers, ctx.state.optimizer) for leaf in tree.values()]
    assert {leaf.device for leaf in leaves} <= {META}


def box(algorithm: str) -> bool:
    said = str(CATALOG.get("algorithm", algorithm).facts["actions"]).lower()
    return "any" in said or "box" in said or "continuous" in said


# the update


@pytest.mark.parametrize("algorithm", LEARNERS)
def test_an_update_of_each_algorithm_stays_on_the_device_without_blocking(algorithm: str, elsewhere: Elsewhere) -> None:
    update(elsewhere(algorithm, env_kwargs={"action": "one" if box(algorithm) else "discrete"}))


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("ppo", {"env_kwargs": {"action": "discrete"}}),
        ("ppo", {"env_kwargs": {"action": "multi-discrete"}}),
        ("ppo", {"env_kwargs": {"action": "multi-binary"}}),
        ("ppo", {"env_kwargs": {"action": "vector"}, "policy": {"name": "mlp", "distribution": "tanh"}}),
        ("ppo", {"env_kwargs": {"action": "vector"}, "policy": {"name": "mlp", "distribution": "beta"}}),
        ("ppo", {"env_kwargs": {"action": "vector"}, "policy": {"name": "mlp", "state_std": True}}),
        ("ppo", {"env_kwargs": {"observation": "shifted"}}),
        ("ppo", {"env_kwargs": {"observation": "shifted"}, "policy": "tabular"}),
        ("ppo", {"policy": "linear"}),
        ("ppo", {"policy": {"name": "gru", "hidden": (5,), "memory": 3}}),
        ("ppo", {"policy": {"name": "lstm", "hidden": (5,), "memory": 3}}),
        ("ppo", {"policy": {"name": "gtrxl", "width": 4, "memory": 3}}),
        ("ppo", {"env_kwargs": {"action": "vector"}, "policy": {"name": "mlp", "sde": True}}),
        ("ppo", {"policy": "net"}),
        ("ppo", {"policy": "net-vmap"}),
        ("ppo", {"env": "probe/Trap-v0"}),
        ("ppo", {"normalize_obs": True, "normalize_reward": True}),
        ("ppo", {"target_kl": 0.01, "clip_value": 0.2, "dual_clip": 2.0, "clip_range_schedule": "linear"}),
        ("ppo", {"kl_coef": 0.1, "adaptive_kl_target": 0.01, "recompute_advantages": True}),
        ("a2c", {"learning_rate_schedule": "linear", "optimizer": "adam"}),
        ("reinforce", {"policy": {"name": "gru", "hidden": (5,), "memory": 3}}),
        ("vpg", {"sweep_axis": {"learning_rate": (1e-3, 1e-2)}}),
    ],
)
def test_updates_with_other_policies_and_settings_stay_on_the_device(
    algorithm: str, settings: dict[str, Any], elsewhere: Elsewhere
) -> None:
    update(elsewhere(algorithm, **settings))


def test_retrace_stays_on_the_device_without_blocking() -> None:
    # no algorithm uses Retrace yet
    x, flags = torch.ones(2, 5, 3, device=META), torch.ones(2, 5, 3, dtype=torch.bool, device=META)
    numbers = dict.fromkeys(("rewards", "q_values", "next_values", "log_rhos"), x)
    with OneDevice():
        found = retrace(**numbers, terminated=flags, truncated=flags, valid=flags, gamma=0.9, lam=0.9)
    assert found.device == META


@pytest.mark.parametrize("estimator", CATALOG.names("estimator"))
def test_an_update_with_each_estimator_stays_on_the_device(estimator: str, elsewhere: Elsewhere) -> None:
    try:
        ctx = elsewhere("a2c", estimator=estimator)
    except UnfitError:
        ctx = elsewhere("reinforce-baseline", estimator=estimator)
    update(ctx)


def reads(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
    return batch.weights.sum((-2, -1)) * float(batch.weights.sum())


def chooses(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
    return batch.advantages[batch.weights > 0].sum().expand(2)


def copies(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
    return batch.weights.sum((-2, -1)).cpu().to(META)


def mixes(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
    return batch.weights.sum((-2, -1)).index_select(0, torch.arange(2))


def waits(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
    return batch.weights.sum((-2, -1)) + torch.ones(2).to(META)


@pytest.mark.parametrize(
    ("loss", "error"),
    [
        (reads, "item|scalar"),
        (chooses, "nonzero"),
        (copies, "out of meta"),
        (mixes, "mixes devices"),
        (waits, "waited for"),
    ],
)
def test_a_loss_that_reads_tensors_or_mixes_devices_is_detected(
    loss: Callable[..., Tensor], error: str, elsewhere: Elsewhere
) -> None:
    ctx = elsewhere("a2c")
    state, trajectory = ctx.collect(ctx.state)
    evaluated = ctx.evaluate_policy(state, trajectory)
    batch = ctx.batch(trajectory, ctx.estimate(state, trajectory, evaluated), evaluated)
    ctx.close()
    with OneDevice(), pytest.raises((RuntimeError, AssertionError), match=error):
        ctx.step(loss, state, batch)


def test_batch_reads_the_valid_flags_from_the_device_only_if_they_were_replaced(elsewhere: Elsewhere) -> None:
    ctx = elsewhere("reinforce")
    state, trajectory = ctx.collect(ctx.state)
    targets = ctx.estimate(state, trajectory)
    assert ctx.batch(trajectory._replace(rewards=2 * trajectory.rewards), targets).weights.device == META
    with pytest.raises(NotImplementedError, match="out of meta"):
        ctx.batch(trajectory._replace(valid=trajectory.valid.clone()), targets)
    ctx.close()


def test_an_update_with_a_frozen_member_does_not_read_from_the_device(elsewhere: Elsewhere) -> None:
    ctx = elsewhere("ppo")
    ctx.state = ctx.state._replace(active=np.array([True, False]))
    before = ctx.state
    update(ctx)
    with OneDevice():
        assert freeze(before.active, ctx.state.params, before.params).keys() == before.params.keys()


# results if the host never reads flags, as on a GPU


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [("ppo", {"target_kl": 1e-4, "learning_rate": 1e-2}), ("trpo", {}), ("npg", {}), ("ppg", {"policy_phases": 2})],
)
def test_training_is_identical_if_the_host_never_reads_flags(
    algorithm: str, settings: dict[str, Any], last_state: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"seeds": 2, "num_envs": 4, "rollout_steps": 32, "total_steps": 400, **settings}
    looking = last_state(algorithm, **given)
    for module in ("training.learner", "training.update_record", "ops.natural"):
        monkeypatch.setattr(f"pgzoo.{module}.surely_empty", lambda members: False)
    blind = last_state(algorithm, **given)
    assert looking.updates.tolist() == blind.updates.tolist() and looking.updates.min() > 2
    for name, leaf in (looking.params | looking.buffers).items():
        assert torch.equal(leaf, (blind.params | blind.buffers)[name]), name


@pytest.mark.parametrize("organ", ["advantages", "loss", "gradient"])
def test_failure_reasons_are_the_same_if_the_host_never_reads_flags(
    organ: str, play: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"seeds": (1, 2, 3), "total_steps": 600, "organ": organ, "sick_seed": 2, "sick_update": 1}
    *_, looking = play("sick", **given)
    for module in ("learner", "update_record"):
        monkeypatch.setattr(f"pgzoo.training.{module}.surely_empty", lambda members: False)
    *_, blind = play("sick", **given)
    assert looking.statuses == blind.statuses == ("finished", "failed", "finished")
    assert looking.reasons == blind.reasons and looking.reasons[1]


def test_merged_failed_steps_keep_the_last_failed_step_of_each_member() -> None:
    one, like = torch.ones(2), {"w": torch.ones(2, 1)}

    def step(bad: list[bool], value: list[float], norm: list[float]) -> FailedStep:
        vector = torch.ones(2, 1)
        return FailedStep(
            torch.tensor(bad), one, one, vector, torch.tensor(value), vector, torch.tensor(norm), vector.clone()
        )

    first = step([True, True], [torch.nan, torch.nan], [1.0, 1.0])
    found = step([False, True], [1.0, 1.0], [1.0, torch.inf]).merged_with(first)
    assert found.bad.tolist() == [True, True]
    assert [found.first_non_finite(row, None, like) for row in (0, 1)] == [
        "loss: NaN",
        "norm of the gradient: infinite",
    ]
    rewards = torch.tensor([[torch.inf], [1.0]])
    assert found.first_non_finite(0, rewards, like) == "rewards: infinite or beyond single precision (3.4e38)"


def test_largest_distinguishes_nan_from_infinity() -> None:
    x = torch.tensor([[1.0, -3.0], [0.0, -torch.inf], [torch.inf, torch.nan]])
    assert largest(x)[:2].tolist() == [3.0, torch.inf] and largest(x)[2].isnan()
    assert largest(torch.ones(2, 4, dtype=torch.uint8)).tolist() == [0.0, 0.0]


# acting, and moving data between devices


def test_a_policy_with_parameters_on_another_device_acts_through_apply(elsewhere: Elsewhere) -> None:
    ctx = elsewhere("ppo", normalize_obs=True)
    policy, params = ctx.plan.policy, ctx.plan.policy_params(ctx.state)
    assert isinstance(actor_for(policy, params), ApplyActor)
    one = {name: torch.zeros(leaf.shape, dtype=leaf.dtype) for name, leaf in params.items()}
    assert not isinstance(actor_for(policy, one), ApplyActor)


def test_to_device_moves_all_tensors_of_a_tree_but_no_arrays() -> None:
    tree = Targets(torch.ones(2), torch.ones(2, 3).T, torch.ones(2)), {"array": np.ones(2), "none": None}
    targets, rest = to_device(tree[0], META), to_device(tree[1], META)
    assert {leaf.device for leaf in targets} == {META} and targets.returns.stride() == (1, 3)
    assert isinstance(rest["array"], np.ndarray) and rest["none"] is None
    assert to_device(tree[0], torch.device("cpu")).returns is tree[0].returns


def test_surely_empty_is_true_only_for_empty_flags_on_the_cpu() -> None:
    none = torch.zeros(3, dtype=torch.bool)
    assert surely_empty(none) and not surely_empty(~none) and not surely_empty(none.to(META))


def test_a_batch_is_cut_on_the_device_of_the_trajectory(engine: Callable[..., Engine]) -> None:
    ctx = engine("reinforce", seeds=2, num_envs=3, total_steps=100)
    state, trajectory = ctx.collect(ctx.state)
    targets = ctx.estimate(state, trajectory)
    told = {"window": False, "sequences": False, "needs": frozenset[str]()}
    here = Batcher(trajectory, targets, None, **told).whole()  # type: ignore[arg-type]
    known = trajectory.valid.numpy()
    there = Batcher(to_device(trajectory, META), to_device(targets, META), None, valid=known, **told).whole()  # type: ignore[arg-type]
    assert there.weights.shape == here.weights.shape and there.inputs.obs.device == META


# a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
@pytest.mark.parametrize("algorithm", LEARNERS)
def test_an_update_on_a_gpu_matches_the_one_on_the_cpu_without_blocking(
    algorithm: str, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {k: v for k, v in SMALL.items() if k in CATALOG.get("algorithm", algorithm).load_config().model_fields}
    action = "one" if box(algorithm) else "discrete"
    given = {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"action": action}, "seeds": 2, "num_envs": 4}
    made = plan(algorithm, **given, total_steps=10_000, **small)
    here = Engine(made)
    params, collect = made.policy_params(here.state), interaction.collect
    monkeypatch.setattr(
        interaction, "collect", lambda envs, how, *rest: collect(envs, how._replace(params=params), *rest)
    )
    there = Engine(replace(made, config=made.config.model_copy(update={"device": "cuda"})))
    found = []
    for ctx in (here, there):
        ctx.begin_update()
        state, trajectory = ctx.collect(ctx.state)
        torch.cuda.set_sync_debug_mode("error" if ctx is there else "default")
        try:
            ctx.state = getattr(made.algorithm, "update", default_update)(ctx, state, trajectory)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        ctx.state, _ = ctx.end_update(state)
        assert not ctx.failures
        found.append(ctx.snapshot(environments=False))
        ctx.close()
    for name, leaf in found[0].params.items():
        torch.testing.assert_close(found[1].params[name], leaf, rtol=1e-3, atol=1e-4)
