"""The promises of protocols.py, tested with small plugins that rely on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from pgzoo.config import AlgorithmConfig, ComponentConfig, Layer, MinibatchConfig, SearchConfig, Settings, Static
from pgzoo.envs.sync import SyncBackend, SyncEnvs
from pgzoo.errors import ConfigError, PluginError, UnfitError
from pgzoo.ops.acting import ApplyActor
from pgzoo.ops.losses import weighted_mean
from pgzoo.policies.tabular import Tabular, TabularConfig
from pgzoo.registry import PluginInfo, Registry, discover
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import resolve
from pgzoo.testing import probes
from pgzoo.training.events import RunEnded
from pgzoo.training.loop import train
from pgzoo.types import (
    ActorInputs,
    AlgorithmState,
    Array,
    Batch,
    EnvRequest,
    Hyper,
    Inputs,
    Output,
    Params,
    Steps,
)

SEEN: dict[str, Any] = {}
"""What the plugins below received or counted, by name."""


def score(policy: Any, params: Params, batch: Batch) -> Tensor:
    log_probs = policy.apply(params, batch.inputs).dist.log_prob(batch.actions)
    return -weighted_mean(log_probs * batch.advantages, batch.weights)


class Plain:
    """A minimal policy-gradient algorithm on windows."""

    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 4, "total_steps": 96}

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
        SEEN.update(batch=batch, hyper=hyper)
        return score(policy, params, batch)


class Auxiliary(Plain):
    """An algorithm with a network of its own."""

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


class Stepless(Plain):
    collect = Steps(8)


class OwnDefaults(Plain):
    collect = Steps(8)
    defaults: ClassVar[Mapping[str, Any]] = Plain.defaults | {"gamma": 0.9, "estimator": {"name": "gae", "lam": 0.5}}


class AsksConfig(MinibatchConfig):
    """Settings of `asks`."""

    old: bool = False
    strength: Annotated[float, Field(description="may differ between members")] = 1.0
    shared: Annotated[float, Static, Field(description="one number")] = 2.0


class Asks(Plain):
    """An algorithm whose `needs` is a function of its settings."""

    def needs(self, settings: AsksConfig) -> set[str]:
        return {"log_probs", "old"} if settings.old else {"log_probs"}


class Counted(Plain):
    """An algorithm whose `collect` is a function of its settings."""

    def collect(self, settings: AsksConfig) -> Steps:
        return Steps(settings.rollout_steps // 2)


class BoostConfig(ComponentConfig):
    """Settings of `boost`."""

    boost: Annotated[float, Field(description="added to every reward")] = 1.0


def boost(*, rewards: Tensor, valid: Tensor, gamma: Tensor, boost: Tensor, values: Tensor | None = None) -> Tensor:
    """Return a single result; `boost` is a setting, and `values` an optional argument."""
    SEEN.update(rewards=rewards, gamma=gamma, boost=boost, values=values)
    return torch.where(valid, rewards + boost, 0.0)


def pair(*, rewards: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return both advantages and returns."""
    return torch.full_like(rewards, 7.0), torch.full_like(rewards, 9.0)


def demanding(*, rewards: Tensor, next_values: Tensor) -> Tensor:
    """Return the rewards; the argument `next_values` requires a critic."""
    SEEN.update(next_values=next_values)
    return rewards


def whole(*, rewards: Tensor) -> Tensor:
    """Return the rewards; the estimator needs whole episodes."""
    return rewards


whole.whole_episodes = True  # type: ignore[attr-defined]


class Tally(Tabular):
    """A tabular policy that counts in a buffer how often it saw each state, and has its own actor."""

    memory_size = 2

    def __init__(self, config: TabularConfig, spec: Any, needs: frozenset[str]) -> None:
        super().__init__(config, spec, needs)
        self.to_env = self.converted

    def init(self, rng: np.random.Generator) -> Params:
        params = super().init(rng)
        return params | {"table": torch.from_numpy(rng.standard_normal(params["table"].shape)).float()}

    def buffers(self) -> Params:
        return {"count": torch.zeros(self.states)}

    def absorb(self, buffers: Params, obs: Tensor, valid: Tensor) -> Params:
        SEEN.setdefault("absorbed", []).append((obs.shape, int(valid.sum())))
        seen = torch.nn.functional.one_hot(obs, self.states) * valid.unsqueeze(-1)
        return {"count": buffers["count"] + seen.sum((1, 2))}

    def apply(self, params: Params, inputs: Inputs) -> Output:
        assert inputs.memory is not None and inputs.starts is not None
        SEEN.setdefault("steps", set()).add(inputs.obs.shape[1])
        later = inputs.memory + (~inputs.starts).any(1).unsqueeze(-1)
        return super().apply(params, inputs)._replace(memory=later)

    def converted(self, actions: Array) -> Array:
        SEEN["to_env"] = actions.shape
        return np.asarray(self.head.to_env(actions))

    def actor(self, params: Params) -> Any:
        by_apply = ApplyActor(self, params)

        def act(seen: ActorInputs, noise: Array | None) -> tuple[Array, Array | None]:
            SEEN.setdefault("acted", []).append((seen.obs.shape, None if noise is None else noise.shape))
            actions, _ = by_apply(seen, noise)
            assert seen.memory is not None and seen.starts is not None
            SEEN.setdefault("memory", []).append((seen.memory[..., 0].copy(), seen.starts.copy()))
            return actions, np.where(seen.starts[..., None], 0, seen.memory) + np.float32(1)

        return act


class Littered(SyncBackend):
    """A backend that returns garbage for rows that are not live, and can't select rows."""

    def open(self, request: EnvRequest) -> Any:
        envs, step = super().open(request), SyncEnvs.step

        def littered(actions: Array, live: Any) -> Any:
            found = step(envs, actions, live)
            SEEN["skipped"] = SEEN.get("skipped", 0) + int((~live).sum())
            obs, rewards = found.obs.copy(), found.rewards.copy()
            obs[~live], rewards[~live] = 0, np.nan
            return found._replace(obs=obs, rewards=rewards, terminated=found.terminated | ~live)

        envs.step = littered  # type: ignore[method-assign]
        envs.select = lambda rows: None  # type: ignore[assignment, method-assign, return-value]
        return envs


class Unwrapped(SyncBackend):
    """A backend that doesn't apply wrappers."""

    wraps = False

    def preferred(self, request: EnvRequest) -> bool:
        return True


@pytest.fixture(scope="module")
def catalog() -> Any:
    assert probes.PROBES
    found = discover(inline=False)
    registry = Registry(PluginInfo("promises", "entry point", "promises.plugin", "zoo-promises", "1.0"))
    for name, target in (("auxiliary", Auxiliary), ("misspelt", Misspelt), ("bare", Bare)):
        registry.algorithm(name, target, config=AlgorithmConfig)
    registry.algorithm("asks", Asks, config=AsksConfig)
    registry.algorithm("counted", Counted, config=AsksConfig)
    registry.algorithm("stepless", Stepless, config=Settings)
    registry.algorithm("own-defaults", OwnDefaults, config=SearchConfig)
    registry.estimator("boost", boost, config=BoostConfig)
    for name, function in (("pair", pair), ("demanding", demanding), ("whole", whole)):
        registry.estimator(name, function)
    registry.policy("tally", Tally, config=TabularConfig)
    registry.env_backend("littered", Littered)
    registry.env_backend("unwrapped", Unwrapped)
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


def test_the_error_about_an_unknown_need_suggests_the_nearest_one(plan: Callable[..., Any]) -> None:
    with pytest.raises(PluginError, match=r'"misspelt" declares the unknown need "valeu". Did you mean "value"\?'):
        plan("misspelt")
    assert plan("bare").needs == {"value"}  # a single need may be a string, which isn't split into letters


@pytest.mark.parametrize("old", [False, True])
def test_needs_may_depend_on_settings_and_decide_what_the_batch_contains(plan: Callable[..., Any], old: bool) -> None:
    end_of(plan("asks", old=old, rollout_steps=12))
    batch = SEEN["batch"]
    assert batch.log_probs is not None and (batch.old is not None) == old and batch.values is None


def test_collect_defaults_to_windows_of_rollout_steps_and_may_be_a_function(plan: Callable[..., Any]) -> None:
    assert plan("asks", rollout_steps=12).collection == Steps(12)
    assert plan("counted", rollout_steps=12).collection == Steps(6)
    assert plan("auxiliary").collection == Steps(8)


def test_class_attributes_provide_default_run_settings_and_estimator(plan: Callable[..., Any]) -> None:
    config = plan("asks").config
    assert (config.num_envs, config.total_steps, config.estimator.name) == (4, 96, "reward-to-go")
    assert plan("asks", num_envs=3).config.num_envs == 3


def test_epochs_and_minibatches_set_the_number_of_gradient_steps(plan: Callable[..., Any]) -> None:
    ended = end_of(plan("asks", rollout_steps=24, epochs=3, minibatches=2, total_steps=96))
    assert ended.state.optimizer["step"].tolist() == [3 * 2 * int(ended.state.updates[0])]


def test_float_settings_may_differ_between_members_unless_they_are_static(plan: Callable[..., Any]) -> None:
    one = plan("asks", rollout_steps=12, sweep_axis={"strength": (0.5, 4.0)})
    end_of(one)
    hyper = SEEN["hyper"]
    assert hyper.strength.shape == (2, 1, 1) and hyper.strength.flatten().tolist() == [0.5, 4.0]
    assert [member.config.settings.strength for member in one.members] == [0.5, 4.0]
    assert hyper.shared.flatten().tolist() == [2.0, 2.0]
    with pytest.raises(ConfigError, match='"shared" has one value for all members'):
        plan("asks", rollout_steps=12, sweep_axis={"shared": (0.5, 4.0)})


# ReturnEstimator


def test_an_estimator_receives_the_arguments_it_names_and_its_settings(plan: Callable[..., Any]) -> None:
    one = plan("asks", rollout_steps=12, estimator={"name": "boost", "boost": 3.0}, seeds=2, gamma=0.5)
    end_of(one)
    assert SEEN["rewards"].shape == (2, 12, 4)
    assert SEEN["gamma"].flatten().tolist() == [0.5] * 2 and SEEN["boost"].shape == (2, 1, 1)
    assert SEEN["values"] is None, "an argument with a default adds no critic"
    assert torch.equal(SEEN["batch"].advantages, SEEN["batch"].returns)


def test_an_optional_estimator_argument_is_passed_if_the_run_has_a_critic(plan: Callable[..., Any]) -> None:
    end_of(plan("a2c", rollout_steps=12, num_envs=4, estimator="boost", total_steps=40))
    assert SEEN["values"].shape == (1, 12, 4)


def test_values_are_subtracted_from_a_single_result_but_not_from_a_pair(plan: Callable[..., Any]) -> None:
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
    with pytest.raises(UnfitError, match='algorithm "stepless" takes no gradient steps'):
        next(train(plan("stepless", estimator="demanding")))


def test_a_search_refuses_an_estimator_and_a_gamma_that_are_not_its_defaults(plan: Callable[..., Any]) -> None:
    assert plan("own-defaults").config.gamma == 0.9
    for option, settings in (("--gamma", {"gamma": 0.99}), ("--estimator", {"estimator": "reward-to-go"})):
        with pytest.raises(UnfitError, match=f"{option} would have no effect"):
            plan("own-defaults", **settings)


def test_an_estimator_of_whole_episodes_is_refused_only_for_windows(plan: Callable[..., Any]) -> None:
    with pytest.raises(UnfitError, match='Estimator "whole" needs whole episodes'):
        next(train(plan("asks", estimator="whole")))
    end_of(plan("reinforce", estimator="whole", num_envs=2, total_steps=20))


# PolicyFactory


def test_a_policy_without_parameters_is_refused_where_a_critic_is_needed(plan: Callable[..., Any]) -> None:
    with pytest.raises(UnfitError, match=r'policy "uniform" has no parameters'):
        plan("asks", estimator="demanding", policy="uniform")


# Policy and Actor


def test_each_member_has_buffers_that_absorb_the_valid_steps_of_every_update(plan: Callable[..., Any]) -> None:
    state = end_of(plan("asks", policy="tally", rollout_steps=12, seeds=2)).state
    assert [shape for shape, _ in SEEN["absorbed"]] == [(2, 12, 4)] * int(state.updates.max())
    counts = state.buffers["policy.count"]
    assert counts.sum(1).tolist() == state.env_steps.tolist() and not torch.equal(counts[0], counts[1])
    assert counts.sum() == sum(valid for _, valid in SEEN["absorbed"])
    assert not torch.equal(state.params["policy.table"][0], state.params["policy.table"][1])


def test_a_custom_actor_acts_with_noise_or_greedily_and_keeps_its_memory(plan: Callable[..., Any]) -> None:
    end_of(plan("asks", policy="tally", rollout_steps=12, seeds=2))
    training = [noise for shape, noise in SEEN["acted"] if shape == (2, 4)]
    assert training and all(noise is not None and noise[:2] == (2, 4) for noise in training)
    assert [noise for _, noise in SEEN["acted"]][-1] is None, "the last evaluation is greedy"
    assert len(SEEN["to_env"]) == 1, "actions for the environments are [rows, *A]"
    for (before, starts), (after, _) in pairwise(SEEN["memory"][:12]):
        assert np.array_equal(after, np.where(starts, 0, before) + 1)
    assert 12 in SEEN["steps"], "a policy with memory is trained on sequences"


# EnvBackend and VectorEnv


def test_results_of_rows_that_are_not_live_are_not_used(plan: Callable[..., Any]) -> None:
    settings: dict[str, Any] = {"seeds": 2, "num_envs": 3, "total_steps": 200, "eval_episodes": 4}
    ends = [end_of(plan("reinforce", backend=backend, **settings)) for backend in ("sync", "littered")]
    assert SEEN["skipped"] > 0
    for name, value in ends[0].state.params.items():
        assert torch.equal(value, ends[1].state.params[name]), name
    assert ends[0].state.env_steps.tolist() == ends[1].state.env_steps.tolist()


def test_requests_with_wrappers_do_not_reach_a_backend_that_does_not_apply_them(plan: Callable[..., Any]) -> None:
    assert plan("asks", backend="auto").config.backend == "unwrapped"
    assert plan("asks", backend="auto", frame_stack=2, policy="mlp").config.backend == "sync"
    with pytest.raises(UnfitError, match="it can't put wrappers around"):
        plan("asks", backend="unwrapped", frame_stack=2, policy="mlp")
