"""If code of a run isn't loaded: which file the user has to import, or which plugin to install, and the next command.

Nothing is ever imported or installed because a run says so.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from pgzoo.errors import EnvError, StoreError, UnknownName, UsageError
from pgzoo.registry.changes import imports_of, missing_plugins, ungiven_imports
from pgzoo.tracking.ledger import start_of

if TYPE_CHECKING:
    from pgzoo.registry import PluginCatalog
    from pgzoo.tracking.lookup import Found

__all__ = ["check_files", "explain_missing_code"]

RULE = "pgzoo imports the code of a run only if you name it"


def check_files(imports: Sequence[str], runs: Sequence[Found], command: str) -> None:
    """Raise UsageError if a file among `imports` doesn't exist, but a run that was trained with it has a copy of it.

    `command` is what the user typed; the message has the command with the copy.
    """
    for name in imports:
        if name.endswith(".py") and not Path(name).is_file() and (copy := _copy_of(name, runs)):
            again = command.replace(shlex.quote(name), shlex.quote(copy))
            kept = f"The run kept a copy of it, {copy}."
            raise UsageError(f"--import {name}: there is no such file. {kept} If you trust the copy: {again}")


@contextmanager
def explain_missing_code(runs: Sequence[Found], catalog: PluginCatalog, command: str = "") -> Iterator[None]:
    """Raise an UnknownName of the block, or the EnvError of an unknown environment, again with what to do next.

    If the runs were started with `--import`s that weren't given now, the message names these and nothing else.
    Otherwise the message of the error is followed by a line for each plugin of the runs that isn't loaded.
    `command` is what the user typed, empty in Python.
    """
    try:
        yield
    except (UnknownName, EnvError) as error:
        starts = [start for run in runs if run.path and (start := start_of(run.path))]
        tags = [start["tags"] for start in starts]
        missing = list(dict.fromkeys(name for one in tags for name in ungiven_imports(one, catalog)))
        other = isinstance(error, EnvError) and all(_is_registered(str(start.get("env"))) for start in starts)
        if missing and not other:
            raise UnknownName(_ask_for(missing, runs, command)) from None
        if isinstance(error, EnvError):
            raise
        sentences = [sentence for one in tags for sentence in missing_plugins(one, catalog)]
        raise UnknownName("\n".join(dict.fromkeys([str(error), *sentences]))) from None


def _is_registered(env_id: str) -> bool:
    import gymnasium as gym

    return env_id.rpartition(":")[2] in gym.registry


def _ask_for(missing: Sequence[str], runs: Sequence[Found], command: str) -> str:
    """Return the message that asks for these modules and files."""
    lines, given = [f"{runs[0].name} needs {_listed(missing)}, but {RULE}."], list[str]()
    for name in missing:
        absent = name.endswith(".py") and not Path(name).is_file()
        copy = _copy_of(name, runs) if absent else ""
        if copy:
            lines.append(f"There is no file {name} here. The run kept a copy of it, {copy}.")
        elif absent:
            lines.append(f"There is no file {name} here: give the path where it is now.")
        given.append(copy or name)
    next_step = (
        " ".join([command, *(f"--import {shlex.quote(name)}" for name in given)]) if command else f"imports={given}"
    )
    return f"{' '.join(lines)} {'Next' if given == list(missing) else 'If you trust the copy'}: {next_step}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _copy_of(name: str, runs: Sequence[Found]) -> str:
    """Return the path of the copy of a file that a run kept among its artifacts, "" if there is none."""
    for run in runs:
        start = start_of(run.path) if run.path else None
        names = [PurePath(one).name for one in imports_of(start["tags"])] if start else []
        if PurePath(name).name in names:
            try:
                copy = run.artifact(f"code/{PurePath(name).name}")
            except StoreError:
                continue
            relative = os.path.relpath(copy)
            return relative if not relative.startswith(os.pardir) else str(copy)
    return ""
