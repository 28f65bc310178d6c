"""Find and register plugins: built-ins, entry points, `--import` and `./pgzoo_plugin.py`.

A plugin is alone in the pluggy manager while its components are registered. So a failed registration has no effect on
others, and the registry can name the plugin in messages. (pluggy's loader would let one broken plugin stop pgzoo.)
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path

from pluggy import PluginManager

from pgzoo.errors import PluginError, UnknownName, UsageError, did_you_mean, raised_at, visible
from pgzoo.quiet import prints_to_stderr
from pgzoo.registry import files, hooks
from pgzoo.registry.catalog import PluginCatalog, PluginInfo, Registry, Source, describe_error, shortened
from pgzoo.registry.trace import traced
from pgzoo.registry.watch import LoadWatch

__all__ = ["API_VERSION", "BUILT_INS", "DISABLE_VARIABLE", "ENTRY_POINT_GROUP", "INLINE_FILE", "discover"]

API_VERSION = "1"
ENTRY_POINT_GROUP = "pgzoo"
DISABLE_VARIABLE = "PGZOO_DISABLE_PLUGINS"
INLINE_FILE = "pgzoo_plugin.py"
INLINE_NAME = "local"
BUILT_INS = (
    "pgzoo.algorithms.plugin",
    "pgzoo.policies.plugin",
    "pgzoo.estimators.plugin",
    "pgzoo.envs.plugin",
    "pgzoo.listeners.plugin",
    "pgzoo.diagnostics.plugin",
    "pgzoo.launchers.plugin",
    "pgzoo.cli.plugin",
)
_PLUGIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HEAVY = ("torch", "mlflow", "gymnasium", "numpy", "pydantic", "matplotlib", "pandas", "jax", "tensorflow")


@dataclass(frozen=True)
class _Candidate:
    """A plugin that was found but isn't loaded yet."""

    info: PluginInfo
    load: Callable[[], object]


def discover(
    *,
    blocked: Iterable[str] = (),
    imports: Iterable[str | os.PathLike[str]] | os.PathLike[str] = (),
    inline: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    base: PluginCatalog | None = None,
) -> PluginCatalog:
    """Find and register all plugins, in order: built-ins, entry points, `imports`, `./pgzoo_plugin.py`.

    `blocked` and the variable PGZOO_DISABLE_PLUGINS (separated by commas) name plugins or distributions not to
    load; "local" is the inline plugin. `imports` are module names or paths of Python files. With `base`, a catalog of
    the built-in and installed plugins, these are not loaded again; it can't be combined with `blocked`.

    A plugin that fails is listed as broken, and the others are loaded; so is an inline plugin that another user could
    have written. Raises PluginError if one of `imports` fails, because it was requested by name, and UnknownName if
    `blocked` names an unknown plugin.
    """
    folder = Path(cwd or _working_folder()).resolve()
    candidates = [] if base else [*_built_ins(), *_entry_points()]
    candidates += [_import(name, folder) for name in files.as_names(imports, "imports")]
    if inline and (folder / INLINE_FILE).is_file():
        candidates.append(_file(INLINE_FILE, folder, "inline", INLINE_NAME))
    shut = {_normal(name) for name in os.environ.get(DISABLE_VARIABLE, "").split(",")}
    shut |= _checked(files.as_names(blocked, "no_plugin"), candidates)
    catalog = base.copy() if base else PluginCatalog()
    manager = hooks.new_manager()
    with LoadWatch() as watch:
        for candidate in candidates:
            if shut & _names_to_block(candidate.info):
                catalog.plugins.append(replace(candidate.info, status="blocked"))
            else:
                watch.loading(candidate.info)
                _load_and_add(candidate, catalog, manager)
    return catalog


def _working_folder() -> Path:
    """Return the working directory. Raises UsageError if it was deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError("The working directory was deleted. Change to another folder: cd") from None


def _load_and_add(candidate: _Candidate, catalog: PluginCatalog, manager: PluginManager) -> None:
    """Load and register one plugin. A failure is recorded in the catalog, or raised for an `--import`.

    `manager` has no plugin, before and after.
    """
    absent = [name for name in HEAVY if name not in sys.modules]
    start = time.perf_counter()
    info = candidate.info
    plugin: object = None
    try:
        with prints_to_stderr():  # keep a plugin's output out of a command's JSON
            plugin = candidate.load()
            if any(plugin is other for other in catalog.objects.values()):
                return  # `--import` of a module that is installed as a plugin as well
            info = replace(info, hooks=_register_hooks(manager, plugin, info, catalog))
            registry = Registry(info)
            with traced("pgzoo_register", f"plugin {info}"):
                manager.hook.pgzoo_register(registry=registry)
        info = _measured(info, start, absent)
        catalog.add(info, plugin, registry.entries.values())
    except (Exception, SystemExit) as error:  # a plugin may even call sys.exit at import
        if info.source == "import":
            what = f"{info.name} can't be run." if info.name.endswith(".py") else f"--import {info.name} failed."
            raise PluginError(f"{what} {describe_error(error)}{raised_at(error)}") from error
        info = _measured(info, start, absent)
        catalog.plugins.append(replace(info, status="broken", error=f"{describe_error(error)}{raised_at(error)}"))
    finally:
        if plugin is not None and manager.is_registered(plugin):
            manager.unregister(plugin)


def _register_hooks(
    manager: PluginManager, plugin: object, info: PluginInfo, catalog: PluginCatalog
) -> tuple[str, ...]:
    """Register the hooks of a plugin and return their names. Raises PluginError if the plugin can't be used."""
    if taken := next((other for other in catalog.plugins if other.name == info.name), None):
        raise PluginError(
            f"The name of the plugin is taken by plugin {taken}. Rename the entry point in its pyproject.toml, or "
            f"block one by its distribution: --no-plugin {info.distribution or info.name}."
        )
    api = str(getattr(plugin, "pgzoo_api", API_VERSION))
    if api != API_VERSION:
        raise PluginError(
            f"The plugin is built for plugin API {api}; pgzoo {metadata.version('pgzoo')} has plugin API {API_VERSION}."
        )
    found = hooks.register(manager, plugin, info.name)
    if not found and info.source != "import":
        # an imported module may exist only to register environments
        raise PluginError(f"{info.module} implements no hook of pgzoo, such as pgzoo_register.")
    return tuple(found)


def _measured(info: PluginInfo, start: float, absent: list[str]) -> PluginInfo:
    heavy = tuple(name for name in absent if name in sys.modules)
    return replace(info, seconds=time.perf_counter() - start, heavy=heavy)


def _built_ins() -> Iterator[_Candidate]:
    version = metadata.version("pgzoo")
    for module in BUILT_INS:
        info = PluginInfo(module.removesuffix(".plugin"), "built-in", module, "pgzoo", version)
        yield _Candidate(info, partial(import_module, module))


def _entry_points() -> list[_Candidate]:
    try:
        points = list(metadata.entry_points(group=ENTRY_POINT_GROUP))
        broken: list[_Candidate] = []
    except Exception:  # the metadata of one distribution is damaged; it must not hide the others
        points, broken = _read_each_distribution()
    found = [*map(_entry_point, points), *broken]
    return sorted(found, key=lambda candidate: (candidate.info.distribution or "", candidate.info.name))


def _entry_point(point: metadata.EntryPoint) -> _Candidate:
    distribution, version = _name_and_version(point.dist) if point.dist else (None, None)
    name, fault = point.name, ""
    if not _PLUGIN_NAME.fullmatch(name):
        name = shortened(ascii(name)[1:-1], 40)
        fault = (
            "The name of an entry point consists of at most 64 ASCII letters, digits, dots, underscores and hyphens. "
            "The plugin must rename it in its pyproject.toml."
        )
    elif not point.pattern.match(point.value):
        value = shortened(ascii(point.value), 40)
        fault = f'The entry point {name} = {value} names no module: expected "pkg.module" or "pkg.module:object".'
    info = PluginInfo(name, "entry point", visible(point.value), distribution, version)
    return _Candidate(info, partial(_refuse, fault) if fault else point.load)


def _read_each_distribution() -> tuple[list[metadata.EntryPoint], list[_Candidate]]:
    """Return the entry points of all distributions that can be read, and the others that would have some."""
    points: list[metadata.EntryPoint] = []
    broken: list[_Candidate] = []
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name, version = _name_and_version(distribution)
        name = name or ""
        if _normal(name) in seen:
            continue
        seen.add(_normal(name))
        try:
            points += [point for point in distribution.entry_points if point.group == ENTRY_POINT_GROUP]
        except Exception as error:
            if f"[{ENTRY_POINT_GROUP}]" in (distribution.read_text("entry_points.txt") or ""):
                info = PluginInfo(name, "entry point", "entry_points.txt", name, version)
                fault = f"Its entry_points.txt can't be read: {describe_error(error)}"
                broken.append(_Candidate(info, partial(_refuse, fault)))
    return points, broken


def _name_and_version(distribution: metadata.Distribution) -> tuple[str | None, str | None]:
    about = distribution.metadata  # each access reads the file
    name, version = (visible(about[key]) if about and key in about else None for key in ("Name", "Version"))
    return name, version


def _refuse(fault: str) -> object:
    raise PluginError(fault)


def _import(name: str, folder: Path) -> _Candidate:
    if name.endswith(".py"):
        return _file(name, folder, "import", name)

    def load() -> object:
        files.make_importable(folder)
        return import_module(name)

    return _Candidate(PluginInfo(name, "import", name), load)


def _file(path: str, folder: Path, source: Source, name: str) -> _Candidate:
    def load() -> object:
        if source == "inline":
            files.check_owned(folder / path)
        files.make_importable(folder)
        return files.run_file((folder / path).resolve())

    shown = path if os.sep in path else f"./{path}"
    return _Candidate(PluginInfo(name, source, shown), load)


def _checked(blocked: Iterable[str], candidates: list[_Candidate]) -> set[str]:
    """Return the normalized blocked names. Raises UnknownName or PluginError for one that can't be blocked."""
    names = {_normal(name): name for name in blocked}
    built_in = {"pgzoo", *(_normal(module.removesuffix(".plugin")) for module in BUILT_INS)}
    known = {INLINE_NAME}.union(*(_names_to_block(candidate.info) for candidate in candidates))
    for normal, name in names.items():
        if normal in built_in:
            raise PluginError(f'The plugin "{name}" is built in and can\'t be blocked.')
        if normal not in known:
            raise UnknownName(f'No plugin "{name}" to block.{did_you_mean(normal, known)} See: pgzoo plugins')
    return set(names)


def _names_to_block(info: PluginInfo) -> set[str]:
    """Return the names by which a plugin can be blocked: its own and its distribution's; none for a built-in."""
    if info.source == "built-in":
        return set()
    return {_normal(name) for name in (info.name, info.distribution) if name}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
