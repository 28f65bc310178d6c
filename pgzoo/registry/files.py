"""Python files as modules: the inline plugin and `--import path.py`."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path, PurePath
from types import ModuleType

from pgzoo.errors import PluginError, UsageError, did_you_mean

__all__ = ["as_names", "check_owned", "file_of", "make_importable", "module_of", "run_file"]

_ran: dict[str, tuple[Path, bytes]] = {}
"""Module name -> the file that it was loaded from, and the content at that time."""


def as_names(given: Iterable[str | os.PathLike[str]] | os.PathLike[str], what: str) -> list[str]:
    """Return names and paths as text. A single one may be given without a list around it.

    Raises:
        UsageError: one is neither text nor a path. The message calls the argument `what`.
    """
    found = []
    for one in given if isinstance(given, Iterable) and not isinstance(given, str) else [given]:
        if not isinstance(one, str | os.PathLike):
            raise UsageError(f"{what}: expected names or paths, not {type(one).__name__}.")
        found.append(os.fspath(one))
    return found


def make_importable(folder: Path) -> None:
    """Add a folder to the import path, at the end, so that it can't hide an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def check_owned(path: Path) -> None:
    """Refuse a file that somebody else could have written; it is about to be run without being asked for by name.

    The file, its folder, and the file and folder that a link leads to must belong to the user or to root, and nobody
    else may write to them. A group that is the user's alone counts as the user. Does nothing where files have no
    owners.

    Raises:
        PluginError: somebody else could have written it. The message says why, and what to do.
    """
    if not hasattr(os, "geteuid"):
        return
    for place in dict.fromkeys((path.parent, path, path.resolve().parent, path.resolve())):
        status = place.stat()
        if status.st_uid not in (0, os.geteuid()):
            why = f"{place} belongs to {_user_name(status.st_uid)}"
            remedy = f"to run a file that you trust, give --import {path.name}"
        elif status.st_mode & stat.S_IWOTH:
            why, remedy = f"everybody may write to {place}", f"chmod o-w {place}"
        elif status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
            why, remedy = f"a group may write to {place}", f"chmod g-w {place}"
        else:
            continue
        raise PluginError(f"It isn't run, because {why}: {remedy}")


def _user_name(number: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def _is_private(number: int) -> bool:
    """Return whether a group is the user's own: it has the user's name, and no other members."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and number == user.pw_gid and set(group.gr_mem) <= {user.pw_name}


def module_of(name: str) -> str:
    """Return the name of the module that `--import NAME` imports; NAME is a module or the path of a file."""
    return PurePath(name).stem if name.endswith(".py") else name


def file_of(module: object) -> tuple[Path, bytes] | None:
    """Return the file that `run_file` made a module from, and its content at that time; None for other modules."""
    name = getattr(module, "__name__", "")
    return _ran.get(name) if sys.modules.get(name) is module else None


def run_file(path: Path) -> ModuleType:
    """Run a file as a module named after it, unless it has been run before and not changed since.

    The module is added to `sys.modules`, which pydantic, pickle and gymnasium's "module:attribute" require, and its
    folder to the import path, so that it can import its neighbors, also in the processes of environments.
    Raises PluginError if there is no such file or another module has its name.
    """
    if not path.is_file():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*.py")])
        raise PluginError(f"There is no file {path}.{near}")
    name, ran = path.stem, (path, path.read_bytes())
    if name in sys.modules and _ran.get(name) == ran:
        return sys.modules[name]
    if name not in _ran:
        other = importlib.util.find_spec(name)
        if other is not None and (other.origin is None or Path(other.origin) != path):
            raise PluginError(f'{path} has the name of another module, "{name}"; rename the file.')
    make_importable(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _ran[name] = ran
    return module
