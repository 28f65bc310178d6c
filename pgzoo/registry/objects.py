"""Components that are given as Python objects, instead of by the name under which a plugin registered them.

Such a component is named `module:qualname`. Its name leads back to it in a process that imports its module.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterable
from importlib import import_module
from operator import attrgetter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from pgzoo.config import ActionConfig, Settings
from pgzoo.errors import ConfigError, UnfitError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ObjectKind",
    "components_of",
    "find_imported",
    "is_importable",
    "name_object",
    "register_env",
]

ObjectKind = Literal["algorithm", "policy"]


def name_object(thing: Any) -> str:
    """Return `module:qualname` of a class or function; of any other object, that of its class and "()"."""
    while not hasattr(thing, "__qualname__") and hasattr(thing, "func"):  # functools.partial
        thing = thing.func
    if hasattr(thing, "__qualname__"):
        return f"{thing.__module__}:{thing.__qualname__}"
    return f"{type(thing).__module__}:{type(thing).__qualname__}()"


def find_object(name: str) -> Any:
    """Return the class or function of a name `module:qualname`, or None. Imports nothing.

    It must be defined in that module: the names of other modules that are imported there are not found.
    """
    module, _, path = name.partition(":")
    try:
        found = attrgetter(path)(sys.modules[module])
    except (KeyError, AttributeError):
        return None
    return found if name_object(found) == name else None


def is_importable(name: str, thing: Any) -> bool:
    """Return whether another process that imports the module finds the same object under this name."""
    return name.partition(":")[0] != "__main__" and find_object(name) is thing


def find_imported(name: str, imports: Iterable[str]) -> Any:
    """Return the object of a name, or None if the user didn't ask for its module: `imports` are modules and files.

    A name from the files of a run must not lead to any other module, such as one of Python's own.
    """
    module = name.partition(":")[0]
    asked = any(module == (PurePath(one).stem if one.endswith(".py") else one) for one in imports)
    return find_object(name) if asked else None


def register_env(name: str, imports: Iterable[str]) -> None:
    """Register the environment `module:qualname` with gymnasium, if it is a class or function of an imported module."""
    import gymnasium as gym

    short = name.partition(":")[2]
    if ":" in name and short not in gym.registry and callable(make := find_imported(name, imports)):
        gym.register(short, entry_point=make)


def components_of(kind: ObjectKind, thing: Any) -> tuple[Any, Any]:
    """Return the target and the config model with which an algorithm or a policy is registered.

    Raises:
        ConfigError: it is neither.
    """
    if kind == "algorithm":
        return _algorithm(thing)
    return _policy(thing)


def _algorithm(thing: Any) -> tuple[Any, Any]:
    if not (inspect.isclass(thing) and any(hasattr(thing, name) for name in ("loss", "update", "loop"))):
        raise ConfigError(
            f"algorithm: expected a name or a class with a method loss, update or loop, not {_shown(thing)}. "
            "See: pgzoo algorithms"
        )
    if not hasattr(thing, "estimator"):
        raise ConfigError(
            f"algorithm: class {thing.__qualname__} has no attribute estimator, the name of its default return "
            'estimator, such as "reward-to-go".'
        )
    return thing, _config(thing)


def _policy(thing: Any) -> tuple[Any, Any]:
    from torch import nn

    module_policy = import_module("pgzoo.policies.module").module_policy  # by name, as plugins are loaded
    if isinstance(thing, nn.Module):
        return module_policy(_copies_of(thing)), ActionConfig
    if not callable(thing):
        raise ConfigError(
            f"policy: expected a name, a torch module, its class, or a function that builds it, not {_shown(thing)}. "
            "See: pgzoo policies"
        )
    module_class = inspect.isclass(thing) and issubclass(thing, nn.Module)
    if module_class or _takes(thing, 2):
        return module_policy(thing), ActionConfig
    if _takes(thing, 3):
        return thing, _config(thing)
    raise ConfigError(
        f"policy: {_shown(thing)} must take (inputs, outputs) and return a torch module, or be a policy factory that "
        "takes (config, spec, needs)."
    )


def _copies_of(module: nn.Module) -> Any:
    """Return a function that builds the policy from a module: every seed starts with the module's own weights."""

    def build(inputs: Any, outputs: int) -> nn.Module:
        made = copy.deepcopy(module)
        found = _outputs(made, inputs)
        if found != outputs:
            raise UnfitError(
                f"the policy {type(module).__name__} has {found} outputs, and {outputs} are needed (1 for a critic). "
                "Give its class, or a function (inputs, outputs) that builds it, instead of one module."
            )
        return made

    build.__qualname__ = type(module).__qualname__
    return build


def _outputs(module: nn.Module, inputs: Any) -> int:
    import torch

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return int(module(torch.zeros(2, *((inputs,) if isinstance(inputs, int) else inputs))).shape[-1])


def _takes(thing: Any, count: int) -> bool:
    """Return whether a callable can be called with so many arguments."""
    try:
        inspect.signature(thing).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def _config(thing: Any) -> Any:
    """Return the model of a component's settings: its attribute `config`, if that is one."""
    model = getattr(thing, "config", None)
    return model if inspect.isclass(model) and issubclass(model, Settings) else None


def _shown(thing: Any) -> str:
    return f"{name_object(thing)}" if callable(thing) else f"an object of {type(thing).__name__}"
