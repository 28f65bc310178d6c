"""Plugins: their hooks, how they are found, and the catalog of their components.

Of third-party packages, importing this package imports only pluggy.
"""

from pgzoo.markers import hookimpl
from pgzoo.registry.catalog import KINDS, ComponentKind, Entry, PluginCatalog, PluginInfo, Preset, Registry
from pgzoo.registry.hookspecs import hookspec
from pgzoo.registry.manager import API_VERSION, discover

__all__ = [
    "API_VERSION",
    "KINDS",
    "ComponentKind",
    "Entry",
    "PluginCatalog",
    "PluginInfo",
    "Preset",
    "Registry",
    "discover",
    "hookimpl",
    "hookspec",
]
