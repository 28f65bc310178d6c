"""Presets by name or file, as a layer of settings."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pgzoo.config import Layer, read_yaml
from pgzoo.config.rl_zoo import Translation, is_rl_zoo, translate
from pgzoo.errors import ConfigError, UnknownName
from pgzoo.registry import PluginCatalog

__all__ = ["PresetLayer", "preset_layer"]


class PresetLayer(NamedTuple):
    """The settings of a preset.

    `notice` says which keys of an RL Zoo file weren't used, "" if there are none. `name` is the name of a registered
    preset, "" for a file.
    """

    layer: Layer
    notice: str = ""
    name: str = ""


def preset_layer(
    preset: str | Path, catalog: PluginCatalog, algorithm: str | None, env: str | None
) -> PresetLayer | None:
    """Return the settings that `--preset` asks for in a run of `algorithm` on `env`; None if it has no preset.

    `preset` is "auto", "none", the name of a registered preset, or a YAML file of pgzoo's settings or RL Zoo's
    hyperparameters. A name that no registered preset has also means the file NAME.yml. `env` is None if it isn't known
    yet.

    Raises:
        UnknownName: no preset has this name.
        ConfigError: the preset is for another algorithm or environment, or the file isn't valid.
    """
    if isinstance(preset, Path):
        preset = str(preset)
    if not isinstance(preset, str):
        raise ConfigError(f'preset: expected a name, a file, "auto" or "none", not {preset!r:.60}.')
    if preset == "none":
        return None
    if "/" in preset or "\\" in preset or "." in preset:  # the name of a preset has none of these
        return _from_file(preset, str(algorithm), env)
    try:
        entry = catalog.auto_preset(str(algorithm), str(env)) if preset == "auto" else catalog.get("preset", preset)
    except UnknownName:
        saved = f"{preset}.yml"  # written by pgzoo sweep --save-preset
        if not Path(saved).is_file():
            raise
        return _from_file(saved, str(algorithm), env)
    if entry is None:
        return None
    own = entry.target
    _check_fits(f'Preset "{preset}"', algorithm, own.algorithm, env, own.env)
    return PresetLayer(Layer(own.settings, lambda path: f'preset "{entry.name}", {".".join(path)}'), name=entry.name)


def _from_file(path: str, algorithm: str, env: str | None) -> PresetLayer:
    file = read_yaml(path)
    if is_rl_zoo(file.values):
        if env is None:
            return PresetLayer(Layer({}, file.where))
        layer, translation = translate(path, file, algorithm, env)
        return PresetLayer(layer, _notice(path, translation, env))
    values = dict(file.values)
    _check_fits(path, algorithm, values.pop("algorithm", None), env, values.pop("env", None))
    return PresetLayer(Layer(values, file.where))


def _check_fits(preset: str, algorithm: str | None, own: str | None, env: str | None, own_env: str | None) -> None:
    if algorithm and own not in (None, algorithm):
        raise ConfigError(f"{preset} is for algorithm {own}, not {algorithm}.")
    if env and own_env not in (None, env):
        raise ConfigError(f"{preset} is for {own_env}, not {env}.")


def _notice(path: str, translation: Translation, env: str) -> str:
    """Return one line on an RL Zoo file: the section, if it isn't called after the environment, and the unused keys."""
    parts = []
    if translation.section != env:
        parts.append(f'the section "{translation.section}" is used for {env}')
    if translation.unused:
        parts.append(f"pgzoo has no setting for these keys and ignores them: {', '.join(translation.unused)}")
    return f"{Path(path)}: {'; '.join(parts)}" if parts else ""
