"""A preset file with the settings that a search found."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pgzoo.config import Layer, RunConfig
from pgzoo.config.run import UNLOGGED
from pgzoo.errors import ConfigError, UsageError
from pgzoo.files import write_file
from pgzoo.registry import PluginCatalog
from pgzoo.runs.resolve import compose
from pgzoo.search.result import Finalist, SweepResult

__all__ = ["check_target", "contents", "path_of", "write"]

MARK = "# Found by pgzoo sweep"


def path_of(name: str) -> Path:
    """Return the file of a preset: `NAME.yml` in the working directory, or the path if `name` ends in .yml or .yaml."""
    return Path(name if name.endswith((".yml", ".yaml")) else f"{name}.yml")


def check_target(name: str) -> None:
    """Raise UsageError if the file can't be written, or isn't one that a search wrote."""
    path = path_of(name)
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--save-preset {name}: the folder {path.parent} doesn't exist.")
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise UsageError(f"--save-preset {name}: {path} exists and wasn't written by a search; choose another name.")


def write(name: str, config: RunConfig, winner: Finalist, result: SweepResult, catalog: PluginCatalog) -> Path:
    """Write the winner's settings; return the file."""
    import yaml

    path = path_of(name)
    low, high = winner.fresh.low, winner.fresh.high
    interval = f" [{low:.5g}, {high:.5g}]" if low is not None and high is not None else ""
    head = (
        f"{MARK}: {result.objective} {winner.fresh_score:.5g}{interval} on {len(winner.scores)} fresh seeds, "
        f"trial {winner.number} of {result.study}, {time.strftime('%Y-%m-%d')}\n"
    )
    text = yaml.safe_dump(contents(config, winner, catalog), sort_keys=False, default_flow_style=None, width=100)
    try:
        write_file(path, (head + text).encode())
    except OSError as error:
        raise UsageError(f"Can't write {path}: {error.strerror}.") from error
    return path


def contents(config: RunConfig, winner: Finalist, catalog: PluginCatalog) -> dict[str, Any]:
    """Return the algorithm, the environment, and the settings with which the file gives the winner's run.

    These are the searched ones, and those that differ from the algorithm's defaults or from the preset that applies to
    the environment by default, so that the file can take its place or be laid over it.
    """
    fixed: dict[str, Any] = {"algorithm": config.algorithm, "env": config.env}
    try:
        defaults = [compose(Layer(fixed, ".".join), catalog, preset=preset).nested() for preset in ("none", "auto")]
    except ConfigError:  # such as an algorithm without a default number of steps
        defaults = [{}]
    own = config.nested()
    searched = {key.partition(".")[0] for key in winner.settings}
    hidden = UNLOGGED | {"algorithm", "env", "device", "threads", "compile", "backend"}

    def is_kept(key: str, value: Any) -> bool:
        differs = any(value != known.get(key) for known in defaults)
        return key not in hidden and (key in searched or differs)

    return fixed | {key: value for key, value in own.items() if is_kept(key, value)}
