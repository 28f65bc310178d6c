"""Merge layers of settings and validate them: the only way to a `RunConfig`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pgzoo.config import AlgorithmConfig, Component, Layer, RunConfig, SearchConfig, read_yaml
from pgzoo.config.aliases import setting_hint
from pgzoo.config.renaming import with_current_names
from pgzoo.config.run import MERGED, RESERVED, RUN_KEYS, WRAPPER, overridden
from pgzoo.config.sweep import grid, sweepable
from pgzoo.config.validation import shorten, validate
from pgzoo.envs.wrappers import import_wrappers
from pgzoo.errors import ConfigError, UnfitError, did_you_mean
from pgzoo.registry import Entry, PluginCatalog
from pgzoo.registry.components import component, component_values, look_up
from pgzoo.registry.files import make_importable
from pgzoo.runs.presets import preset_layer

__all__ = ["check_algorithm", "compose", "refuse_ignored", "refuse_without_effect", "resolve"]

_log = logging.getLogger("pgzoo")

RUN_NAME = "mlflow.runName"
"""The tag by which MLflow renames a run."""


def compose(
    given: Layer,
    catalog: PluginCatalog,
    *,
    preset: str | Path = "auto",
    file: str | Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> RunConfig:
    """Resolve what the user gave: options over the settings file, over the preset, over the defaults.

    `preset` is a name, a YAML file (of settings, or of RL Zoo's hyperparameters), "none", or "auto": the preset that a
    plugin recommends for this algorithm and environment. If `preset` is "auto", a preset named in the file is used.

    If that preset was found by "auto", `report` is called with a line that names it and its settings.

    Raises:
        ConfigError, UnknownName: as `resolve`; also for a preset of another algorithm or environment, and for a tag in
            `given` that pgzoo sets itself.
        UsageError: the module of a wrapper in `given` can't be imported. Those in the file are not imported.
    """
    wrappers = given.values.get("wrappers")
    wrappers = (wrappers,) if isinstance(wrappers, str) else wrappers
    if isinstance(wrappers, list | tuple):
        make_importable(Path.cwd())
        import_wrappers(name for name in wrappers if isinstance(name, str) and WRAPPER.fullmatch(name))
    _check_tags(given)
    if not isinstance(file, str | Path | None):
        raise ConfigError(f"config: expected a YAML file, not {file!r:.60}.")
    layers = [_without_own_tags(read_yaml(file)), given] if file else [given]
    if "preset" in layers[0].values and file:
        values = dict(layers[0].values)
        named = values.pop("preset")
        layers[0] = Layer(values, layers[0].where)
        preset = str(named) if preset == "auto" else preset
    merged = {key: value for layer in layers for key, value in layer.values.items()}
    if found := preset_layer(preset, catalog, merged.get("algorithm"), merged.get("env")):
        if found.notice:
            _log.warning("%s", found.notice)
        if preset == "auto":
            report(f"Preset    {found.name}; without it: --preset none")
        layers.insert(0, _without_own_tags(found.layer))
    return resolve(layers, catalog).asking(component_values(given.values, "policy").keys() - {"name"})


def _own_tags(layer: Layer) -> list[str]:
    """Return the tags of a layer that only pgzoo may set: with others, commands would not find or misread the run."""
    tags = layer.values.get("tags")
    keys = tags if isinstance(tags, Mapping) else ()
    return [key for key in keys if isinstance(key, str) and (key.startswith("pgzoo.") or key == RUN_NAME)]


def _check_tags(given: Layer) -> None:
    """Raise ConfigError if the user gives a tag that only pgzoo may set."""
    if own := _own_tags(given):
        advice = "use --name for the name of a run" if own[0] == RUN_NAME else "choose another key"
        raise ConfigError(f"{given.where(('tags',))} {own[0]}: pgzoo sets this tag itself; {advice}.")


def _without_own_tags(layer: Layer) -> Layer:
    """Return a file's settings without the tags that only pgzoo may set; the file of a trial has those of its study."""
    own = _own_tags(layer)
    if not own:
        return layer
    _log.warning("%s: not taken over, because pgzoo sets them itself: %s", layer.where(("tags",)), ", ".join(own))
    tags = {key: value for key, value in layer.values["tags"].items() if key not in own}
    return Layer({**layer.values, "tags": tags}, layer.where)


def resolve(layers: Sequence[Layer], catalog: PluginCatalog) -> RunConfig:
    """Merge `layers` over the defaults and validate the result; a later layer has precedence over an earlier one.

    Raises:
        UnknownName: no such algorithm, policy, estimator or backend.
        ConfigError: an unknown key or an invalid value. The message has a line for each, with where it was given.
    """
    named = next((layer for layer in reversed(layers) if "algorithm" in layer.values), None)
    algorithm = named.values["algorithm"] if named else None
    if named is None or not isinstance(algorithm, str):
        raise ConfigError("No algorithm is given. Name one: pgzoo run ALGO --env ID. See: pgzoo algorithms")
    entry = look_up(catalog, "algorithm", algorithm, named.where(("algorithm",)))
    target, settings_model = entry.load(), entry.load_config() or AlgorithmConfig
    check_algorithm(entry, settings_model)
    defaults = {"estimator": target.estimator, "policy": "mlp", **getattr(target, "defaults", {})}
    owner = f'default of algorithm "{entry.name}"'
    layers = [Layer(defaults, lambda path: f"{owner}, {'.'.join(path)}"), *layers]
    layers = [with_current_names(layer, (RunConfig, settings_model)) for layer in layers]

    errors: list[str] = []
    components = {kind: component(kind, layers, catalog, errors) for kind in ("policy", "estimator")}
    merged, given_in = _merge(layers, settings_model)

    def origin(key: str) -> str:
        where = given_in(key)
        return where or (f"{owner}, {key}" if key in settings_model.model_fields else key)

    own = {key: merged.pop(key) for key in list(merged) if key in settings_model.model_fields}
    known = RUN_KEYS | set(settings_model.model_fields)
    for key in [key for key in merged if key not in known]:
        merged.pop(key)
        errors.append(
            f"{origin(key)}: no setting of that name.{setting_hint(key, known | RESERVED) or did_you_mean(key, known)} "
            f"See: pgzoo run {algorithm} --help"
        )
    settings = validate(settings_model, own, origin, errors)
    placeholders = {kind: part or Component.model_construct() for kind, part in components.items()}
    run = {**merged, **placeholders, "settings": settings or AlgorithmConfig()}
    config = validate(RunConfig, run, origin, errors)
    if errors:
        raise ConfigError("\n".join(errors))
    if config.sweep_axis:
        config = _checked_sweep(config, origin("sweep_axis"))
    if config.backend != "auto":
        catalog.get("env_backend", config.backend)
    for name in config.diagnostics:
        catalog.get("diagnostic", name)
    assert isinstance(config, RunConfig)
    return config


def refuse_ignored(config: RunConfig, algorithm: Any) -> None:
    """Raise UnfitError for a setting that has no effect because the algorithm takes no gradient steps."""
    if not isinstance(config.settings, SearchConfig):
        return
    defaults = getattr(algorithm, "defaults", {})
    estimator = defaults.get("estimator", algorithm.estimator)
    name = estimator if isinstance(estimator, str) else estimator.get("name", algorithm.estimator)
    given = {
        "--normalize-reward": config.normalize_reward,
        "--gamma": config.gamma != defaults.get("gamma", RunConfig.model_fields["gamma"].default),
        "--estimator": config.estimator.name != name,
        "--compile on": config.compile == "on",
    }
    ignored = [option for option, is_given in given.items() if is_given]
    if ignored:
        raise UnfitError(
            f'Algorithm "{config.algorithm}" takes no gradient steps and uses the returns of episodes as they are, so '
            f"{ignored[0]} would have no effect. Remove it."
        )


def refuse_without_effect(policies: Sequence[tuple[Component, Any]], names: Collection[str]) -> None:
    """Raise UnfitError if one of the settings `names` has no effect on any of these policies that have it.

    A policy says so in its attribute `without_effect`. The policies differ in settings that a search varies. A setting
    that has its default everywhere is allowed.
    """
    for name in sorted(names):
        having = [(part, policy) for part, policy in policies if name in type(part.settings).model_fields]
        reasons = [getattr(policy, "without_effect", {}).get(name) for _, policy in having]
        defaults = [type(part.settings).model_fields[name].default for part, _ in having]
        values = [getattr(part.settings, name) for part, _ in having]
        if reasons and all(reasons) and values != defaults:
            raise UnfitError(
                f'--policy.{name.replace("_", "-")} would have no effect: policy "{having[0][0].name}" {reasons[0]}. '
                "Remove it."
            )


def _merge(layers: Sequence[Layer], settings_model: type[BaseModel]) -> tuple[dict[str, Any], Callable[[str], str]]:
    """Merge the flat keys; mappings (env_kwargs, tags, sweep_axis) are merged key by key.

    Return the merged values, and a function that returns for a key where its value was given, "" if it wasn't.
    """
    merged: dict[str, Any] = {}
    source: dict[str, tuple[Layer, str]] = {}
    for layer in layers:
        values = {key: value for key, value in layer.values.items() if key not in ("policy", "estimator")}
        renamed: dict[str, str] = {}
        if "seed" in values:
            if "seeds" in values:
                raise ConfigError(f"{layer.where(('seed',))}: seed and seeds can't be combined.")
            values["seeds"], renamed["seeds"] = (values.pop("seed"),), "seed"
        for key, value in values.items():
            if key in MERGED and isinstance(value, Mapping):
                value = {**merged.get(key, {}), **value}
            merged[key], source[key] = value, (layer, renamed.get(key, key))
        # total_steps in a layer replaces total_episodes of the layers below it, and the other way round
        for end, other in (("total_episodes", "total_steps"), ("total_steps", "total_episodes")):
            if values.get(end) is not None and other not in values:
                merged.pop(other, None)
        if isinstance(axes := merged.get("sweep_axis"), Mapping):
            merged["sweep_axis"] = _without_given(axes, layer)

    def origin(key: str) -> str:
        layer, name = source.get(key, (None, key))
        return layer.where((name,)) if layer else ""

    return merged, origin


def _without_given(axes: Mapping[str, Any], layer: Layer) -> dict[str, Any]:
    """Drop the axes that a layer sets to a single value: it replaces the axis of a lower layer."""
    own = layer.values.get("sweep_axis")
    given = {*layer.values, *(f"estimator.{key}" for key in component_values(layer.values, "estimator"))}
    if both := sorted(given & set(own if isinstance(own, Mapping) else ())):
        raise ConfigError(
            f"{layer.where(('sweep_axis',))}: {both[0]} is also given a single value; remove one of them."
        )
    return {key: values for key, values in axes.items() if key not in given}


def _checked_sweep(config: RunConfig, where: str) -> RunConfig:
    """Check every setting of a sweep; return the config with the first one.

    Raises:
        ConfigError: a key can't be swept, or a value is invalid.
    """
    known = sweepable(type(config.settings), type(config.estimator.settings))
    others = RUN_KEYS | set(type(config.settings).model_fields) | set(config.flat())
    errors = []
    for key in [key for key in config.sweep_axis if key not in known]:
        why = "has one value for all members." if key in others else f"isn't a setting.{did_you_mean(key, known)}"
        errors.append(f'{where}: "{key}" {why}')
    if errors:
        errors[-1] += f" Settings that can be swept: {', '.join(known) or 'none'}."
    else:
        for setting in grid(config.sweep_axis):
            overridden(config, setting, errors, f"{where}: ")
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    axes = config.sweep_axis
    return config.at(next(grid(axes))).model_copy(update={"sweep_axis": axes})


def check_algorithm(entry: Entry, model: type[BaseModel]) -> None:
    """Check an algorithm's attributes `estimator` and `defaults`, and the names of its settings.

    Raises:
        ConfigError: one has another type, or a setting has the name of a run key or of an option of `pgzoo run`.
    """
    who, target = f'Algorithm "{entry.name}" of {entry.owner}', entry.load()
    estimator, defaults = getattr(target, "estimator", None), getattr(target, "defaults", {})
    if not isinstance(estimator, str):
        raise ConfigError(
            f"{who} has estimator = {shorten(repr(estimator))}; expected the name of its default estimator, such as "
            '"reward-to-go". See: pgzoo estimators'
        )
    if not isinstance(defaults, Mapping):
        raise ConfigError(
            f"{who} has defaults = {shorten(repr(defaults))}; expected a mapping of settings, such as "
            '{"num_envs": 4}.'
        )
    clash = sorted(set(model.model_fields) & (RUN_KEYS | RESERVED))
    if clash:
        raise ConfigError(
            f"{who} has a setting named {', '.join(clash)}, which is the name of a run setting. "
            f"Rename it in {model.__qualname__}."
        )
