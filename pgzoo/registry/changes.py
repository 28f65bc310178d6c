"""What a run records of the plugins that it is trained with, and how those of today differ from them."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from pgzoo.registry.catalog import PluginCatalog, PluginInfo
from pgzoo.registry.files import module_of

__all__ = ["PYTHON", "changes", "imports_of", "missing_imports", "missing_plugins", "plugin_tags", "ungiven_imports"]

IMPORTS = "pgzoo.imports"
"""Tag with the values of `--import`, separated as in a shell."""

PYTHON = "python"
"""Name of the plugin that stands for Python objects which were passed to `pgzoo.run`."""

PREFIX, HASH = "plugin.", ".sha256"

_DISTRIBUTION, _VERSION = re.compile(r"\w[\w.-]*", re.ASCII), re.compile(r"[\w.!+-]+", re.ASCII)
"""Texts from a tag, which can be edited, that are shown as part of a command."""


def plugin_tags(catalog: PluginCatalog) -> dict[str, str]:
    """Return the tags that name the plugins of a run: their distributions or files, and the hashes of the files.

    `--import` is recorded as a name alone: nothing is ever imported because a run says so.
    """
    tags = {IMPORTS: shlex.join(catalog.imports)} if catalog.imports else {}
    for plugin in catalog.plugins:
        if plugin.status == "ok" and plugin.source != "built-in":
            tags[PREFIX + plugin.name] = plugin.origin
            if digest := _digest(plugin, catalog):
                tags[PREFIX + plugin.name + HASH] = digest
    return tags


def imports_of(tags: Mapping[str, str]) -> list[str]:
    """Return the modules and files that a run was started with, as given to `--import`."""
    try:
        return shlex.split(tags.get(IMPORTS, ""))
    except ValueError:  # tags can be edited
        return []


def ungiven_imports(tags: Mapping[str, str], catalog: PluginCatalog) -> list[str]:
    """Return the modules and files that a run was started with and that weren't given now."""
    given = {module_of(name) for name in catalog.imports}
    return [name for name in imports_of(tags) if module_of(name) not in given]


def missing_imports(tags: Mapping[str, str], catalog: PluginCatalog) -> list[str]:
    """Return a sentence if a run was started with `--import`s that weren't given now."""
    missing = ungiven_imports(tags, catalog)
    if not missing:
        return []
    options = " ".join(f"--import {shlex.quote(name)}" for name in missing)
    return [
        f"The run was started with {options}, but pgzoo imports the code of a run only if you name it: give it again."
    ]


def missing_plugins(tags: Mapping[str, str], catalog: PluginCatalog) -> list[str]:
    """Return a sentence for each plugin of a run that isn't loaded now: what to install.

    Its `--import`s and Python objects are left out.
    """
    now, imports = plugin_tags(catalog), imports_of(tags)
    return [
        _missing(name, origin, catalog)
        for name, origin in _origins(tags).items()
        if PREFIX + name not in now and name not in imports and name != PYTHON
    ]


def changes(tags: Mapping[str, str], catalog: PluginCatalog) -> list[str]:
    """Return sentences on plugins that have changed since a run, or are missing now; `tags` are those of the run."""
    found = missing_imports(tags, catalog) + missing_plugins(tags, catalog)
    now, imports = plugin_tags(catalog), imports_of(tags)
    same = {module_of(name): name for name in catalog.imports}  # a file may be given by another path
    for name, origin in _origins(tags).items():
        current = same.get(module_of(name), name) if name in imports else name
        key, was = PREFIX + current, tags.get(PREFIX + name + HASH)
        if key not in now:
            continue
        if name not in imports and now[key] != origin:
            found.append(f'Plugin "{name}" was {origin} and is {now[key]}: the numbers may differ.')
        elif was is not None and was != now.get(key + HASH, was):
            of_file = name in imports and name.endswith(".py")
            who = name if of_file else f'Plugin "{name}" ({origin})'
            found.append(f"{who} has changed since the run was trained: the numbers may differ.")
    return found


def _origins(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the plugins of a run by name: the distribution and version, or the file, of each."""
    names = (key for key in tags if key.startswith(PREFIX) and not key.endswith(HASH))
    return {key.removeprefix(PREFIX): tags[key] for key in names}


def _missing(name: str, origin: str, catalog: PluginCatalog) -> str:
    sentence = f'The run was trained with plugin "{name}" ({origin}), which isn\'t loaded now'
    plugin = next((plugin for plugin in catalog.plugins if plugin.name == name), None)
    distribution, space, version = origin.partition(" ")
    if plugin is not None and plugin.status == "blocked":
        return f"{sentence}, because it is disabled."
    if plugin is not None and plugin.status == "broken":
        return f"{sentence}, because it fails to load: {plugin.error}"
    if not space or not _DISTRIBUTION.fullmatch(distribution) or not _VERSION.fullmatch(version):
        return f"{sentence}."
    return f"{sentence}. Install it: pgzoo plugins install {distribution}=={version}"


def _digest(plugin: PluginInfo, catalog: PluginCatalog) -> str:
    """Return the SHA-256 of the file of a plugin that isn't installed as a distribution, else ""."""
    if plugin.distribution:
        return ""
    module = catalog.objects.get(plugin.name)
    file = getattr(module, "__file__", None) or getattr(sys.modules.get(plugin.module), "__file__", None)
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except OSError:
        return ""
