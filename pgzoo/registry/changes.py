"""What a run records of the plugins that it is trained with, and how those of today differ from them."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from pgzoo.registry.catalog import PluginCatalog, PluginInfo

__all__ = ["changes", "missing_imports", "plugin_tags"]

IMPORTS = "pgzoo.imports"
"""Tag with the values of `--import`, separated as in a shell."""

PREFIX, HASH = "plugin.", ".sha256"


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


def missing_imports(tags: Mapping[str, str], catalog: PluginCatalog) -> list[str]:
    """Return a sentence if a run was started with `--import`s that weren't given now."""
    missing = [name for name in _split(tags.get(IMPORTS, "")) if name not in catalog.imports]
    if not missing:
        return []
    options = " ".join(f"--import {shlex.quote(name)}" for name in missing)
    return [f"The run was started with {options}, and runs don't import code by themselves: give it again."]


def changes(tags: Mapping[str, str], catalog: PluginCatalog) -> list[str]:
    """Return sentences on plugins that have changed since a run, or are missing now; `tags` are those of the run."""
    found = missing_imports(tags, catalog)
    now, imports = plugin_tags(catalog), _split(tags.get(IMPORTS, ""))
    for key, origin in tags.items():
        name = key.removeprefix(PREFIX)
        if name == key or key.endswith(HASH) or (name in imports and key not in now):
            continue
        if key not in now:
            found.append(f'The run was trained with plugin "{name}" ({origin}), which isn\'t loaded now.')
        elif now[key] != origin:
            found.append(f'Plugin "{name}" was {origin} and is {now[key]}: the numbers may differ.')
        elif tags.get(key + HASH, now.get(key + HASH)) != now.get(key + HASH):
            found.append(f'Plugin "{name}" ({origin}) has changed since the run was trained: the numbers may differ.')
    return found


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


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # tags can be edited
        return []
