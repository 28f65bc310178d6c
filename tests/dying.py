"""Training in a process that dies as if by `kill -9`, but exactly before it writes a chosen record of the journal."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from multiprocessing import get_context
from typing import Any

from program import PATIENCE

from pgzoo.config import Layer
from pgzoo.registry import PluginCatalog, discover
from pgzoo.runs.resolve import compose
from pgzoo.runs.result import Result
from pgzoo.runs.resume import resume
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home, find
from pgzoo.tracking.journal import Journal

KILLED = 9
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "dying"])


@cache
def catalog() -> PluginCatalog:
    """Return the installed plugins."""
    return discover(inline=False)


def train(home: Home, settings: dict[str, Any]) -> None:
    """Train a run to its end."""
    raise_error(run_config(compose(Layer(settings, ".".join), catalog()), catalog(), home=home))


def go_on(home: Home, group: str, total_steps: int | None = None) -> None:
    """Resume a run and train it to its end."""
    raise_error(resume(find(group, home, "none"), catalog(), home=home, total_steps=total_steps))


def raise_error(result: Result) -> None:
    if result.error is not None:
        raise result.error


def in_process(records: int, action: Callable[..., None], *args: Any) -> bool:
    """Call `action` in a process that dies when it has written this many records; return whether `action` finished."""
    process = PROCESSES.Process(target=_die_at, args=(records, action, args), daemon=True)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode in (0, KILLED), f"exit code {process.exitcode}"
    return process.exitcode == 0


def _die_at(records: int, action: Callable[..., None], args: tuple[Any, ...]) -> None:
    record, left = Journal.record, records

    def dies(*args: Any, **named: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(KILLED)
        record(*args, **named)

    Journal.record = dies  # type: ignore[method-assign, assignment]
    action(*args)
