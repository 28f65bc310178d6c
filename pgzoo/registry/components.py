"""Look up a component by name and validate its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pgzoo.config import Component, ComponentConfig, Layer
from pgzoo.config.renaming import current_names
from pgzoo.config.validation import shorten, validate
from pgzoo.errors import ConfigError, UnknownName, did_you_mean
from pgzoo.registry.catalog import ComponentKind, Entry, PluginCatalog

__all__ = ["component", "component_values", "look_up", "resolve_component"]


def look_up(catalog: PluginCatalog, kind: ComponentKind, name: str, where: str) -> Entry:
    """Return the entry of a name. Raises UnknownName; its message includes `where` if that is a line in a file."""
    try:
        return catalog.get(kind, name)
    except UnknownName as error:
        raise UnknownName(f"{where}: {error}" if ", line " in where else str(error)) from None


def resolve_component(
    kind: Literal["policy", "estimator"], named: str | Mapping[str, Any], catalog: PluginCatalog
) -> tuple[Component, Any]:
    """Return a component, and its class or function, from its name or a mapping with its name and settings.

    Raises:
        UnknownName: no plugin has a component of this name.
        ConfigError: a setting is unknown or invalid.
    """
    errors: list[str] = []
    found = component(kind, [Layer({kind: named}, ".".join)], catalog, errors)
    if found is None or errors:
        raise ConfigError("\n".join(errors))
    return found, catalog.get(kind, found.name).load()


def component(
    kind: Literal["policy", "estimator"], layers: Sequence[Layer], catalog: PluginCatalog, errors: list[str]
) -> Component | None:
    """Return the policy or estimator of a run, or None after adding its errors to `errors`.

    A layer that names another component drops the settings of the layers below it.
    """
    parts: list[tuple[Layer, dict[str, Any]]] = []
    name: Any = None
    for layer in layers:
        part = component_values(layer.values, kind)
        if "name" in part and part["name"] != name:
            name, parts = part["name"], []
        parts.append((layer, part))
    if not isinstance(name, str):
        raise ConfigError(f"{kind} needs a name. See: pgzoo {'policies' if kind == 'policy' else 'estimators'}")
    naming = next((layer for layer, part in reversed(parts) if "name" in part), None)
    where = naming.where((kind,)) if naming else kind
    model = look_up(catalog, kind, name, where).load_config() or ComponentConfig

    values: dict[str, Any] = {}
    source: dict[str, tuple[Layer, str]] = {}
    for layer, part in parts:
        current, former = current_names(part, getattr(model, "renamed", {}), partial(_where, layer, kind))
        values.update(current)
        source.update({key: (layer, former.get(key, key)) for key in current})
    del values["name"]

    def origin(key: str) -> str:
        layer, given = source.get(key, (None, key))
        return layer.where((kind, given)) if layer else f'default of {kind} "{name}", {key}'

    for key in [key for key in values if key not in model.model_fields]:
        values.pop(key)
        hint = did_you_mean(key, model.model_fields)
        errors.append(f'{origin(key)}: {kind} "{name}" has no setting of that name.{hint}')
    settings = validate(model, values, origin, errors)
    return None if settings is None else Component(name=name, settings=settings)


def _where(layer: Layer, kind: str, key: str) -> str:
    return layer.where((kind, key))


def component_values(layer: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the settings of a component in a layer as a mapping; a name alone becomes `{"name": name}`."""
    part = layer.get(key, {})
    if part is None or isinstance(part, str):
        return {} if part is None else {"name": part}
    if not isinstance(part, Mapping):
        raise ConfigError(f"{key} is a name or a mapping with a name, not {shorten(repr(part))}.")
    return dict(part)
