"""The search space: its syntax, and its check against the models of the settings."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import UnionType
from typing import Any

from pgzoo.config import ComponentConfig, Layer, RunConfig, read_yaml
from pgzoo.config.run import UNLOGGED
from pgzoo.config.validation import shorten
from pgzoo.errors import ConfigError, UnfitError, UnknownName, did_you_mean
from pgzoo.registry import PluginCatalog
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import refuse_ignored, refuse_without_effect, resolve
from pgzoo.training.plan import make_policy

__all__ = [
    "Choices",
    "Dimension",
    "Range",
    "Space",
    "check_effects",
    "checked_space",
    "choice_label",
    "configure",
    "parse_search",
    "refuse_fixed",
    "sample",
    "value_of",
]

COMPONENTS = ("estimator", "policy")
"""Settings that choose a component. They are sampled first, because other settings may exist for some choices only."""

NOT_SEARCHED = UNLOGGED | {
    "algorithm",
    "env",
    "seed",
    "env_kwargs",
    "device",
    "threads",
    "compile",
    "backend",
    "init_from",
}
"""Run settings that have one value in a whole study."""

DIGITS = 5
"""Significant digits of a float that was drawn from a range, so that it can be typed; more in a narrow range."""

STEPS = 3
"""A range has at least 10 to this power different values."""

SYNTAX = "KEY=A..B (a range), KEY=log:A..B (a range on a log scale) or KEY=A,B,C (choices)"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log`: uniform on a log scale; `whole`: whole numbers only."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        return f"{'log:' * self.log}{self.low:.12g}..{self.high:.12g}"


@dataclass(frozen=True)
class Choices:
    """A choice of several values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        texts = [choice_label(value) for value in self.values]
        return ("|" if any("," in str(text) for text in texts) else ",").join(map(str, texts))


Dimension = Range | Choices


@dataclass(frozen=True)
class Given:
    """A dimension as the user gave it, not checked yet. `where` says in messages where it was given."""

    dimension: Dimension
    where: str


@dataclass(frozen=True)
class Space:
    """A checked search space.

    `dimensions` are by dotted key, `estimator` and `policy` first. `owners` has for a setting of a component, such as
    `estimator.lam`, the names of those components in the space that have it.
    """

    dimensions: Mapping[str, Dimension]
    owners: Mapping[str, frozenset[str]]

    def applies(self, key: str, chosen: Mapping[str, Any], base: RunConfig) -> bool:
        """Return whether a setting exists, given the components `chosen` so far; others are those of `base`."""
        kind = key.partition(".")[0]
        if key not in self.owners:
            return True
        return chosen.get(kind, getattr(base, kind).name) in self.owners[key]

    def grid(self, base: RunConfig) -> list[dict[str, Any]]:
        """Return every combination of the choices, each once.

        Raises:
            ConfigError: a dimension is a range.
        """
        values: list[tuple[Any, ...]] = []
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Range):
                raise ConfigError(
                    f"--search {key}={dimension}: the sampler grid tries every combination of given values, and this "
                    f"is a range. List the values ({key}=A,B,C), or choose another --sampler."
                )
            values.append(dimension.values)
        found: dict[str, dict[str, Any]] = {}
        for combination in product(*values):
            setting = dict(zip(self.dimensions, combination, strict=True))
            setting = {key: value for key, value in setting.items() if self.applies(key, setting, base)}
            found.setdefault(json.dumps(setting), setting)
        return list(found.values())

    def ranges(self) -> list[str]:
        """Return the keys of the ranges that every trial has, whichever components are chosen."""

        def always(key: str) -> bool:
            chosen = self.dimensions.get(key.partition(".")[0])
            return key not in self.owners or not isinstance(chosen, Choices) or set(chosen.values) <= self.owners[key]

        return [key for key, dimension in self.dimensions.items() if isinstance(dimension, Range) and always(key)]

    def describe(self) -> dict[str, str]:
        """Return the dimensions as text, as they are typed."""
        return {key: str(dimension) for key, dimension in self.dimensions.items()}


def parse_search(search: Sequence[str] | Mapping[str, Any]) -> dict[str, Given]:
    """Read a search space: texts `KEY=SPACE` and names of YAML files, or a mapping of keys to spaces.

    Raises:
        ConfigError: the syntax is wrong, a key is given twice, or nothing is given.
    """
    found: dict[str, Given] = {}

    def add(key: str, value: Any, where: str) -> None:
        name = key.strip().replace("-", "_").removesuffix(".name")
        if name in found:
            raise ConfigError(f"{where}: {name} is given twice, first by {found[name].where}.")
        found[name] = Given(parse_dimension(value, where), where)

    if isinstance(search, Mapping):
        for key, value in search.items():
            add(key, value, f"search {key}")
    else:
        for item in (search,) if isinstance(search, str) else search:
            key, equals, text = item.partition("=")
            if equals and key.strip():
                add(key, text, f"--search {key}")
            elif item.endswith((".yml", ".yaml")):
                layer = read_yaml(item)
                for key, value in layer.values.items():
                    add(key, value, layer.where((key,)))
            else:
                raise ConfigError(f"--search {item}: expected {SYNTAX}, or a YAML file with such lines as `KEY: A..B`.")
    if not found:
        raise ConfigError(f"Nothing to search: give --search with {SYNTAX}.")
    return found


def refuse_fixed(given: Mapping[str, Given], settings: Mapping[str, Any]) -> None:
    """Raise ConfigError if a setting that is searched is among `settings`, those with a value of the user's own."""
    fixed: dict[str, Any] = {}
    for key, value in settings.items():
        parts = value if key in COMPONENTS and isinstance(value, Mapping) else {"name": value}
        fixed |= {key if name == "name" else f"{key}.{name}": part for name, part in parts.items()}
    for key, one in given.items():
        if key in fixed:
            raise ConfigError(f"{one.where}: {key} is searched, and also has the value {fixed[key]}. Give only one.")


def parse_dimension(value: Any, where: str) -> Dimension:
    """Read one dimension: text, a list of choices, or a mapping with low, high and log. Raises ConfigError."""
    if isinstance(value, Mapping):
        if not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
            raise ConfigError(f"{where}: a mapping needs low and high, and may have log; it has {', '.join(value)}.")
        return _range(value["low"], value["high"], bool(value.get("log", False)), where)
    if isinstance(value, str) and ".." in value:
        ends = value.strip().removeprefix("log:").split("..")
        if len(ends) == 2:
            return _range(ends[0], ends[1], value.strip().startswith("log:"), where)
        raise ConfigError(f"{where}: expected a range as A..B, got {value!r}.")
    if isinstance(value, str):
        value = [part.strip() for part in value.split("|" if "|" in value else ",") if part.strip()]
        value = [_listed(part) for part in value]
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: expected {SYNTAX}, got {value!r}.")
    if len(value) < 2:
        raise ConfigError(
            f"{where}: a choice needs two values or more. A setting with one value is not searched; give it by its "
            "own option."
        )
    return Choices(tuple(value))


def _listed(text: str) -> Any:
    """Return the parts of `64,64` as a list, and other text unchanged."""
    return [part.strip() for part in text.split(",") if part.strip()] if "," in text else text


def _range(low: Any, high: Any, log: bool, where: str) -> Range:
    try:
        found = Range(float(low), float(high), log)
    except (TypeError, ValueError, OverflowError):
        ends = f"{shorten(repr(low))} and {shorten(repr(high))}"
        raise ConfigError(f"{where}: the ends of a range must be numbers, got {ends}.") from None
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        raise ConfigError(f"{where}: a range goes from a smaller to a larger finite number, got {found}.")
    if log and found.low <= 0:
        raise ConfigError(f"{where}: a range on a log scale starts above 0, got {found}.")
    return found


def configure(base: RunConfig, setting: Mapping[str, Any], catalog: PluginCatalog, where: str = "") -> RunConfig:
    """Return the config of a trial: `base` with the settings of the trial, by dotted key.

    Raises:
        ConfigError: a setting is unknown or a value is invalid; the message starts with `where`, or the dotted key.
        UnknownName: no component has this name.
    """
    nested: dict[str, Any] = {}
    for key, value in setting.items():
        kind, dot, name = key.partition(".")
        if key in COMPONENTS:
            nested.setdefault(key, {})["name"] = value
        elif dot:
            nested.setdefault(kind, {})[name] = value
        else:
            nested[key] = value
    layer = Layer(nested, lambda path: where or ".".join(path))
    config = resolve([Layer(base.nested(), ".".join), layer], catalog)
    try:
        refuse_ignored(config, catalog.get("algorithm", config.algorithm).load())
    except UnfitError as error:
        raise ConfigError(f"{where or ', '.join(setting)}: {error}") from None
    return config


def checked_space(given: Mapping[str, Given], base: RunConfig, catalog: PluginCatalog) -> Space:
    """Check every choice and both ends of every range against the models of the settings.

    Raises:
        ConfigError: a key is unknown or isn't searched, or a value is invalid; with a line for each mistake.
        UnfitError: a setting of `base` has no effect on its algorithm.
        UnknownName: no component has this name.
    """
    refuse_ignored(base, catalog.get("algorithm", base.algorithm).load())
    errors: list[str] = []
    owners: dict[str, frozenset[str]] = {}
    dimensions: dict[str, Dimension] = {}
    names = {kind: _component_names(kind, given, base) for kind in COMPONENTS}
    models = {kind: {name: _model(kind, name, given, catalog) for name in names[kind]} for kind in COMPONENTS}
    for key in sorted(given, key=lambda key: key not in COMPONENTS):
        kind, dot, name = key.partition(".")
        where = given[key].where
        chosen: list[dict[str, str]] = [{}]
        if key in NOT_SEARCHED or (kind not in COMPONENTS and dot):
            errors.append(f"{where}: {key} has one value in a whole study and can't be searched.")
            continue
        if dot:
            having = [owner for owner, model in models[kind].items() if name in model.model_fields]
            if not having:
                known = {field for model in models[kind].values() for field in model.model_fields}
                errors.append(f"{where}: no setting {name} in {', '.join(names[kind])}.{did_you_mean(name, known)}")
                continue
            owners[key] = frozenset(having)
            chosen = [{kind: owner} for owner in having]
        dimension, annotation = given[key].dimension, _annotation(key, base, models)
        if annotation is not None:  # otherwise the probe names the key that is meant
            dimension = _typed(dimension, annotation, key, where, errors)
        configs = list(_probes(key, dimension, chosen, base, catalog, where, errors))
        if isinstance(dimension, Choices) and len(configs) == len(dimension.values) * len(chosen):
            values = tuple(value_of(config, key) for config in configs[: len(dimension.values)])
            if len({json.dumps(value) for value in values}) < len(values):
                errors.append(f"{where}: a value is given twice.")
            dimension = Choices(values)
        dimensions[key] = dimension
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    return Space(dimensions, owners)


def check_effects(space: Space, base: RunConfig, catalog: PluginCatalog) -> None:
    """Check that each setting of the policy that is searched or given has an effect in some trial.

    The policies that are tried differ from that of `base` in one searched setting.

    Raises:
        EnvError: the environment can't be made.
        UnfitError: a setting would have no effect.
    """
    searched = [key for key in space.dimensions if key.partition(".")[0] == "policy"]
    names = base.asked | {key.partition(".")[2] for key in searched if key != "policy"}
    if not names:
        return
    try:
        plan = make_plan(base, catalog, resumed=True)
    except UnfitError:  # other policies of the space may fit
        return
    configs = [plan.config]
    for key in searched:
        dimension = space.dimensions[key]
        values = dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
        owners = space.owners.get(key, ()) if "policy" in space.dimensions else ()
        chosen = [{"policy": owner} for owner in sorted(owners)] or [{}]
        configs += [configure(plan.config, {**one, key: value}, catalog) for one in chosen for value in values]
    policies = []
    for config in configs:
        factory = catalog.get("policy", config.policy.name).load()
        try:
            policy = make_policy(factory, config.policy.settings, plan.spec, plan.needs, normalize_obs=False)
        except UnfitError:  # the trial will say why
            continue
        policies.append((config.policy, policy))
    refuse_without_effect(policies, names)


def _component_names(kind: str, given: Mapping[str, Given], base: RunConfig) -> list[str]:
    dimension = given[kind].dimension if kind in given else None
    if isinstance(dimension, Range):
        raise ConfigError(f"{given[kind].where}: a range needs a setting that is a number; list the names instead.")
    return list(map(str, dimension.values)) if dimension else [getattr(base, kind).name]


def _model(kind: str, name: str, given: Mapping[str, Given], catalog: PluginCatalog) -> type[Any]:
    try:
        return catalog.get(typing.cast(Any, kind), name).load_config() or ComponentConfig
    except UnknownName as error:
        raise UnknownName(f"{given[kind].where}: {error}" if kind in given else str(error)) from None


def _annotation(key: str, base: RunConfig, models: Mapping[str, Mapping[str, type[Any]]]) -> Any:
    """Return the type of a setting; None if there is no setting of that name."""
    kind, dot, name = key.partition(".")
    candidates = models[kind].values() if dot else (type(base), type(base.settings))
    fields = (model.model_fields.get(name if dot else key) for model in candidates)
    return next((field.annotation for field in fields if field is not None), None)


def _typed(dimension: Dimension, annotation: Any, key: str, where: str, errors: list[str]) -> Dimension:
    """Return the dimension of a setting of this type. Add an error for a range if the setting isn't a number.

    A range of a whole number is marked as `whole`. Where the setting is a list, a single value is a list of one.
    """
    if isinstance(dimension, Choices):
        if not _may_be_list(annotation):
            return dimension
        none = (None, "none") if typing.get_origin(annotation) is not tuple else ()
        return Choices(tuple(v if isinstance(v, list | tuple) or v in none else [v] for v in dimension.values))
    kinds = set(_scalar_types(annotation))
    if not kinds & {int, float} or bool in kinds:
        errors.append(f"{where}: a range needs a setting that is a number; list the values instead.")
    whole = int in kinds and float not in kinds
    if whole and not (dimension.low.is_integer() and dimension.high.is_integer()):
        errors.append(f"{where}: {key} is a whole number, and the ends of its range must be, too (got {dimension}).")
    return replace(dimension, whole=whole)


def _may_be_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Annotated, typing.Union, UnionType):
        return any(map(_may_be_list, typing.get_args(annotation)))
    return origin is tuple


def _scalar_types(annotation: Any) -> Iterator[type]:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        yield from _scalar_types(arguments[0])
    elif arguments and not isinstance(annotation, type) and typing.get_origin(annotation) not in (tuple, dict, list):
        for argument in arguments:
            yield from _scalar_types(argument)
    elif isinstance(annotation, type):
        yield annotation


def _probes(
    key: str,
    dimension: Dimension,
    chosen: Sequence[Mapping[str, str]],
    base: RunConfig,
    catalog: PluginCatalog,
    where: str,
    errors: list[str],
) -> Iterator[RunConfig]:
    """Yield the config of each value of a dimension (of a range: its ends), for each choice of a component.

    The errors of those that are invalid are added to `errors`.
    """
    values = dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
    for components in chosen:
        for value in values:
            try:
                yield configure(base, {**components, key: value}, catalog, where)
            except ConfigError as error:
                errors += str(error).splitlines()


def value_of(config: RunConfig, key: str) -> Any:
    """Return the value of a setting by its dotted key, as in a settings file; None if that has no such key."""
    kind, dot, name = key.partition(".")
    nested = config.nested()
    if key in COMPONENTS:
        return nested[key]["name"]
    return (nested[kind] if dot else nested).get(name if dot else key)  # a default of None is left out


def choice_label(value: Any) -> Any:
    """Return a value as a category of Optuna, which takes None, numbers and text: `64,64` for a list."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def round_setting(value: float, dimension: Range) -> float:
    """Return a float of a range with few significant digits, within the range."""
    width = abs(value) * math.log(dimension.high / dimension.low) if dimension.log else dimension.high - dimension.low
    digits = min(17, max(DIGITS, STEPS + math.ceil(math.log10(abs(value) / width)))) if value else DIGITS
    return min(max(float(f"{value:.{digits}g}"), dimension.low), dimension.high)


def sample(space: Space, base: RunConfig, suggest: Callable[[str, Dimension], Any]) -> dict[str, Any]:
    """Return the settings of a trial, by dotted key; `suggest` draws the value of a dimension.

    Settings that the drawn components don't have are left out.
    """
    setting: dict[str, Any] = {}
    for key, dimension in space.dimensions.items():
        if space.applies(key, setting, base):
            setting[key] = suggest(key, dimension)
    return setting
