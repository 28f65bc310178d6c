"""Search spaces: their syntax, their validation against the settings, and the configs of trials."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pgzoo.config import RunConfig
from pgzoo.errors import ConfigError, PgzooError, UnfitError, UnknownName
from pgzoo.registry import PluginCatalog
from pgzoo.search.space import (
    Choices,
    Range,
    Space,
    check_effects,
    checked_space,
    configure,
    parse_dimension,
    parse_search,
    round_setting,
    sample,
    value_of,
)

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def base(configure: Configure) -> RunConfig:
    return configure("ppo", seeds=(0, 1), total_steps=2000)


def checked(base: RunConfig, catalog: PluginCatalog, *search: str) -> Space:
    return checked_space(parse_search(search), base, catalog)


@pytest.mark.parametrize(
    ("given", "dimension"),
    [
        ("0.1..0.9", Range(0.1, 0.9)),
        ("log:1e-4..3e-3", Range(1e-4, 3e-3, log=True)),
        (" log:1..8 ", Range(1, 8, log=True)),
        ("-1..1", Range(-1, 1)),
        ({"low": "1e-4", "high": 1}, Range(1e-4, 1)),
        ({"low": 1, "high": 8, "log": True}, Range(1, 8, log=True)),
        ("gae, n-step", Choices(("gae", "n-step"))),
        ("0,0.001", Choices(("0", "0.001"))),
        ("64|64,64", Choices(("64", ["64", "64"]))),
        ([[64], [64, 64]], Choices(([64], [64, 64]))),
        ([True, False], Choices((True, False))),
    ],
)
def test_dimensions_are_parsed(given: Any, dimension: Range | Choices) -> None:
    assert parse_dimension(given, "k") == dimension


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("1..2..3", "k: expected a range as A..B"),
        ("a..b", "k: the ends of a range must be numbers, got 'a' and 'b'"),
        ("2..1", "k: a range goes from a smaller to a larger finite number, got 2..1"),
        ("1..inf", "finite"),
        ("log:0..1", "k: a range on a log scale starts above 0"),
        ("3", "k: a choice needs two values or more"),
        ("", "k: a choice needs two values or more"),
        (3, "k: expected KEY=A..B"),
        ({"low": 1}, "k: a mapping needs low and high, and may have log; it has low"),
        ({"low": 1, "high": 2, "step": 3}, "it has low, high, step"),
    ],
)
def test_an_invalid_dimension_is_rejected(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("..", r"\.\.")):
        parse_dimension(given, "k")


def test_a_space_is_read_from_options_and_files(tmp_path: Path) -> None:
    file = tmp_path / "space.yml"
    file.write_text("entropy-coef: [0, 0.01]\nestimator.lam: {low: 0.9, high: 1}\n")
    found = parse_search(["learning-rate=log:1e-4..1e-2", str(file)])
    assert {key: given.dimension for key, given in found.items()} == {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "entropy_coef": Choices((0, 0.01)),
        "estimator.lam": Range(0.9, 1),
    }
    assert found["entropy_coef"].where == f"{file}, line 1: entropy-coef"
    file.write_text("learning_rate: 0..1\n")
    with pytest.raises(ConfigError, match=r"--search learning_rate: learning_rate is given twice, first by .*line 1"):
        parse_search([str(file), "learning_rate=0..1"])
    with pytest.raises(ConfigError, match=r"--search learning_rate: expected KEY=A\.\.B"):
        parse_search(["learning_rate"])
    with pytest.raises(ConfigError, match="Nothing to search"):
        parse_search([])


def test_a_value_of_a_list_that_may_be_none_is_a_list_of_one(base: RunConfig, catalog: PluginCatalog) -> None:
    space = checked(base, catalog, "policy.critic_hidden=none|32|64,64")
    assert space.dimensions == {"policy.critic_hidden": Choices((None, [32], [64, 64]))}


def test_values_have_the_types_of_their_settings(base: RunConfig, catalog: PluginCatalog) -> None:
    space = checked(
        base,
        catalog,
        "epochs=2..8",
        "learning_rate=log:1e-4..1e-2",
        "entropy_coef=0,0.01",
        "num_envs=4,8.0",
        "policy.hidden=32|64,64",
        "normalize_obs=true,false",
        "target_kl=none,0.02",
        "estimator=gae,n-step",
    )
    assert space.dimensions == {
        "estimator": Choices(("gae", "n-step")),
        "epochs": Range(2, 8, whole=True),
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "entropy_coef": Choices((0.0, 0.01)),
        "num_envs": Choices((4, 8)),
        "policy.hidden": Choices(([32], [64, 64])),
        "normalize_obs": Choices((True, False)),
        "target_kl": Choices((None, 0.02)),
    }
    assert next(iter(space.dimensions)) == "estimator"
    assert space.describe()["policy.hidden"] == "32|64,64"
    again = checked(base, catalog, *(f"{key}={text}" for key, text in space.describe().items()))
    assert again == space


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("learning_rat=1e-4..1e-2", r'--search learning_rat: no setting of that name\. Did you mean "learning_rate"\?'),
        ("estimator.lamb=0.9..1", r'--search estimator\.lamb: no setting lamb in gae\. Did you mean "lam"\?'),
        ("policy.hiden=32,64", r'no setting hiden in mlp\. Did you mean "hidden"\?'),
        ("learning_rate=0..1", r"--search learning_rate: must be greater than 0 \(got 0\.0\)"),
        ("gamma=0.9..1.1", r"--search gamma: must be less than or equal to 1 \(got 1\.1\)"),
        ("epochs=1.5..3", r"epochs is a whole number, and the ends of its range must be, too \(got 1\.5\.\.3\)"),
        ("epochs=2,many", r"--search epochs: must be a valid integer \(got 'many'\)"),
        ("normalize_obs=0..1", r"--search normalize_obs: a range needs a setting that is a number"),
        ("optimizer=adam,adm", r"--search optimizer: must be 'adam', 'rmsprop' or 'sgd'"),
        ("optimizer=0..1", r"a range needs a setting that is a number"),
        ("entropy_coef=0,0.0", r"--search entropy_coef: a value is given twice"),
        ("seeds=1,2", r"--search seeds: seeds has one value in a whole study"),
        ("env=CartPole-v1,Acrobot-v1", r"env has one value in a whole study"),
        ("settings.learning_rate=0..1", r"settings\.learning_rate has one value in a whole study"),
        ("estimator=gae,gea", r'--search estimator: .*No estimator "gea".*Did you mean "gae"\?'),
        ("estimator=0..1", r"--search estimator: a range needs a setting that is a number"),
    ],
)
def test_a_space_that_does_not_fit_the_settings_is_rejected(
    base: RunConfig, catalog: PluginCatalog, search: str, message: str
) -> None:
    with pytest.raises((ConfigError, UnknownName), match=message) as caught:
        checked(base, catalog, search)
    assert isinstance(caught.value, PgzooError) and caught.value.exit_code == 2


@pytest.mark.parametrize("search", ["gamma=0.9..0.99", "gamma=0.99,0.9", "estimator=reward-to-go,total-return"])
def test_a_space_has_no_setting_that_the_algorithm_ignores(
    configure: Configure, catalog: PluginCatalog, search: str
) -> None:
    key = search.partition("=")[0]
    with pytest.raises(ConfigError, match=f'--search {key}: Algorithm "ars" .* --{key} would have no effect'):
        checked(configure("ars"), catalog, search)
    with pytest.raises(UnfitError, match=r'^Algorithm "ars" .* --compile on would have no effect'):
        checked(configure("ars", compile="on"), catalog, "learning_rate=0.1..0.3")


def test_every_mistake_is_reported_on_its_own_line(base: RunConfig, catalog: PluginCatalog) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(base, catalog, "learning_rat=0..1", "gamma=0.9..2", "clip_range=0.1,0.2,-1")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "--search learning_rat",
        "--search gamma",
        "--search clip_range",
    ]


def test_a_component_setting_is_omitted_when_another_component_is_drawn(
    base: RunConfig, catalog: PluginCatalog
) -> None:
    space = checked(base, catalog, "estimator.lam=0.9,0.95", "estimator=gae,n-step", "estimator.n=2..9", "gamma=0.9,1")
    assert space.owners["estimator.lam"] == {"gae"} and space.owners["estimator.n"] == {"n-step"}
    for name, kept in (("gae", "estimator.lam"), ("n-step", "estimator.n")):
        drawn = {"estimator": name, "estimator.lam": 0.95, "estimator.n": 3, "gamma": 0.9}
        setting = sample(space, base, lambda key, _, drawn=drawn: drawn[key])
        assert setting == {"estimator": name, kept: drawn[kept], "gamma": 0.9}
        config = configure(base, setting, catalog)
        assert config.estimator.name == name and config.gamma == 0.9
        assert value_of(config, kept) == drawn[kept]
    with pytest.raises(ConfigError, match=r"estimator\.n=2\.\.9: the sampler grid tries every combination"):
        space.grid(base)


@pytest.mark.parametrize(
    ("search", "env", "ignored"),
    [
        (["policy.log_std=-1..0"], "CartPole-v1", "--policy.log-std"),
        (["policy.log_std=-1..0"], "Pendulum-v1", None),
        (["policy=mlp,linear", "policy.rescale=true,false"], "CartPole-v1", "--policy.rescale"),
        (["policy.sde_sample_freq=1,2"], "Pendulum-v1", "--policy.sde-sample-freq"),
        (["policy.sde_sample_freq=1,2", "policy.sde=true,false"], "Pendulum-v1", None),
        (["policy.distribution=beta,tanh", "policy.log_std=-1..0"], "Pendulum-v1", None),
        (["gamma=0.9,1"], "CartPole-v1", None),
    ],
)
def test_a_searched_setting_of_the_policy_must_have_an_effect_in_some_trial(
    configure: Configure, catalog: PluginCatalog, search: list[str], env: str, ignored: str | None
) -> None:
    base = configure("ppo", env, seeds=(0, 1), total_steps=2000)
    space = checked(base, catalog, *search)
    refusal = pytest.raises(UnfitError, match=f"{ignored} would have no effect") if ignored else nullcontext()
    with refusal:
        check_effects(space, base, catalog)


def test_a_given_setting_of_the_policy_must_have_an_effect_in_some_trial(
    configure: Configure, catalog: PluginCatalog
) -> None:
    base = configure("ppo", "Pendulum-v1", policy={"sde_sample_freq": 2}).asking(["sde_sample_freq"])
    check_effects(checked(base, catalog, "policy.sde=true,false"), base, catalog)
    with pytest.raises(UnfitError, match=r"--policy\.sde-sample-freq would have no effect"):
        check_effects(checked(base, catalog, "gamma=0.9,1"), base, catalog)


def test_a_grid_has_each_combination_once(base: RunConfig, catalog: PluginCatalog) -> None:
    space = checked(base, catalog, "estimator=gae,n-step", "estimator.lam=0.9,0.95", "gamma=0.9,1")
    assert space.grid(base) == [
        {"estimator": "gae", "estimator.lam": 0.9, "gamma": 0.9},
        {"estimator": "gae", "estimator.lam": 0.9, "gamma": 1.0},
        {"estimator": "gae", "estimator.lam": 0.95, "gamma": 0.9},
        {"estimator": "gae", "estimator.lam": 0.95, "gamma": 1.0},
        {"estimator": "n-step", "gamma": 0.9},
        {"estimator": "n-step", "gamma": 1.0},
    ]


def test_a_trial_config_differs_from_the_base_config_only_in_its_settings(
    base: RunConfig, catalog: PluginCatalog
) -> None:
    assert configure(base, {}, catalog) == base
    config = configure(base, {"learning_rate": 2e-3, "policy.hidden": [8]}, catalog)
    plain, own = base.nested(), config.nested()
    assert own["policy"].pop("hidden") == [8] and plain["policy"].pop("hidden") != [8]
    assert own.pop("learning_rate") == 2e-3 and plain.pop("learning_rate") != 2e-3
    assert own == plain


def test_a_drawn_float_is_rounded_and_stays_in_its_range() -> None:
    assert round_setting(0.00031234567, Range(1e-4, 1e-2)) == 0.00031235
    assert round_setting(0.9999999, Range(0.9, 0.999999)) == 0.999999


@pytest.mark.parametrize(
    "dimension",
    [
        *(Range(0.99999, 0.999999, log) for log in (False, True)),
        *(Range(1e6, 1e6 + 10, log) for log in (False, True)),
        Range(-3.00002, -3.0),
        Range(-1.0, 1.0),
        Range(1e-4, 1e-2, log=True),
    ],
    ids=str,
)
def test_a_range_has_many_values_however_narrow_it_is(dimension: Range) -> None:
    low, high = dimension.low, dimension.high
    values = [low + (high - low) * k / 500 for k in range(501)]
    rounded = [round_setting(value, dimension) for value in values]
    assert len(set(rounded)) == 501 and all(low <= value <= high for value in rounded)
    assert rounded == pytest.approx(values, abs=(high - low) / 500)
