"""Python files as modules: the inline plugin and `--import path.py`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from pgzoo.errors import PluginError

__all__ = ["make_importable", "run_file"]

_ran: dict[str, tuple[Path, bytes]] = {}
"""Module name -> the file that it was loaded from, and the content at that time."""


def make_importable(folder: Path) -> None:
    """Add a folder to the import path, at the end, so that it can't hide an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def run_file(path: Path) -> ModuleType:
    """Run a file as a module named after it, unless it has been run before and not changed since.

    The module is added to `sys.modules`, which pydantic, pickle and gymnasium's "module:attribute" require, and its
    folder to the import path, so that it can import its neighbors, also in the processes of environments.
    Raises PluginError if there is no such file or another module has its name.
    """
    if not path.is_file():
        raise PluginError(f"There is no file {path}.")
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
