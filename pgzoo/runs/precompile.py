"""Compile ahead of time what a run needs: take its first updates, and keep nothing but the compiled code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from pgzoo import tracking
from pgzoo.config import Member, RunConfig
from pgzoo.errors import ConfigError
from pgzoo.launchers.protocol import split
from pgzoo.ops import jit
from pgzoo.registry import PluginCatalog
from pgzoo.runs.planning import make_plan
from pgzoo.runs.runner import compile_folder
from pgzoo.training.events import UpdateDone
from pgzoo.training.loop import train
from pgzoo.training.plan import Plan

__all__ = ["Precompiled", "precompile"]

UPDATES = 2
"""The first update has all shapes of batches; the second starts from parameters that the first has made."""


@dataclass(frozen=True)
class Precompiled:
    """What was compiled. `functions` are new libraries in `folder`, `loops` are new loops of the backend `compiled`.

    `plan` has the resolved settings.
    """

    plan: Plan
    folder: Path
    functions: tuple[str, ...]
    loops: int
    seconds: float

    @property
    def compiles(self) -> bool:
        """Whether the run compiles anything at all."""
        return self.plan.config.compile == "on" or self.plan.config.backend == "compiled"


def precompile(config: RunConfig, catalog: PluginCatalog, home: tracking.Home) -> Precompiled:
    """Take the first updates of a run, and track nothing.

    Raises:
        UsageError: a setting is wrong.
        RunFailed: a component raised.
    """
    folder, started = compile_folder(home), time.monotonic()
    before, loops = _libraries(folder), jit.compiled_anew()
    for members in _shards(config):
        plan = make_plan(config, catalog, members=members, compile_cache=folder)
        result = Precompiled(plan, folder, (), 0, 0.0)
        if not result.compiles:
            return result
        with closing(train(plan)) as events:
            done = 0
            for event in events:
                done += isinstance(event, UpdateDone)
                if done == UPDATES:
                    break
    functions = tuple(sorted(_libraries(folder) - before))
    seconds = time.monotonic() - started
    return replace(result, functions=functions, loops=jit.compiled_anew() - loops, seconds=seconds)


def _libraries(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.so")}


def _shards(config: RunConfig) -> Iterator[tuple[Member, ...]]:
    """Yield the members that one process trains; with a launcher, one shard of each size."""
    if config.launcher == "local":
        yield config.members()
        return
    if config.workers is None:
        raise ConfigError(
            f"--launcher {config.launcher}: what is compiled depends on how many seeds a process trains. Give --workers"
        )
    seeds = config.seeds
    shards = {len(rows): {seeds[k] for k in rows} for rows in split(len(seeds), config.workers)}
    for shard in shards.values():
        yield tuple(member for member in config.members() if member.seed in shard)
