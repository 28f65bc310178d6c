"""Former names of settings: still accepted for one release, with a warning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from pgzoo.config.files import Layer
from pgzoo.errors import ConfigError

__all__ = ["current_names", "with_current_names"]

_log = logging.getLogger("pgzoo")


def with_current_names(layer: Layer, models: Iterable[Any]) -> Layer:
    """Return the layer with settings of `models` (see `Settings.renamed`) under their current names.

    Raises:
        ConfigError: a setting is given under both names.
    """
    renamed = {old: new for model in models for old, new in getattr(model, "renamed", {}).items()}
    values, former = current_names(layer.values, renamed, lambda key: layer.where((key,)))
    axes = values.get("sweep_axis")
    if isinstance(axes, Mapping):
        axes, _ = current_names(axes, renamed, lambda key: f"{layer.where(('sweep_axis',))}: {key}")
        values = {**values, "sweep_axis": axes}
    return Layer(values, lambda path: layer.where((former.get(path[0], path[0]), *path[1:])))


def current_names(
    values: Mapping[str, Any], renamed: Mapping[str, str], where: Callable[[str], str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return `values` with the keys of `renamed` replaced, and the former name of each key that was replaced.

    `where(key)` says, for the warning, where a key was given. Raises ConfigError as `with_current_names` does.
    """
    former = {new: old for old, new in renamed.items() if old in values}
    for new, old in former.items():
        if new in values:
            raise ConfigError(
                f'{where(old)}: this is the former name of "{new}", which is given as well; leave it out.'
            )
        _warn_once(f'{where(old)}: this setting is now called "{new}"; the former name will stop working.')
    return {renamed.get(key, key): value for key, value in values.items()}, former


@cache
def _warn_once(message: str) -> None:
    _log.warning("%s", message)
