"""Python objects among the settings of `pgzoo.run`: they are registered, and replaced by names."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from pgzoo.envs.ids import register_object
from pgzoo.errors import ConfigError
from pgzoo.registry import PluginCatalog
from pgzoo.registry.catalog import Entry, PluginInfo
from pgzoo.registry.changes import PYTHON
from pgzoo.registry.objects import ObjectKind, components_of, is_importable, name_object, names_of_references

__all__ = ["check_objects", "import_files", "register_objects"]

_log = logging.getLogger("pgzoo")


def import_files(settings: Mapping[str, Any], imports: Sequence[str | Path]) -> tuple[dict[str, Any], list[str]]:
    """Replace `FILE.py:NAME` as the algorithm, policy or estimator by `module:NAME`, and add the files to the imports.

    Raises:
        UsageError: two different files have the same name.
    """
    kinds = [kind for kind in ("algorithm", "policy", "estimator") if kind in settings]
    parts = [settings[kind] for kind in kinds]
    names, found = names_of_references([p.get("name") if isinstance(p, Mapping) else p for p in parts], imports)
    named = {
        kind: ({**part, "name": name} if "name" in part else part) if isinstance(part, Mapping) else name
        for kind, part, name in zip(kinds, parts, names, strict=True)
    }
    algorithm = named.get("algorithm")
    if algorithm != settings.get("algorithm"):
        named.setdefault("name", settings.get("name", str(algorithm).rpartition(":")[2]))
    return {**settings, **named}, found


def register_objects(settings: Mapping[str, Any], catalog: PluginCatalog) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings with names in place of objects, and the objects by name.

    An object may be given for the algorithm (a class), the policy (a torch module, its class, or a function that builds
    it), the environment (a class or function that makes it) and for wrappers (classes). A component that a plugin has
    registered gets the name under which it is registered.

    Raises:
        ConfigError: a setting has an object of another kind.
    """
    named, objects = dict(settings), dict[str, Any]()
    entries: list[Entry] = []
    plugin = PluginInfo(PYTHON, "inline", PYTHON)

    def registered(kind: ObjectKind, thing: Any) -> str:
        name = name_object(thing)
        for entry in catalog.entries(kind):
            if entry.target is thing or entry.target == name:
                return entry.name
        target, config = components_of(kind, thing)
        entries.append(Entry(kind, name, target, config, "", plugin))
        objects[name] = thing
        return name

    algorithm, policy, env = named.get("algorithm"), named.get("policy"), named.get("env")
    if algorithm is not None and not isinstance(algorithm, str):
        named["algorithm"] = registered("algorithm", algorithm)
        if named["algorithm"] in objects:
            named.setdefault("name", algorithm.__name__)
    if isinstance(policy, Mapping) and not isinstance(policy.get("name", ""), str):
        named["policy"] = {**policy, "name": registered("policy", policy["name"])}
    elif policy is not None and not isinstance(policy, str | Mapping):
        named["policy"] = registered("policy", policy)
    if env is not None and not isinstance(env, str):
        named["env"] = _register_env(env)
        objects[named["env"]] = catalog.environments[named["env"]] = env
    wrappers = named.get("wrappers")
    wrappers = (wrappers,) if inspect.isclass(wrappers) else wrappers
    if isinstance(wrappers, list | tuple):
        named["wrappers"] = tuple(one if isinstance(one, str) else _name_wrapper(one) for one in wrappers)
    if entries:
        catalog.add(plugin, object(), entries)
    return named, objects


def check_objects(objects: Mapping[str, Any], launcher: str, rollout_workers: int = 0) -> None:
    """Warn of what `resume` and `repro` of a run with objects need.

    Raises:
        ConfigError: other processes are to train it.
    """
    if not objects:
        return
    if launcher != "local":
        raise ConfigError(
            f"launcher {launcher}: its processes can't be given the objects {', '.join(objects)}. Use launcher local, "
            "or register them in a plugin."
        )
    if rollout_workers:
        raise ConfigError(
            f"rollout_workers {rollout_workers}: these processes can't be given the objects {', '.join(objects)}. Use "
            "0 rollout workers, or register the objects in a plugin."
        )
    lost = [name for name, thing in objects.items() if not is_importable(name, thing)]
    if lost:
        _log.warning(
            "resume and repro need the same objects again, and can't find %s. Define them at the top level of a "
            "module, if the run is to be resumed.",
            ", ".join(lost),
        )
    else:
        modules = dict.fromkeys(name.partition(":")[0] for name in objects)
        _log.warning(
            "resume and repro need the same objects again (%s): give them %s.",
            *(", ".join(objects), " ".join(f"--import {module}" for module in modules)),
        )


def _register_env(make: Any) -> str:
    """Register a class or function that makes an environment with gymnasium; return its id, `module:qualname`."""
    if not callable(make):
        what = f"an environment ({type(make).__name__})" if isinstance(make, gym.Env) else f"{type(make).__name__}"
        raise ConfigError(
            f"env: expected an id, or a class or function that makes the environment, not {what}. Each of the "
            "environments of a run is made anew: give lambda: MyEnv(...)."
        )
    module, _, name = name_object(make).partition(":")
    gym_id = re.sub(r"[^\w.]", "_", name)
    register_object(gym_id, make)
    return f"{module}:{gym_id}"


def _name_wrapper(wrapper: Any) -> str:
    if not callable(wrapper):
        raise ConfigError(f"wrappers: expected wrapper classes or their names, not {type(wrapper).__name__}.")
    name = name_object(wrapper)
    if not is_importable(name, wrapper) and not name.startswith("__main__:"):
        raise ConfigError(f"wrappers: {name} isn't a class at the top level of a module.")
    return name
