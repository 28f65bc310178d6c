"""Resolving settings: precedence, error messages, round trips through JSON and YAML, and renamed settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pgzoo
from pgzoo.algorithms.ppo import PPOConfig
from pgzoo.cli.options import given_settings, option_of, options
from pgzoo.config import AlgorithmConfig, ComponentConfig, Layer, RunConfig, read_yaml
from pgzoo.config.renaming import _warn_once, with_current_names
from pgzoo.errors import ConfigError, PluginError, UnfitError, UnknownName
from pgzoo.registry import PluginCatalog, PluginInfo, Registry
from pgzoo.runs.resolve import compose, resolve
from pgzoo.types import Steps

Resolve = Callable[..., RunConfig]
BASE = {"algorithm": "reinforce", "env": "CartPole-v1"}


@pytest.fixture
def laid(catalog: PluginCatalog) -> Resolve:
    """Return `laid(lowest, ..., highest)`, which resolves layers on top of the settings that every run needs."""
    return lambda *layers: resolve([Layer(layer, ".".join) for layer in (BASE, *layers)], catalog)


def refusal(call: Callable[[], Any], kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# precedence


def test_each_layer_wins_over_those_below(laid: Resolve) -> None:
    assert laid().num_envs == 24  # the default of the algorithm
    assert laid({"num_envs": 3}).num_envs == 3
    assert laid({"num_envs": 3, "gamma": 0.5}, {"num_envs": 4}).num_envs == 4
    assert laid({"num_envs": 3, "gamma": 0.5}, {"num_envs": 4}).gamma == 0.5


def test_options_override_the_file_which_overrides_preset_and_defaults(catalog: PluginCatalog, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("env: CartPole-v1\nlearning_rate: 0.5\ngamma: 0.7\n")
    options = Layer({"algorithm": "reinforce", "gamma": 0.3}, ".".join)
    config = compose(options, catalog, preset="notebook", file=str(file))
    assert config.gamma == 0.3  # option over file over preset
    assert config.settings.learning_rate == 0.5  # file over preset
    assert config.num_envs == 1 and config.estimator.name == "notebook"  # preset over the algorithm's defaults
    assert config.log_every == 1000  # pgzoo's default


def test_an_option_overrides_the_preset_of_a_file(catalog: PluginCatalog, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("algorithm: reinforce\nenv: CartPole-v1\npreset: notebook\n")
    assert compose(Layer({}, ".".join), catalog, file=str(file)).eval_episodes == 1000
    assert compose(Layer({}, ".".join), catalog, file=str(file), preset="none").eval_episodes == 100


def test_tags_that_pgzoo_sets_are_refused_and_those_in_a_file_are_not_taken_over(
    catalog: PluginCatalog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("tags:\n  pgzoo.study: s\n  a: b\n")  # as in the config.yaml of a trial
    assert compose(Layer(BASE, ".".join), catalog, file=str(file)).tags == {"a": "b"}
    assert f"{file}, line 1: tags: not taken over, because pgzoo sets them itself: pgzoo.study" in caplog.messages
    for key in ("pgzoo.kind", "mlflow.runName"):
        tags = Layer({**BASE, "tags": {"a": "b", key: "x"}}, ".".join)
        assert refusal(lambda tags=tags: compose(tags, catalog)).startswith(f"tags {key}: pgzoo sets this tag itself;")
    allowed = {"pgzoo": "x", "mlflow.user": "me"}
    assert compose(Layer({**BASE, "tags": allowed}, ".".join), catalog).tags == allowed


def test_mappings_are_merged_key_by_key(laid: Resolve) -> None:
    config = laid({"env_kwargs": {"a": 1, "b": 2}, "tags": {"x": "1"}}, {"env_kwargs": {"b": 3}})
    assert config.env_kwargs == {"a": 1, "b": 3} and config.tags == {"x": "1"}


def test_total_steps_and_total_episodes_of_lower_layers_are_replaced(laid: Resolve) -> None:
    assert laid().total_steps is not None and laid().total_episodes is None
    config = laid({"total_episodes": 5})
    assert (config.total_steps, config.total_episodes) == (None, 5)
    config = laid({"total_episodes": 5}, {"total_steps": 7})
    assert (config.total_steps, config.total_episodes) == (7, None)
    config = laid({"total_episodes": 5, "total_steps": 7})
    assert (config.total_steps, config.total_episodes) == (7, 5)


# components


@pytest.mark.parametrize("form", ["mlp", {"name": "mlp"}])
def test_a_component_is_a_name_or_a_mapping(laid: Resolve, form: Any) -> None:
    assert laid({"policy": form}).policy.name == "mlp"


def test_settings_of_the_same_component_are_merged_across_layers(laid: Resolve) -> None:
    config = laid({"policy": {"name": "mlp", "hidden": [3]}}, {"policy": {"activation": "elu"}}, {"policy": "mlp"})
    policy: Any = config.policy.settings
    assert policy.hidden == (3,) and policy.activation == "elu"


def test_changing_a_component_drops_the_settings_of_the_previous_one(catalog: PluginCatalog) -> None:
    registry = Registry(PluginInfo("other", "entry point", "other", "zoo-other", "1.0"))
    registry.policy("plain", object)
    mixed = PluginCatalog(list(catalog.plugins), dict(catalog.objects), dict(catalog._entries))
    mixed.add(registry.plugin, object(), registry.entries.values())
    layers = [Layer(layer, ".".join) for layer in (BASE, {"policy": {"hidden": [3]}}, {"policy": "plain"})]
    assert resolve(layers, mixed).policy.nested() == {"name": "plain"}


@pytest.mark.parametrize("form", [3, ["mlp"], True])
def test_a_component_that_is_neither_a_name_nor_a_mapping_is_refused(laid: Resolve, form: Any) -> None:
    assert refusal(lambda: laid({"policy": form})) == f"policy is a name or a mapping with a name, not {form!r}."


# seeds


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ({"seeds": 3}, (0, 1, 2)),
        ({"seeds": "3"}, (0, 1, 2)),
        ({"seeds": "3,5,8"}, (3, 5, 8)),
        ({"seeds": "3,"}, (3,)),
        ({"seeds": [3, 5]}, (3, 5)),
        ({"seeds": (4,)}, (4,)),
        ({"seed": 7}, (7,)),
        ({}, (0,)),
    ],
)
def test_seeds_are_a_count_or_a_list(laid: Resolve, given: Any, seeds: tuple[int, ...]) -> None:
    assert laid(given).seeds == seeds


@pytest.mark.parametrize("seeds", [0, -1, "x", "1,x", [], [1, 1], [-1], 2.5, True, "1,1", [0, 2**63]])
def test_invalid_seeds_are_refused(laid: Resolve, seeds: Any) -> None:
    assert refusal(lambda: laid({"seeds": seeds})).startswith("seeds")


def test_the_largest_seed_is_the_largest_number_that_a_record_may_have(laid: Resolve) -> None:
    assert laid({"seed": 2**63 - 1}).seeds == (2**63 - 1,)
    assert "seed: a seed may be at most 9223372036854775807" in refusal(lambda: laid({"seed": 2**63}))


def test_seed_and_seeds_cannot_be_combined_in_one_layer(laid: Resolve) -> None:
    assert refusal(lambda: laid({"seed": 3, "seeds": 10})) == "seed: seed and seeds can't be combined."
    assert laid({"seeds": 10}, {"seed": 3}).seeds == (3,)


@pytest.mark.parametrize("seed", [-4, "x", None])
def test_the_error_for_an_invalid_seed_names_the_setting_seed(laid: Resolve, seed: Any) -> None:
    assert refusal(lambda: laid({"seed": seed})).startswith("seed: ")


# mistakes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rat": 1}, 'learning_rat: no setting of that name. Did you mean "learning_rate"?'),
        ({"policy": {"hiden": [1]}}, 'policy.hiden: policy "mlp" has no setting of that name. Did you mean "hidden"?'),
        ({"estimator": {"lam": 1}}, 'estimator.lam: estimator "reward-to-go" has no setting of that name.'),
        ({"gamma": 2}, "gamma: "),
        ({"learning_rate": "fast"}, "learning_rate: "),
        ({"learning_rate": float("nan")}, "learning_rate: "),
        ({"learning_rate": 0}, "learning_rate: "),
        ({"num_envs": 0}, "num_envs: "),
        ({"num_envs": 1.5}, "num_envs: "),
        ({"total_steps": -5}, "total_steps: "),
        ({"policy": {"hidden": [0]}}, "policy.hidden: "),
        ({"policy": {"activation": "tanhh"}}, "policy.activation: "),
        ({"baseline": "median"}, "baseline: "),
        ({"env": None}, "env: "),
        ({"tags": {"a": 1}}, "tags: "),
        ({"total_steps": None}, "the run has no end"),
    ],
    ids=str,
)
def test_an_invalid_setting_raises_a_one_line_error_that_describes_it(laid: Resolve, given: Any, said: str) -> None:
    message = refusal(lambda: laid(given))
    assert said in message and "\n" not in message and "pydantic" not in message


def test_all_invalid_settings_are_reported_at_once(laid: Resolve) -> None:
    message = refusal(lambda: laid({"gamma": 2, "num_env": 3, "policy": {"init": "x"}, "baseline": 1}))
    assert [line.partition(":")[0] for line in sorted(message.split("\n"))] == [
        "baseline",
        "gamma",
        "num_env",
        "policy.init",
    ]


def test_an_unknown_name_is_an_error_that_suggests_the_nearest_name(laid: Resolve) -> None:
    assert 'Did you mean "reinforce"' in refusal(lambda: laid({"algorithm": "reinfroce"}), UnknownName)
    assert 'Did you mean "mlp"' in refusal(lambda: laid({"policy": "mpl"}), UnknownName)
    assert 'Did you mean "notebook"' in refusal(lambda: laid({"estimator": "notebok"}), UnknownName)
    assert 'Did you mean "sync"' in refusal(lambda: laid({"backend": "synk"}), UnknownName)


def test_a_missing_algorithm_or_environment_is_reported(catalog: PluginCatalog) -> None:
    assert "pgzoo run ALGO --env ID" in refusal(lambda: resolve([Layer({"env": "CartPole-v1"}, ".".join)], catalog))
    assert refusal(lambda: resolve([Layer({"algorithm": "reinforce"}, ".".join)], catalog)).startswith("env is missing")


def test_an_algorithm_that_redefines_a_run_setting_is_refused(catalog: PluginCatalog) -> None:
    from pgzoo.config import AlgorithmConfig

    class Greedy(AlgorithmConfig):
        gamma: float = 0.5

    class Algorithm:
        collect, estimator = Steps(8), "reward-to-go"

    registry = Registry(PluginInfo("greedy", "entry point", "greedy", "zoo-greedy", "2.0"))
    registry.algorithm("greedy", Algorithm, config=Greedy)
    mixed = PluginCatalog(list(catalog.plugins), dict(catalog.objects), dict(catalog._entries))
    mixed.add(registry.plugin, object(), registry.entries.values())
    message = refusal(lambda: resolve([Layer({"algorithm": "greedy", "env": "x"}, ".".join)], mixed))
    assert message.startswith('Algorithm "greedy" of plugin "greedy" (zoo-greedy 2.0) has a setting named gamma')


@pytest.mark.parametrize("attributes", [{"estimator": len}, {"estimator": "gae", "defaults": ["num_envs"]}])
def test_an_algorithm_with_an_estimator_or_defaults_of_another_type_is_refused(
    attributes: dict[str, Any], catalog: PluginCatalog
) -> None:
    registry, own = Registry(PluginInfo("typo", "import", "typo")), catalog.copy()
    registry.algorithm("typo", type("Typo", (), attributes))
    own.add(registry.plugin, object(), registry.entries.values())
    name, value = list(attributes.items())[-1]
    message = refusal(lambda: resolve([Layer({"algorithm": "typo", "env": "x"}, ".".join)], own))
    assert message.startswith(f'Algorithm "typo" of plugin "typo" (typo) has {name} = {value!r}; expected ')


class WrongDefault(AlgorithmConfig):
    c: float = "abc"  # type: ignore[assignment]


class WrongPolicyDefault(ComponentConfig):
    size: int = -1.5  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("defaults", "config", "said"),
    [
        ({"total_step": 5000}, AlgorithmConfig, 'total_step: no setting of that name. Did you mean "total_steps"?'),
        ({"learning_rate": -1}, AlgorithmConfig, "learning_rate: must be greater than 0 (got -1)"),
        ({"policy": {"name": "mlp", "hiden": 1}}, AlgorithmConfig, 'policy.hiden: policy "mlp" has no setting of'),
        ({}, WrongDefault, "c: must be a valid number (got 'abc')"),
    ],
)
def test_a_message_about_the_defaults_of_an_algorithm_names_the_algorithm_and_the_setting(
    defaults: dict[str, Any], config: type[AlgorithmConfig], said: str, catalog: PluginCatalog
) -> None:
    registry, own = Registry(PluginInfo("typo", "import", "typo")), catalog.copy()
    registry.algorithm("typo", type("Typo", (), {"estimator": "gae", "defaults": defaults}), config=config)
    own.add(registry.plugin, object(), registry.entries.values())
    message = refusal(lambda: resolve([Layer({"algorithm": "typo", "env": "x"}, ".".join)], own))
    assert message.startswith(f'default of algorithm "typo", {said}')


def test_a_message_about_the_default_of_a_policys_setting_names_the_policy(catalog: PluginCatalog) -> None:
    registry, own = Registry(PluginInfo("typo", "import", "typo")), catalog.copy()
    registry.policy("typo", object(), config=WrongPolicyDefault)
    own.add(registry.plugin, object(), registry.entries.values())
    message = refusal(lambda: resolve([Layer({**BASE, "policy": "typo"}, ".".join)], own))
    assert message.startswith('default of policy "typo", size: must be a valid integer')


# files


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: [1, 2\n", 3, "not valid YAML"),
        ("a: 1\n\nb: 2\na: 3\n", 4, "a is given twice"),
        ("policy:\n  name: mlp\n  name: mlp\n", 3, "policy.name is given twice"),
        ("- a\n- b\n", 1, "expected settings"),
        ("just words\n", 1, "expected settings"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
    ],
)
def test_the_error_for_an_invalid_file_names_the_line(written: Any, text: str, line: int, said: str) -> None:
    file = written(text)
    message = refusal(lambda: read_yaml(file))
    assert message.startswith(f"{file}, line {line}: ") and said in message


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("gamma: 2\n", 1, "gamma"),
        ("# settings\n\nlearning_rat: 1\n", 3, "learning_rat"),
        ("gamma: 0.9\npolicy:\n  name: mlp\n  hidden: wide\n", 4, "policy.hidden"),
        ("gamma: 0.9\npolicy: {name: mlp, wdth: 3}\n", 2, "policy.wdth"),
        ("num_envs: many\n", 1, "num_envs"),
        ("gamma: 0.9\nseed: -4\n", 2, "seed"),
    ],
)
def test_the_error_for_an_invalid_setting_in_a_file_names_its_line(
    catalog: PluginCatalog, written: Any, text: str, line: int, key: str
) -> None:
    file = written(text)
    message = refusal(lambda: resolve([Layer(BASE, ".".join), read_yaml(file)], catalog))
    assert message.startswith(f"{file}, line {line}: {key}")


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(lambda: read_yaml(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    assert "not UTF-8 text" in refusal(lambda: read_yaml(tmp_path / "binary.yaml"))


def test_a_file_without_settings_is_an_empty_layer(written: Any) -> None:
    assert read_yaml(written("# nothing yet\n")).values == {}


def test_numbers_that_yaml_reads_as_strings_become_numbers(catalog: PluginCatalog, written: Any) -> None:
    config = resolve([Layer(BASE, ".".join), read_yaml(written("learning_rate: 1e-3\n"))], catalog)
    assert config.settings.learning_rate == 1e-3


# round trips


run_settings = st.fixed_dictionaries(
    {},
    optional={
        "seeds": st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
        "total_steps": st.integers(1, 10**9),
        "total_episodes": st.one_of(st.none(), st.integers(1, 10**6)),
        "num_envs": st.integers(1, 64),
        "gamma": st.floats(0, 1),
        "learning_rate": st.floats(1e-9, 10),
        "max_grad_norm": st.one_of(st.none(), st.floats(1e-3, 10)),
        "baseline": st.sampled_from(["none", "mean"]),
        "env_kwargs": st.dictionaries(st.sampled_from(["a", "b"]), st.one_of(st.integers(), st.text(), st.booleans())),
        "tags": st.dictionaries(st.text(min_size=1), st.text()),
        "stop_at": st.one_of(st.none(), st.floats(-1e6, 1e6)),
        "policy": st.fixed_dictionaries(
            {"name": st.just("mlp")},
            optional={"hidden": st.lists(st.integers(1, 9), max_size=3), "log_std": st.floats(-3, 3)},
        ),
        "estimator": st.sampled_from(["reward-to-go", "total-return", "notebook"]),
    },
)


@given(chosen=run_settings)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_config_survives_a_round_trip_through_json_and_yaml(
    laid: Resolve, catalog: PluginCatalog, chosen: dict[str, Any]
) -> None:
    config = laid(chosen)
    for text, read in ((json.dumps(config.nested()), json.loads), (yaml.safe_dump(config.nested()), yaml.safe_load)):
        again = resolve([Layer(read(text), ".".join)], catalog)
        assert again == config
        assert again.setting_hash() == config.setting_hash() and again.flat() == config.flat()


def test_a_none_that_replaces_a_default_survives_a_round_trip(laid: Resolve, catalog: PluginCatalog) -> None:
    default, without = (laid({"algorithm": "picky", **extra}) for extra in ({}, {"max_grad_norm": None}))
    assert default.settings.max_grad_norm == 0.5 and without.settings.max_grad_norm is None
    assert resolve([Layer(without.nested(), ".".join)], catalog) == without
    assert without.setting_hash() != default.setting_hash()


def test_the_setting_hash_ignores_seeds_and_labels(laid: Resolve) -> None:
    labels = {"seeds": 5, "name": "x", "tags": {"a": "b"}, "experiment": "e", "tracking_uri": "sqlite:///x.db"}
    assert laid(labels).setting_hash() == laid().setting_hash()
    for change in ({"gamma": 0.5}, {"policy": {"hidden": [3]}}, {"estimator": "notebook"}, {"baseline": "none"}):
        assert laid(change).setting_hash() != laid().setting_hash()


def test_explicit_defaults_do_not_change_the_setting_hash(laid: Resolve) -> None:
    said = [{"stop_at": None}, {"gamma": laid().gamma}, {"policy": {"name": "mlp"}}, {"seed": 3}]
    assert {laid(each).setting_hash() for each in said} == {laid().setting_hash()}


def test_flat_settings_have_dotted_names_and_string_values(laid: Resolve) -> None:
    flat = laid({"policy": {"hidden": [64, 32]}, "env_kwargs": {"x": {"y": 1}}, "gamma": 0.5}).flat()
    assert flat["policy.name"] == "mlp" and flat["policy.hidden"] == "64,32" and flat["gamma"] == "0.5"
    assert flat["env_kwargs.x.y"] == "1" and flat["algorithm"] == "reinforce" and flat["baseline"] == "mean"
    assert "seeds" not in flat and "tracking_uri" not in flat and "stop_at" not in flat
    assert all(isinstance(value, str) for value in flat.values())


def test_a_config_is_frozen(laid: Resolve) -> None:
    with pytest.raises(ValueError, match="frozen"):
        laid().gamma = 0.5


# former names


class Shaped(ComponentConfig):
    """Settings of an estimator, one of which was renamed."""

    renamed: ClassVar[Mapping[str, str]] = {"lambda_": "lam"}
    lam: float = 0.5


@pytest.fixture
def former(catalog: PluginCatalog) -> PluginCatalog:
    registry = Registry(PluginInfo("shaped", "import", "shaped"))
    registry.estimator("shaped", "pgzoo.ops.returns:reward_to_go", config=Shaped)
    own = replace(catalog, plugins=[*catalog.plugins], objects={**catalog.objects}, _entries={**catalog._entries})
    own.add(registry.plugin, registry, registry.entries.values())
    _warn_once.cache_clear()
    return own


@pytest.mark.parametrize("source", ["Python", "YAML", "command line"])
def test_a_former_name_is_accepted_with_a_warning_that_says_where_it_is_given(
    former: PluginCatalog, source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"algorithm": "ppo", "env": "CartPole-v1", "kl_aim": 0.25, "estimator": {"name": "shaped", "lambda_": 0.75}}
    layer, places = Layer(given, ".".join), ("kl_aim", "estimator.lambda_")
    if source == "YAML":
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(given))
        layer, places = read_yaml(file), (f"{file}, line 6: kl_aim", f"{file}, line 4: estimator.lambda_")
    elif source == "command line":
        made = [
            *options(PPOConfig, group="", defaults={}),
            *options(Shaped, group="", prefix=("estimator",), defaults={}),
        ]
        words = ["--kl-aim", "0.25", "--estimator.lambda-", "0.75"]
        ctx = click.Command("run", params=made).make_context("run", words)
        layer = Layer({**given, **given_settings(ctx), "estimator": given["estimator"]}, option_of(ctx))
        places = ("--kl-aim", "--estimator.lambda-")
        assert "kl-aim" not in click.Command("run", params=made).get_help(ctx)
    config = resolve([layer], former)
    assert isinstance(config.settings, PPOConfig) and isinstance(config.estimator.settings, Shaped)
    assert config.settings.adaptive_kl_target == 0.25 and config.estimator.settings.lam == 0.75
    for place, name in zip(places, ("adaptive_kl_target", "lam"), strict=True):
        assert f'{place}: this setting is now called "{name}"' in caplog.text


def test_a_higher_layer_wins_whichever_name_it_uses(former: PluginCatalog) -> None:
    layers = [{"algorithm": "ppo", "env": "x", "kl_aim": 0.5}, {"adaptive_kl_target": 0.25}]
    for lower, higher, value in ((*layers, 0.25), (*layers[::-1], 0.5)):
        config = resolve([Layer(lower, ".".join), Layer(higher, ".".join)], former)
        assert config.settings.model_dump()["adaptive_kl_target"] == value


def test_a_setting_given_by_its_former_and_current_name_is_refused(former: PluginCatalog) -> None:
    both = Layer({"algorithm": "ppo", "env": "x", "kl_aim": 0.5, "adaptive_kl_target": 0.5}, ".".join)
    assert refusal(lambda: resolve([both], former)).startswith(
        'kl_aim: this is the former name of "adaptive_kl_target"'
    )


def test_the_error_for_a_value_given_by_a_former_name_uses_that_name(former: PluginCatalog) -> None:
    wrong = Layer({"algorithm": "ppo", "env": "x", "kl_aim": -1}, ".".join)
    assert refusal(lambda: resolve([wrong], former)) == "kl_aim: must be greater than 0 (got -1)"


def test_a_sweep_axis_may_use_a_former_name() -> None:
    layer = Layer({"sweep_axis": {"lambda_": (1.0, 2.0)}}, ".".join)
    assert with_current_names(layer, [Shaped]).values == {"sweep_axis": {"lam": (1.0, 2.0)}}


class Stub:
    """A policy of a plugin, with a setting that has no effect."""

    noise, noise_size, without_effect = "uniform", 1, {"temperature": "never samples"}

    def __init__(self, config: Any, spec: Any, needs: Any) -> None:
        self.to_env = lambda actions: actions

    def init(self, rng: Any) -> dict[str, Any]:
        return {}

    def apply(self, params: Any, inputs: Any) -> Any: ...

    class config(ComponentConfig):  # noqa: N801
        temperature: float = 1.0


@pytest.mark.parametrize(
    ("algorithm", "policy", "told"),
    [
        (
            "ppo",
            {"log_std": -1},
            '--policy.log-std .*: policy "mlp" has a categorical distribution, which has no standard',
        ),
        ("ppo", {"rescale": True}, "--policy.rescale .* has no actions to rescale"),
        (
            "ppo",
            {"name": "gru", "sde_sample_freq": 2},
            '--policy.sde-sample-freq .*: policy "gru" doesn\'t explore by gSDE',
        ),
        ("ppo", {"critic": "shared", "critic_hidden": [8]}, "--policy.critic-hidden .* shares the policy's layers"),
        ("reinforce", {"critic_hidden": [8]}, "--policy.critic-hidden .* has no critic in this run"),
        ("reinforce", {"name": "simba", "critic_blocks": 1}, "--policy.critic-blocks .* has no critic"),
        ("reinforce", {"name": Stub, "temperature": 2.0}, "--policy.temperature .* never samples"),
    ],
)
def test_given_settings_of_the_policy_without_effect_are_refused(
    algorithm: str, policy: dict[str, Any], told: str
) -> None:
    for normalize_obs in (False, True):
        with pytest.raises(UnfitError, match=f"{told}.*Remove it"):
            pgzoo.plan(algorithm, env="CartPole-v1", policy=policy, normalize_obs=normalize_obs)


def test_settings_of_the_policy_without_effect_are_accepted_from_files_and_as_defaults(tmp_path: Path) -> None:
    file = tmp_path / "best.yml"
    file.write_text("policy: {log_std: -1, sde_sample_freq: 8, rescale: true}\n")
    for how in ({"config": file}, {"preset": file}, {"policy": {"log_std": 0.0, "rescale": False}}):
        assert pgzoo.plan("ppo", env="CartPole-v1", **how).config.asked <= {"log_std", "rescale"}
    plan = pgzoo.plan("ppo", env="Pendulum-v1", policy={"log_std": -1.0, "rescale": True, "distribution": "gaussian"})
    assert plan.config.asked == {"log_std", "rescale", "distribution"}
    pgzoo.plan("ppo", env="Pendulum-v1", policy={"distribution": "tanh", "rescale": True})  # tanh rescales anyway
    assert pgzoo.plan("ars", env="CartPole-v1").config.policy.settings.log_std == -5


def test_a_policy_with_an_unknown_kind_of_noise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its actions would be drawn from another distribution than its log-probabilities are of."""
    monkeypatch.setattr(Stub, "noise", "gaussian")
    said = "its attribute noise is 'gaussian'; it must be one of uniform, normal, logistic"
    with pytest.raises(PluginError, match=said):
        pgzoo.plan("reinforce", env="CartPole-v1", preset="none", policy={"name": Stub})
