"""YAML files of settings, and the line of each setting."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError

__all__ = ["Layer", "read_yaml", "yaml_loader"]

STRING_TAG = "tag:yaml.org,2002:str"

MAX_VALUES = 20_000
"""Values in a file, with each alias counted as what it stands for."""


@dataclass(frozen=True)
class Layer:
    """Settings from one source, such as a file. `where(path)` says in a message where the key at `path` was given."""

    values: Mapping[str, Any]
    where: Callable[[tuple[str, ...]], str]


def read_yaml(path: str | Path) -> Layer:
    """Read a YAML file of settings.

    Raises:
        ConfigError: the file can't be read, isn't valid YAML, isn't a mapping, has a key twice, is nested too deeply,
            or has aliases that refer to themselves or stand for too many values. The message names the line.
    """
    path = Path(path)
    try:
        return _parse(path, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"Can't read the settings in {path}: {reason}.") from error
    except RecursionError:
        raise ConfigError(f"{path}: the settings are nested too deeply.") from None


@lru_cache
def yaml_loader() -> type[Any]:
    """Return YAML's safe loader, in which 1e-3 is a number: YAML 1.1 demands 1.0e-3 and takes the other for text."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Also reads floats without a dot."""

    number = re.compile(r"[-+]?\d+[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def _parse(path: Path, text: str) -> Layer:
    import yaml

    loader = yaml_loader()
    try:
        if len(text) > MAX_VALUES:  # a shorter file can't have as many values
            nodes = (event for event in yaml.parse(text, loader) if isinstance(event, yaml.NodeEvent))
            if next(islice(nodes, MAX_VALUES, None), None):
                raise ConfigError(f"{path}: the settings have over {MAX_VALUES:,} values.")
        root = yaml.compose(text, loader)
        if root is not None:
            _count_values(root, path, {})
        values = yaml.load(text, loader)  # a safe one
    except ValueError as error:  # such as a date that doesn't exist
        raise ConfigError(f"{path}: not valid YAML: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}.") from error
    if root is None:
        return Layer({}, lambda _: str(path))
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        keys = [key for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        first_invalid = next((key for key in keys if key.tag != STRING_TAG), root)
        line_number = first_invalid.start_mark.line + 1
        raise ConfigError(f"{path}, line {line_number}: expected settings as `key: value`, such as `env: CartPole-v1`.")
    lines = dict(_lines(root, (), path))

    def where(key: tuple[str, ...]) -> str:
        line = lines.get(key) or lines.get(key[:1])
        return f"{path}, line {line}: {'.'.join(key)}" if line else f"{path}: {'.'.join(key)}"

    return Layer(values, where)


def _count_values(node: Any, path: Path, counts: dict[int, int | None]) -> int:
    """Return how many values a YAML node holds once its aliases are expanded; `counts` are those of other nodes.

    Raises:
        ConfigError: an alias refers to a node that contains it, or there are more than MAX_VALUES.
    """
    if id(node) in counts:
        count = counts[id(node)]
        if count is None:
            raise ConfigError(f"{path}, line {node.start_mark.line + 1}: an alias refers to a value that contains it.")
        return count
    counts[id(node)] = None  # being counted
    parts = node.value if node.id != "scalar" else ()
    children = (child for part in parts for child in (part if node.id == "mapping" else (part,)))
    count = counts[id(node)] = 1 + sum(_count_values(child, path, counts) for child in children)
    if count > MAX_VALUES:
        raise ConfigError(f"{path}, line {node.start_mark.line + 1}: aliases expand to over {MAX_VALUES:,} values.")
    return count


def _lines(node: Any, prefix: tuple[str, ...], path: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the path of each key in a YAML mapping with its line. Raises ConfigError if a key is given twice."""
    seen: set[str] = set()
    for key, value in node.value if node.id == "mapping" else ():
        line = key.start_mark.line + 1
        if key.value in seen:
            raise ConfigError(f"{path}, line {line}: {'.'.join((*prefix, key.value))} is given twice.")
        seen.add(key.value)
        yield (*prefix, key.value), line
        yield from _lines(value, (*prefix, key.value), path)
