"""Presets: named settings, given as a mapping or as YAML files in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["Preset", "PresetFile", "preset_files"]

_VERSION = re.compile(r"-v\d+$")


@dataclass(frozen=True)
class Preset:
    """Named settings. If `env` is None, they fit every environment; if `auto` is True, they apply by default."""

    algorithm: str
    env: str | None
    settings: Mapping[str, Any]
    auto: bool = False


@dataclass(frozen=True)
class PresetFile:
    """What the path and the first line of a preset's file say."""

    name: str
    preset: Preset
    summary: str


class FileSettings(Mapping[str, Any]):
    """The settings in a YAML file, which is parsed when the first setting is looked up.

    Raises ConfigError at that time if the file isn't valid; the message names the file and the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @cached_property
    def _values(self) -> Mapping[str, Any]:
        from pgzoo.config import read_yaml  # imports pydantic, which `pgzoo --help` doesn't need

        return MappingProxyType(dict(read_yaml(self.path).values))


def preset_files(folder: Path) -> Iterator[PresetFile]:
    """Yield the presets in the YAML files of `folder`, by path. See `Registry.presets` for the layout.

    Raises OSError if a file can't be read. Of each file, only the first line is read.
    """
    for path in sorted(folder.glob("*/**/*.yml")):
        algorithm, *parts = path.relative_to(folder).with_suffix("").parts
        name, env = parts[-1], None
        if _VERSION.search(name):
            env = "/".join(parts)
            name = f"{algorithm}-{re.sub(r'[^a-z0-9]+', '-', _VERSION.sub('', name).lower())}"
        with path.open(encoding="utf-8") as file:
            first = file.readline()
        summary = first.removeprefix("#").strip() if first.startswith("#") else ""
        yield PresetFile(name, Preset(algorithm, env, FileSettings(path), auto=env is not None), summary)
