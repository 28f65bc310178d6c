"""What protocols.py promises, by small plugins that rely on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from pgzoo.config import AlgorithmConfig, ComponentConfig, Layer, MinibatchConfig, Static
from pgzoo.errors import PluginError, UnfitError
from pgzoo.ops.losses import weighted_mean
from pgzoo.registry import PluginInfo, Registry, discover
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import resolve
from pgzoo.testing import probes
from pgzoo.training.events import RunEnded
from pgzoo.training.loop import train
from pgzoo.types import AlgorithmState, Batch, Hyper, Params, Steps

SEEN: dict[str, Any] = {}
"""What the plugins below were given, by name."""


def score(policy: Any, params: Params, batch: Batch) -> Tensor:
    log_probs = policy.apply(params, batch.inputs).dist.log_prob(batch.actions)
    return -weighted_mean(log_probs * batch.advantages, batch.weights)


class Plain:
    """A policy gradient on windows, as short as can be."""

    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 4, "total_steps": 96}

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
        SEEN.update(batch=batch, hyper=hyper)
        return score(policy, params, batch)


class Auxiliary(Plain):
    """Keeps a network of its own."""

    collect = Steps(8)

    def init(self, ctx: Any, rng: np.random.Generator) -> AlgorithmState:
        SEEN.setdefault("inits", []).append(ctx)
        return AlgorithmState(
            {"aux.weight": torch.from_numpy(rng.standard_normal(3)).float()}, {"aux.n": torch.zeros(())}
        )


class Misspelt(Plain):
    collect = Steps(8)
    needs: ClassVar[Any] = ("valeu",)


class Bare(Plain):
    collect = Steps(8)
    needs: ClassVar[Any] = "value"


class AsksConfig(MinibatchConfig):
    """Settings of `asks`."""

    old: bool = False
    strength: Annotated[float, Field(description="may differ between members")] = 1.0
    shared: Annotated[float, Static, Field(description="one number")] = 2.0


class Asks(Plain):
    """What it needs is a function of its settings."""

    def needs(self, settings: AsksConfig) -> set[str]:
        return {"log_probs", "old"} if settings.old else {"log_probs"}


class Counted(Plain):
    """Windows as long as a setting says, by a function."""

    def collect(self, settings: AsksConfig) -> Steps:
        return Steps(settings.rollout_steps // 2)


class BoostConfig(ComponentConfig):
    """Settings of `boost`."""

    boost: Annotated[float, Field(description="added to every reward")] = 1.0


def boost(*, rewards: Tensor, valid: Tensor, gamma: Tensor, boost: Tensor, values: Tensor | None = None) -> Tensor:
    """A single result, with a setting and an argument that the run may have."""
    SEEN.update(rewards=rewards, gamma=gamma, boost=boost, values=values)
    return torch.where(valid, rewards + boost, 0.0)


def pair(*, rewards: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages and returns."""
    return torch.full_like(rewards, 7.0), torch.full_like(rewards, 9.0)


def demanding(*, rewards: Tensor, next_values: Tensor) -> Tensor:
    """Requires a critic."""
    SEEN.update(next_values=next_values)
    return rewards


def whole(*, rewards: Tensor) -> Tensor:
    """Makes no sense of parts of episodes."""
    return rewards


whole.whole_episodes = True  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def catalog() -> Any:
    assert probes.PROBES
    found = discover(inline=False)
    registry = Registry(PluginInfo("promises", "entry point", "promises.plugin", "zoo-promises", "1.0"))
    for name, target in (("auxiliary", Auxiliary), ("misspelt", Misspelt), ("bare", Bare)):
        registry.algorithm(name, target, config=AlgorithmConfig)
    registry.algorithm("asks", Asks, config=AsksConfig)
    registry.algorithm("counted", Counted, config=AsksConfig)
    registry.estimator("boost", boost, config=BoostConfig)
    for name, function in (("pair", pair), ("demanding", demanding), ("whole", whole)):
        registry.estimator(name, function)
    found.add(registry.plugin, object(), registry.entries.values())
    return found


@pytest.fixture
def plan(catalog: Any) -> Callable[..., Any]:
    SEEN.clear()

    def make(algorithm: str, **settings: Any) -> Any:
        given = {"env": "pgzoo/Corridor-v0", "eval_episodes": 1, "compile": "off", "backend": "sync", **settings}
        return make_plan(resolve([Layer({"algorithm": algorithm, **given}, ".".join)], catalog), catalog)

    return make


def end_of(plan: Any) -> RunEnded:
    *_, ended = train(plan)
    assert isinstance(ended, RunEnded) and set(ended.statuses) == {"finished"}
    return ended


# Algorithm


def test_init_is_called_once_per_member_with_its_own_generator(plan: Callable[..., Any]) -> None:
    among = end_of(plan("auxiliary", seeds=(3, 7, 5), learning_rate=1e-9)).state
    assert len(SEEN["inits"]) == 3
    weights = among.params["aux.weight"]
    assert weights.shape == (3, 3) and among.buffers["aux.n"].shape == (3,)
    assert len({tuple(row) for row in weights.tolist()}) == 3, "an auxiliary network starts the same in two seeds"
    alone = end_of(plan("auxiliary", seeds=(7,), learning_rate=1e-9)).state
    assert torch.equal(alone.params["aux.weight"][0], weights[1])


def test_an_unknown_need_is_refused_with_the_nearest_one(plan: Callable[..., Any]) -> None:
    with pytest.raises(PluginError, match=r'"misspelt" declares the unknown need "valeu". Did you mean "value"\?'):
        plan("misspelt")
    assert plan("bare").needs == {"value"}  # one need alone may be a text: it isn't taken letter by letter


@pytest.mark.parametrize("old", [False, True])
def test_needs_may_be_a_function_of_the_settings_and_the_batch_has_what_is_needed(
    plan: Callable[..., Any], old: bool
) -> None:
    end_of(plan("asks", old=old, rollout_steps=12))
    batch = SEEN["batch"]
    assert batch.log_probs is not None and (batch.old is not None) == old and batch.values is None


def test_without_collect_windows_are_of_rollout_steps_and_collect_may_be_a_function(plan: Callable[..., Any]) -> None:
    assert plan("asks", rollout_steps=12).collection == Steps(12)
    assert plan("counted", rollout_steps=12).collection == Steps(6)
    assert plan("auxiliary").collection == Steps(8)


def test_defaults_preset_run_keys_and_estimator_is_the_default(plan: Callable[..., Any]) -> None:
    config = plan("asks").config
    assert (config.num_envs, config.total_steps, config.estimator.name) == (4, 96, "reward-to-go")
    assert plan("asks", num_envs=3).config.num_envs == 3


def test_epochs_and_minibatches_say_how_a_loss_goes_through_a_collection(plan: Callable[..., Any]) -> None:
    ended = end_of(plan("asks", rollout_steps=24, epochs=3, minibatches=2, total_steps=96))
    assert ended.state.optimizer["step"].tolist() == [3 * 2 * int(ended.state.updates[0])]


def test_floats_may_differ_between_members_and_static_ones_are_numbers(plan: Callable[..., Any]) -> None:
    one = plan("asks", rollout_steps=12, sweep_axis={"strength": (0.5, 4.0)})
    end_of(one)
    hyper = SEEN["hyper"]
    assert hyper.strength.shape == (2, 1, 1) and hyper.strength.flatten().tolist() == [0.5, 4.0]
    assert [member.config.settings.strength for member in one.members] == [0.5, 4.0]
    assert one.config.settings.shared == 2.0


# ReturnEstimator


def test_an_estimator_is_given_what_it_names_and_its_settings(plan: Callable[..., Any]) -> None:
    one = plan("asks", rollout_steps=12, estimator={"name": "boost", "boost": 3.0}, seeds=2, gamma=0.5)
    end_of(one)
    assert SEEN["rewards"].shape == (2, 12, 4)
    assert SEEN["gamma"].flatten().tolist() == [0.5] * 2 and SEEN["boost"].shape == (2, 1, 1)
    assert SEEN["values"] is None, "an argument with a default adds no critic"
    assert torch.equal(SEEN["batch"].advantages, SEEN["batch"].returns)


def test_an_argument_with_a_default_is_passed_where_the_run_has_a_critic(plan: Callable[..., Any]) -> None:
    end_of(plan("a2c", rollout_steps=12, num_envs=4, estimator="boost", total_steps=40))
    assert SEEN["values"].shape == (1, 12, 4)


def test_from_a_single_result_the_values_are_subtracted_and_a_pair_is_taken_as_it_is(plan: Callable[..., Any]) -> None:
    end_of(plan("bare", estimator="boost"))
    batch = SEEN["batch"]
    counts = batch.weights > 0
    torch.testing.assert_close(batch.advantages[counts], (batch.returns - batch.values)[counts])
    end_of(plan("bare", estimator="pair"))
    assert set(SEEN["batch"].advantages[SEEN["batch"].weights > 0].tolist()) == {7.0}
    assert set(SEEN["batch"].returns[SEEN["batch"].weights > 0].tolist()) == {9.0}


def test_an_estimator_that_requires_values_gets_a_critic(plan: Callable[..., Any]) -> None:
    one = plan("asks", rollout_steps=12, estimator="demanding")
    before = one.policy.init(np.random.default_rng(0))
    assert one.added_critic and any(name.startswith("critic.") for name in before)
    end_of(one)
    assert SEEN["next_values"].shape == (1, 12, 4)
    with pytest.raises(UnfitError, match='algorithm "cem" takes no gradient steps'):
        next(train(plan("cem", estimator="demanding")))


def test_an_estimator_of_whole_episodes_is_refused_for_windows_alone(plan: Callable[..., Any]) -> None:
    with pytest.raises(UnfitError, match='Estimator "whole" needs whole episodes'):
        next(train(plan("asks", estimator="whole")))
    end_of(plan("reinforce", estimator="whole", num_envs=2, total_steps=20))


# PolicyFactory


def test_a_policy_that_has_not_what_is_needed_is_refused_by_name(plan: Callable[..., Any]) -> None:
    with pytest.raises(UnfitError, match=r'policy "uniform" has no parameters'):
        plan("asks", estimator="demanding", policy="uniform")
