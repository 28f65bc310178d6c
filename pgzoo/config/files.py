"""Files of settings, and the line on which each of them stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError

__all__ = ["Layer", "read_yaml"]

TEXT = "tag:yaml.org,2002:str"


@dataclass(frozen=True)
class Layer:
    """Settings from one place. `where(path)` says, for a message, where the key at `path` was given."""

    values: Mapping[str, Any]
    where: Callable[[tuple[str, ...]], str]


def read_yaml(path: str | Path) -> Layer:
    """Read a file of settings.

    Raises:
        ConfigError: it can't be read, is no YAML, has a key twice, or isn't a mapping; with the line.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"Can't read the settings in {path}: {reason}.") from error
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except ValueError as error:  # a date that is none, say
        raise ConfigError(f"{path}: not valid YAML: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}.") from error
    if root is None:
        return Layer({}, lambda _: str(path))
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        keys = [key for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        odd = next((key for key in keys if key.tag != TEXT), root)
        line_of_odd = odd.start_mark.line + 1
        raise ConfigError(f"{path}, line {line_of_odd}: expected settings as `key: value`, such as `env: CartPole-v1`.")
    lines = dict(_lines(root, (), path))

    def where(key: tuple[str, ...]) -> str:
        line = lines.get(key) or lines.get(key[:1])
        return f"{path}, line {line}: {'.'.join(key)}" if line else f"{path}: {'.'.join(key)}"

    return Layer(values, where)


def _lines(node: Any, prefix: tuple[str, ...], path: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """Walk a YAML mapping: key paths and the lines on which they stand."""
    seen: set[str] = set()
    for key, value in node.value if node.id == "mapping" else ():
        line = key.start_mark.line + 1
        if key.value in seen:
            raise ConfigError(f"{path}, line {line}: {'.'.join((*prefix, key.value))} is given twice.")
        seen.add(key.value)
        yield (*prefix, key.value), line
        yield from _lines(value, (*prefix, key.value), path)
