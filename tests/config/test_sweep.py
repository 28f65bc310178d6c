"""Sweeps: the members, the sweep axes of several layers, and members that train alone bit for bit as in a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pgzoo.config import Layer
from pgzoo.config.sweep import format_setting, grid, parse_setting
from pgzoo.errors import ConfigError
from pgzoo.registry import PluginCatalog
from pgzoo.runs.resolve import resolve
from pgzoo.runs.result import Result
from pgzoo.training.engine import Engine
from pgzoo.training.events import Evaluated, Event, RunEnded
from pgzoo.types import TrainState

Configure = Callable[..., Any]
MakePlan = Callable[..., Any]
Play = Callable[..., list[Event]]
Run = Callable[..., Result]

PPO: dict[str, Any] = {"algorithm": "ppo", "num_envs": 3, "rollout_steps": 32, "epochs": 2, "total_steps": 400}


# the members of a sweep


def test_members_are_the_product_of_settings_and_seeds(configure: Configure) -> None:
    axes = {"learning_rate": (1e-4, 3e-4), "estimator.lam": (0.9,)}
    members = configure("ppo", seeds=(0, 2), sweep_axis=axes).members()
    assert [(m.seed, dict(m.overrides)) for m in members] == [
        (0, {"learning_rate": 1e-4, "estimator.lam": 0.9}),
        (2, {"learning_rate": 1e-4, "estimator.lam": 0.9}),
        (0, {"learning_rate": 3e-4, "estimator.lam": 0.9}),
        (2, {"learning_rate": 3e-4, "estimator.lam": 0.9}),
    ]
    assert members[3].label == "learning_rate=0.0003 estimator.lam=0.9 s2"
    assert members[3].run_key("g") == "g-learning_rate-0.0003-estimator.lam-0.9-s2"


def test_members_differ_only_in_their_seeds_without_a_sweep(configure: Configure) -> None:
    config = configure("ppo", seeds=(3, 8))
    assert [(m.label, m.run_key("g"), m.overrides) for m in config.members()] == [
        ("s3", "g-s3", {}),
        ("s8", "g-s8", {}),
    ]
    assert "sweep_axis" not in config.nested()


@pytest.mark.parametrize(
    ("key", "alone"),
    [
        ("learning_rate", {"learning_rate": 3e-4}),
        ("target_kl", {"target_kl": 3e-4}),
        ("gamma", {"gamma": 3e-4}),
        ("estimator.lam", {"estimator": {"lam": 3e-4}}),
    ],
)
def test_a_member_has_the_config_of_a_run_with_its_setting_alone(
    configure: Configure, key: str, alone: Mapping[str, Any]
) -> None:
    _, member = configure("ppo", seeds=(2,), sweep_axis={key: (0.5, 3e-4)}).members()
    config = configure("ppo", seeds=(2,), **alone)
    assert member.config == config and member.config.nested() == config.nested()
    assert member.config.setting_hash() == config.setting_hash() and member.config.flat() == config.flat()


def test_a_config_read_back_from_yaml_has_the_same_members(configure: Configure, catalog: PluginCatalog) -> None:
    config = configure("ppo", seeds=2, sweep_axis={"learning_rate": ["1e-4", 3e-4], "gamma": (0.9,)})
    text = yaml.safe_dump(config.nested())
    assert resolve([Layer(yaml.safe_load(text), ".".join)], catalog).members() == config.members()


@given(
    st.dictionaries(
        st.sampled_from(["gamma", "a_b", "estimator.lam"]), st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_parsing_a_formatted_setting_returns_the_setting(setting: dict[str, float]) -> None:
    assert parse_setting(format_setting(setting)) == setting


@given(
    st.dictionaries(st.text("ab", min_size=1), st.lists(st.floats(allow_nan=False), min_size=1, max_size=3), max_size=3)
)
def test_a_grid_has_every_combination_and_the_last_axis_varies_fastest(axes: dict[str, list[float]]) -> None:
    expected: list[dict[str, float]] = [{}]
    for key, values in axes.items():
        expected = [setting | {key: value} for setting in expected for value in values]
    assert list(grid(axes)) == expected


# sweep axes in several layers of settings


def composed(*layers: Mapping[str, Any], catalog: PluginCatalog) -> Any:
    base = {"algorithm": "ppo", "env": "CartPole-v1"}
    return resolve([Layer(layer, ".".join) for layer in (base, *layers)], catalog)


def test_a_later_layer_replaces_an_axis_of_the_same_setting_and_adds_others(catalog: PluginCatalog) -> None:
    axes = [{"sweep_axis": {"gamma": [0.8, 0.9]}}, {"sweep_axis": {"gamma": [0.5], "learning_rate": [0.1, 0.2]}}]
    assert composed(*axes, catalog=catalog).sweep_axis == {"gamma": (0.5,), "learning_rate": (0.1, 0.2)}


@pytest.mark.parametrize("given", [{"gamma": 0.5}, {"estimator": {"lam": 0.5}}])
def test_the_later_layer_wins_between_a_single_value_and_an_axis(
    catalog: PluginCatalog, given: Mapping[str, Any]
) -> None:
    axes = {"gamma": [0.8, 0.9], "estimator.lam": [0.1, 0.2]}
    config = composed({"sweep_axis": axes}, given, catalog=catalog)
    (left,) = config.sweep_axis
    assert left == ("estimator.lam" if "gamma" in given else "gamma")
    assert composed(given, {"sweep_axis": axes}, catalog=catalog).sweep_axis.keys() == axes.keys()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"sweep_axis": {"learnin_rate": [1]}}, 'isn\'t a setting. Did you mean "learning_rate"?'),
        ({"sweep_axis": {"learnin_rate": [1]}}, "Settings that can be swept: learning_rate, max_grad_norm, "),
        ({"sweep_axis": {"epochs": [1, 2]}}, '"epochs" has one value for all members.'),
        ({"sweep_axis": {"kl_coef": [0.1, 0.2]}}, '"kl_coef" has one value for all members.'),
        ({"sweep_axis": {"optimizer_eps": [0.1]}}, '"optimizer_eps" has one value for all members.'),
        ({"sweep_axis": {"policy.log_std": [0.1]}}, '"policy.log_std" has one value for all members.'),
        ({"sweep_axis": {"gamma": [0.9, 1.5]}}, "gamma: must be less than or equal to 1 (got 1.5)"),
        ({"sweep_axis": {"learning_rate": [-1]}}, "learning_rate: must be greater than 0 (got -1.0)"),
        ({"sweep_axis": {"estimator.lam": [2]}}, "estimator.lam: must be less than or equal to 1 (got 2.0)"),
        ({"sweep_axis": {"target_kl": ["none", 0.1]}}, "must be a valid number (got 'none')"),
        ({"sweep_axis": {"gamma": []}}, "gamma has no value"),
        ({"sweep_axis": {"gamma": [0.5, 0.5]}}, "gamma has a value twice"),
        ({"sweep_axis": 3}, "must be a mapping"),
        ({"sweep_axis": {"gamma": [0.5]}, "gamma": 0.9}, "gamma is also given a single value"),
    ],
)
def test_invalid_axes_are_rejected(catalog: PluginCatalog, layer: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(layer, catalog=catalog)
    assert str(caught.value).startswith("sweep_axis") and message in str(caught.value)


# the seed law: a member trains identically, bit for bit, alone and among others


def bits(state: TrainState, row: int) -> dict[str, bytes]:
    leaves = state.params | state.buffers | {f"optimizer {name}": value for name, value in state.optimizer.items()}
    return {name: value[row].numpy().tobytes() for name, value in leaves.items()}


def ended(events: list[Event]) -> RunEnded:
    assert isinstance(events[-1], RunEnded)
    return events[-1]


AXES: list[tuple[dict[str, Any], dict[str, tuple[float, ...]]]] = [
    (PPO, {"learning_rate": (1e-4, 3e-4, 1e-3)}),
    (PPO | {"normalize_reward": True}, {"gamma": (0.5, 0.99), "estimator.lam": (0.0, 0.95)}),
    (PPO, {"max_grad_norm": (0.01, 0.5), "target_kl": (1e-4, 1.0), "clip_value": (0.1, 0.3), "dual_clip": (1.5, 3.0)}),
    (PPO | {"policy": "gru", "learning_rate": 0.01}, {"clip_range": (0.01, 0.1, 0.3)}),
    ({"algorithm": "reinforce", "total_steps": 1500, "gamma_t": True}, {"gamma": (0.9, 0.99, 1.0)}),
    ({"algorithm": "impala", "total_steps": 600}, {"estimator.rho_bar": (0.5, 1.0), "estimator.c_bar": (0.5, 1.0)}),
    ({"algorithm": "trpo", "rollout_steps": 40, "total_steps": 800, "critic_steps": 2}, {"max_kl": (0.001, 0.1)}),
    ({"algorithm": "ars", "total_steps": 1000, "num_envs": 8}, {"noise_std": (0.05, 0.5), "learning_rate": (0.1, 0.2)}),
    ({"algorithm": "cem", "total_steps": 1000, "num_envs": 8}, {"elite": (0.1, 0.5), "extra_std": (0.0, 0.5)}),
]


@pytest.mark.parametrize(("settings", "axes"), AXES, ids=lambda x: ",".join(x))
def test_a_member_trains_identically_alone_and_in_a_grid(
    play: Play, settings: dict[str, Any], axes: dict[str, tuple[float, ...]]
) -> None:
    settings = settings | {"eval_episodes": 3}
    seeds = (0, 7, 2)
    among = play(seeds=seeds, sweep_axis=axes, **settings)
    setting = list(grid(axes))[-1]
    row = (len(list(grid(axes))) - 1) * len(seeds) + seeds.index(7)
    nested: dict[str, Any] = {key: value for key, value in setting.items() if "." not in key}
    if len(nested) < len(setting):
        nested["estimator"] = {k.partition(".")[2]: v for k, v in setting.items() if "." in k}
    alone = play(seeds=(7,), **settings, **nested)
    a, b = ended(alone).state, ended(among).state
    assert a.updates[0] == b.updates[row] > 2 and a.env_steps[0] == b.env_steps[row]
    assert bits(a, 0) == bits(b, row)
    assert bits(b, row) != bits(b, seeds.index(7))
    for one, many in zip(alone[-3:-1], among[-3:-1], strict=True):
        assert isinstance(one, Evaluated) and isinstance(many, Evaluated)
        assert one.returns[0].tolist() == many.returns[row].tolist()


def test_members_with_the_same_seed_start_with_the_same_parameters_and_play_the_same_steps(plan: MakePlan) -> None:
    """Until the first gradient step, in which their learning rates differ."""
    with closing(Engine(plan(seeds=(4, 5), sweep_axis={"learning_rate": (0.1, 0.2)}, total_steps=10))) as engine:
        params = engine.state.params["policy.weight.0"]
        assert params[0].equal(params[2]) and params[1].equal(params[3]) and not params[0].equal(params[1])
        assert engine.learning_rate(engine.state).tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2])
        _, played = engine.collect(engine.state)
    for steps in (played.obs, played.actions):
        assert steps[:2].equal(steps[2:]) and not steps[0].equal(steps[1])
