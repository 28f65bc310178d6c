"""Make pluggy managers with pgzoo's hooks, and register plugins with strict checks."""

from __future__ import annotations

import inspect

import pluggy

from pgzoo.errors import PluginError, did_you_mean
from pgzoo.registry import hookspecs

__all__ = ["new_manager", "register"]


def new_manager() -> pluggy.PluginManager:
    """Return a manager with pgzoo's hooks and no plugin."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def register(manager: pluggy.PluginManager, plugin: object, name: str) -> list[str]:
    """Register a module or an instance; return the names of the hooks that it implements.

    Raises PluginError for a class, a hook that doesn't exist (pluggy would ignore it), an argument that a
    hook doesn't have, a wrapper, and a function with the name of a hook that isn't marked as one.
    """
    if inspect.isclass(plugin):
        raise PluginError(f"{plugin.__name__} is a class, not an instance. Did you forget the ()?")
    known = [hook for hook in vars(hookspecs) if hook.startswith("pgzoo_")]
    try:
        manager.register(plugin, name)
    except pluggy.PluginValidationError as error:
        raise PluginError(_other_arguments(plugin, known) or " ".join(str(error).split())) from error
    found = []
    for caller in manager.get_hookcallers(plugin) or ():
        own = [impl for impl in caller.get_hookimpls() if impl.plugin is plugin]
        if any(impl.wrapper or impl.hookwrapper for impl in own):
            raise PluginError(f'"{caller.name}" can\'t be a hook wrapper.')
        if caller.has_spec():
            found.append(caller.name)
        elif not all(impl.optionalhook for impl in own):
            raise PluginError(f'There is no hook "{caller.name}".{did_you_mean(caller.name, known)}')
    for hook in known:
        if hook not in found and inspect.isroutine(getattr(plugin, hook, None)):
            raise PluginError(f'"{hook}" is not marked as a hook: put @pgzoo.hookimpl above it.')
    return found


def _other_arguments(plugin: object, known: list[str]) -> str:
    """Describe an argument that a plugin's function has and its hook doesn't; "" if there is none."""
    for hook in known:
        if inspect.isroutine(function := getattr(plugin, hook, None)):
            takes = list(inspect.signature(getattr(hookspecs, hook)).parameters)
            own = inspect.signature(function).parameters.values()
            for name in [p.name for p in own if p.default is p.empty and p.name not in takes]:
                return f'"{hook}" takes {" and ".join(takes)}, not {name}.{did_you_mean(name, takes)}'
    return ""
