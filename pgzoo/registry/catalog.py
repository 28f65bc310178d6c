"""The components that plugins register, by kind and name.

A component is imported by `Entry.load`, when it is used.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from pgzoo.errors import PluginError, UnknownName, did_you_mean, shown_path, visible
from pgzoo.extras import PLUGINS
from pgzoo.quiet import prints_to_stderr
from pgzoo.registry.presets import Preset, preset_files

__all__ = ["KINDS", "ComponentKind", "Entry", "PluginCatalog", "PluginInfo", "Preset", "Registry", "Source", "Status"]

ComponentKind = Literal[
    "algorithm",
    "policy",
    "estimator",
    "env_backend",
    "env_state",
    "dynamics",
    "listener",
    "diagnostic",
    "launcher",
    "preset",
    "command",
]
Source = Literal["built-in", "entry point", "import", "inline"]
Status = Literal["ok", "broken", "blocked"]

KINDS: tuple[ComponentKind, ...] = get_args(ComponentKind)
_LISTED_BY: Mapping[ComponentKind, str] = {
    "algorithm": "pgzoo algorithms",
    "policy": "pgzoo policies",
    "estimator": "pgzoo estimators",
    "diagnostic": "pgzoo diagnostics",
    "preset": "pgzoo presets",
    "command": "pgzoo --help",
}
LONGEST_NAME = 64
SETTING = "A setting is a bool, int, float, str, Literal, tuple or None; write"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True)
class PluginInfo:
    """A plugin: its origin and the result of its registration.

    `module` is the loaded module (a dotted name or a path); `error` is the reason why a plugin is broken; `heavy` lists
    the slow packages that its registration was the first to import; `hooks` are those it implements.
    """

    name: str
    source: Source
    module: str
    distribution: str | None = None
    version: str | None = None
    status: Status = "ok"
    error: str = ""
    seconds: float = 0.0
    heavy: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """The distribution and version, or the file of a plugin that isn't installed."""
        return f"{self.distribution} {self.version}" if self.distribution else self.module

    def __str__(self) -> str:
        return f'"{self.name}" ({self.origin})'


@dataclass(frozen=True)
class Entry:
    """A registered component. `target` and `config` are objects, or strings "pkg.module:attr" until loaded.

    `facts` are shown in the listings besides the summary.
    """

    kind: ComponentKind
    name: str
    target: Any
    config: Any
    summary: str
    plugin: PluginInfo
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """That of its plugin; for a class or function that no plugin has registered, its file, or its module."""
        if ":" not in self.name:
            return self.plugin.origin
        module = self.name.partition(":")[0]
        file = getattr(sys.modules.get(module), "__file__", None)
        return shown_path(file) if file else module

    @property
    def owner(self) -> str:
        """The plugin with its origin, or what `origin` says of a class or function that no plugin has registered."""
        return self.origin if ":" in self.name else f"plugin {self.plugin}"

    def load(self) -> Any:
        """Import and return the component. Raises PluginError if the import fails."""
        return self._resolve(self.target)

    def load_config(self) -> Any:
        """Return the component's config model, or None if it has none.

        Raises PluginError as `load` does, and for an annotation that names something undefined.
        """
        model = self._resolve(self.config)
        if not getattr(model, "__pydantic_complete__", True):
            try:
                model.model_rebuild()
            except Exception as error:
                raise PluginError(
                    f'The settings {model.__qualname__} of {kind_label(self.kind)} "{self.name}" of {self.owner} '
                    f"have an annotation that can't be used: {describe_error(error)}. {SETTING} "
                    "c: Annotated[float, Field(description=...)] = 0.01"
                ) from error
        return model

    def _resolve(self, target: Any) -> Any:
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        try:
            with prints_to_stderr():  # keep a plugin's output out of a command's JSON
                return attrgetter(attribute)(import_module(module))
        except (Exception, SystemExit) as error:
            own = self.plugin.source == "built-in"
            advice = "" if own else f" Fix or reinstall the plugin, or disable it: --no-plugin {self.plugin.name}"
            raise PluginError(
                f'The {kind_label(self.kind)} "{self.name}" of plugin {self.plugin} can\'t be loaded '
                f'from "{target}": {describe_error(error)}.{advice}'
            ) from error


class Registry:
    """The argument of `pgzoo_register`: registers the components of one plugin.

    A `target` or `config` is the object itself or a string "pkg.module:attr", which defers the import until
    the component is used. Names consist of lowercase letters, digits and hyphens. Every method raises PluginError
    for an invalid name or target, and for a name that the plugin has already registered.
    """

    def __init__(self, plugin: PluginInfo) -> None:
        self.plugin = plugin
        self.entries: dict[tuple[ComponentKind, str], Entry] = {}

    def algorithm(
        self,
        name: str,
        target: object,
        *,
        config: object = None,
        summary: str = "",
        family: str = "",
        actions: str = "any",
        recurrent: bool = True,
        seeds: str = "native",
        source: str = "",
    ) -> None:
        """Register a training algorithm.

        All arguments but `name`, `target` and `config` are shown in the listings.

        Args:
            name: its name on the command line.
            target: the algorithm.
            config: the model of its settings.
            summary: one line.
            family: the heading that it is listed under.
            actions: the supported action spaces, in words. If it is just "Box" or "Discrete", the error for another
                action space is: Algorithm "NAME" supports only Box actions.
            recurrent: whether it trains policies with memory.
            seeds: "native" if seeds are trained as one computation, "loop" if one after the other.
            source: a paper.
        """
        facts = {"family": family, "actions": actions, "recurrent": recurrent, "seeds": seeds, "source": source}
        self._add("algorithm", name, target, config, summary, facts)

    def policy(self, name: str, target: object, *, config: object = None, summary: str = "") -> None:
        """Register a policy (a network with its distribution); `config` is the model of its settings."""
        self._add("policy", name, target, config, summary)

    def estimator(self, name: str, target: object, *, config: object = None, summary: str = "") -> None:
        """Register an estimator of returns and advantages; `config` is the model of its settings."""
        self._add("estimator", name, target, config, summary)

    def env_backend(self, name: str, target: object, *, summary: str = "") -> None:
        """Register a way to run many environments at once."""
        self._add("env_backend", name, target, None, summary)

    def env_state(self, name: str, target: object, *, summary: str = "") -> None:
        """Register a way to save and restore certain environments, so that runs on them resume exactly.

        `target()` returns a `protocols.EnvState`.
        """
        self._add("env_state", name, target, None, summary)

    def dynamics(self, name: str, target: object, *, envs: Sequence[str], summary: str = "") -> None:
        """Register the dynamics of the environments with the ids `envs`, for the backend `compiled`.

        `target(env)` returns a `Dynamics` for gymnasium's environment `env` (without its wrappers), which was made with
        the run's keyword arguments. It raises UnfitError where the dynamics don't fit these arguments.
        """
        ids = () if isinstance(envs, str) else tuple(envs)
        if not ids or not all(isinstance(env, str) for env in ids):
            raise PluginError(
                f'The dynamics "{name}" have envs={envs!r:.60}; expected a list of environment ids: envs=["MyEnv-v0"].'
            )
        self._add("dynamics", name, target, None, summary, {"envs": ids})

    def listener(self, name: str, target: object, *, summary: str = "", display: bool = False) -> None:
        """Register a listener: `target(context)`, called once per run, returns an object with event hooks or None.

        A `display` receives the events of all seeds of a command; other listeners receive those of the seeds trained in
        their process.
        """
        self._add("listener", name, target, None, summary, {"display": True} if display else {})

    def diagnostic(self, name: str, target: object, *, summary: str = "") -> None:
        """Register a diagnostic: a class that measures the training of a run and changes nothing."""
        self._add("diagnostic", name, target, None, summary)

    def launcher(self, name: str, target: object, *, summary: str = "") -> None:
        """Register a launcher, which splits the seeds of a run among processes: `target(request)`, once per run."""
        self._add("launcher", name, target, None, summary)

    def preset(
        self,
        name: str,
        *,
        algorithm: str,
        env: str | None = None,
        settings: Mapping[str, Any],
        summary: str = "",
        auto: bool = False,
    ) -> None:
        """Register settings for an algorithm, on one environment or on any; with `auto`, they apply by default."""
        preset = Preset(algorithm, env, MappingProxyType(dict(settings)), auto)
        self._add("preset", name, preset, None, summary)

    def presets(self, folder: str | os.PathLike[str]) -> None:
        """Register a preset for each YAML file below `folder`, at ALGORITHM/ENV.yml or ALGORITHM/NAME.yml.

        `ppo/Pendulum-v1.yml` has the settings of algorithm `ppo` for Pendulum-v1. They apply by default, and the preset
        is called `ppo-pendulum`: the algorithm and the lowercase environment id, without namespace and version. If a
        file isn't named after an id with a version, such as `reinforce/notebook.yml`, its settings fit every
        environment and apply only if the preset, `notebook`, is named. The first line is a comment with the summary.
        A file is parsed when its settings are used. Raises OSError if one can't be opened.
        """
        if not Path(folder).is_dir():
            raise PluginError(
                f"{os.fspath(folder)!r} isn't a folder of presets. A folder next to the plugin's module is "
                'Path(__file__).parent / "presets".'
            )
        for file in preset_files(Path(folder)):
            self._add("preset", file.name, file.preset, None, file.summary)

    def command(self, name: str, target: object, *, summary: str = "") -> None:
        """Register a subcommand of `pgzoo`: `target` is a click command, imported when it is called.

        Only an installed plugin can add one: commands are collected before files of the working directory are read.
        """
        if self.plugin.source in ("import", "inline"):
            raise PluginError(f'Only an installed plugin can add a command; "{name}" comes from a file.')
        self._add("command", name, target, None, summary)

    def _add(
        self,
        kind: ComponentKind,
        name: str,
        target: object,
        config: object,
        summary: str,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise PluginError(
                f"Names consist of at most {LONGEST_NAME} lowercase letters, digits and hyphens; got "
                f"{shortened(ascii(name), 40)} for the {kind_label(kind)}."
            )
        if (kind, name) in self.entries:
            raise PluginError(f'The {kind_label(kind)} "{name}" is registered twice by this plugin.')
        for given in (target, config):
            if isinstance(given, str) and not _TARGET.fullmatch(given):
                raise PluginError(
                    f'The {kind_label(kind)} "{name}" has the target {given!r}; expected "pkg.module:attr".'
                )
        summary = visible(" ".join(str(summary or _first_line(target)).split()))
        self.entries[kind, name] = Entry(
            kind, name, target, config, summary, self.plugin, MappingProxyType(dict(facts))
        )


@dataclass
class PluginCatalog:
    """All registered plugins and components. `discover` fills it."""

    plugins: list[PluginInfo] = field(default_factory=list)
    objects: dict[str, object] = field(default_factory=dict)
    """The plugin objects in use, by plugin name: they may implement event hooks."""
    _entries: dict[tuple[ComponentKind, str], Entry] = field(default_factory=dict)
    environments: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """The class or function that was given to `pgzoo.run` as the environment, by the id that the run records."""

    @property
    def broken(self) -> list[PluginInfo]:
        """The plugins that could not be registered."""
        return [plugin for plugin in self.plugins if plugin.status == "broken"]

    @property
    def blocked(self) -> list[str]:
        """The names of the disabled plugins."""
        return [plugin.name for plugin in self.plugins if plugin.status == "blocked"]

    @property
    def imports(self) -> list[str]:
        """The modules and files that were imported as plugins."""
        return [plugin.name for plugin in self.plugins if plugin.source == "import" and plugin.status == "ok"]

    def copy(self) -> PluginCatalog:
        """Return a catalog with the same plugins, to which others can be added."""
        return PluginCatalog(list(self.plugins), dict(self.objects), dict(self._entries), dict(self.environments))

    def entries(self, kind: ComponentKind) -> list[Entry]:
        """Return the entries of a kind, in order of registration."""
        return [entry for entry in self._entries.values() if entry.kind == kind]

    def names(self, kind: ComponentKind) -> list[str]:
        """Return the names of a kind, in order of registration."""
        return [entry.name for entry in self.entries(kind)]

    def get(self, kind: ComponentKind, name: str) -> Entry:
        """Return one entry.

        A name `module:qualname` is that of a Python object, for example of one which was passed to `pgzoo.run`; it is
        found if the user has imported its module.

        Raises:
            UnknownName: the message lists broken and blocked plugins, which might provide the name.
            ConfigError: the object of that name can't be used as such a component.
        """
        if (entry := self._entries.get((kind, name))) is not None:
            return entry
        if ":" in name and (kind == "algorithm" or kind == "policy" or kind == "estimator"):
            from pgzoo.registry.objects import find_component

            target, config = find_component(kind, name, self.imports)
            info = PluginInfo("python", "import", name.partition(":")[0])
            facts = {"recurrent": True} if kind == "algorithm" else {}  # the default of `Registry.algorithm`
            self._entries[kind, name] = Entry(kind, name, target, config, _first_line(target), info, facts)
            return self._entries[kind, name]
        raise UnknownName(self._unknown(kind, name))

    def auto_preset(self, algorithm: str, env: str) -> Entry | None:
        """Return the preset that applies by default; one for this environment takes precedence."""
        found: dict[str | None, Entry] = {
            entry.target.env: entry
            for entry in self.entries("preset")
            if entry.target.auto and entry.target.algorithm == algorithm
        }
        return found.get(env) or found.get(None)

    def add(self, info: PluginInfo, plugin: object, entries: Iterable[Entry]) -> None:
        """Add all components of a plugin, or none: raise PluginError if another plugin has one of its names."""
        entries = list(entries)
        for entry in entries:
            if first := self._clash(entry):
                raise PluginError(_duplicate(entry, first))
        self.plugins.append(info)
        self.objects[info.name] = plugin
        for entry in entries:
            self._entries[entry.kind, entry.name] = replace(entry, plugin=info)

    def _clash(self, entry: Entry) -> Entry | None:
        same_name = self._entries.get((entry.kind, entry.name))
        if entry.kind == "dynamics" and not same_name:
            envs = set(entry.facts["envs"])
            return next((other for other in self.entries("dynamics") if envs & set(other.facts["envs"])), None)
        if same_name or entry.kind != "preset" or not entry.target.auto:
            return same_name
        key = (entry.target.algorithm, entry.target.env)
        presets = (other for other in self.entries("preset") if other.target.auto)
        return next((other for other in presets if (other.target.algorithm, other.target.env) == key), None)

    def _unknown(self, kind: ComponentKind, name: str) -> str:
        package = PLUGINS.get((kind, name))
        if package and all(plugin.distribution != package for plugin in self.plugins):
            return (
                f'{kind_label(kind).capitalize()} "{name}" is in the plugin {package}, which is not installed. '
                f"Install it from a checkout of pgzoo: pip install ./plugins/{package}"
            )
        lines = [f'No {kind_label(kind)} "{name}".{did_you_mean(name, self.names(kind))}']
        if name.endswith(".py"):
            return f'No {kind_label(kind)} "{name}". To use one that a file defines, add its name: {name}:NAME'
        lines[0] += f" See: {_LISTED_BY.get(kind, 'pgzoo plugins')}"
        return "\n".join([*lines, *self.absent_plugins()])

    def absent_plugins(self) -> list[str]:
        """Return a line for each plugin that failed to load, and one for the blocked ones; any may have the name."""
        lines = [f"Plugin {plugin} failed to load: {plugin.error}" for plugin in self.broken]
        blocked = [str(plugin) for plugin in self.plugins if plugin.status == "blocked"]
        if blocked:
            lines.append(f"Disabled plugins: {', '.join(blocked)}")
        return lines


def describe_error(error: BaseException) -> str:
    """Return an exception in one phrase: a PluginError as its message, others with their type, in one line."""
    if isinstance(error, PluginError):
        return str(error)
    if isinstance(error, AttributeError) and isinstance(error.obj, Registry):
        methods = [name for name in vars(Registry) if not name.startswith("_")]
        return f'The registry has no method "{error.name}".{did_you_mean(error.name or "", methods)}'
    try:
        text = " ".join(str(error).split())
    except Exception:  # the code of a plugin may define the exception
        text = ""
    if type(error).__module__.startswith("pydantic."):
        text = _of_setting(text) or text.partition(" For further information visit ")[0]
    return shortened(f"{type(error).__name__}: {text}".removesuffix(".").removesuffix(": "), 500)


def _of_setting(text: str) -> str:
    """Return what pydantic says about the annotation of a field in the words of settings, or "" for something else."""
    if found := re.match(r"Unable to generate pydantic-core schema for (?:<class '(.+?)'>|(.+?))\. Set ", text):
        kind = found[1] or found[2]
        return f"a setting can't be of type {kind}. {SETTING} c: Annotated[float, Field(description=...)] = 0.01"
    if found := re.match(r"A non-annotated attribute was detected: `(\w+) = (.+?)`\. All ", text):
        name, value = found[1], shortened(found[2], 40)
        return f"the setting {name} has no type. {SETTING} {name}: Annotated[float, Field(description=...)] = {value}"
    return ""


def shortened(text: str, length: int) -> str:
    """Return a text, cut to `length` characters if it is longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _duplicate(entry: Entry, first: Entry) -> str:
    if entry.name == first.name:
        kind = kind_label(entry.kind)
        clash = f'The {kind} "{entry.name}" of plugin {entry.plugin} is taken by plugin {first.plugin}.'
    elif entry.kind == "dynamics":
        both = ", ".join(sorted(set(entry.facts["envs"]) & set(first.facts["envs"])))
        clash = (
            f'The dynamics "{entry.name}" of plugin {entry.plugin} are for {both}, as are the dynamics "{first.name}" '
            f"of plugin {first.plugin}."
        )
    else:
        clash = (
            f'The preset "{entry.name}" of plugin {entry.plugin} would be the default preset where "{first.name}" '
            f"of plugin {first.plugin} is already."
        )
    block = [plugin.name for plugin in (entry.plugin, first.plugin) if plugin.source != "built-in"]
    ways = " or ".join(f"--no-plugin {name}" for name in block)
    remedy = f"Rename it in {entry.plugin.module}, or block" if entry.name == first.name else "Block"
    one = "one" if len(block) > 1 else "the plugin"
    return f"{clash} {remedy} {one}: {ways} (or PGZOO_DISABLE_PLUGINS={block[0]})."


def kind_label(kind: ComponentKind) -> str:
    """Return a kind in words."""
    return {"env_backend": "environment backend", "env_state": "environment state"}.get(kind, kind)


def _first_line(target: object) -> str:
    # not for instances, whose docstring is that of their class
    described = inspect.isclass(target) or inspect.isroutine(target)
    return (inspect.getdoc(target) or "").partition("\n")[0] if described else ""
