"""Components that are given as Python objects, instead of by the name under which a plugin registered them.

Such a component is named `module:qualname`. Its name leads back to it in a process that imports its module. A user may
also write `FILE.py:qualname`, which stands for the same name and an import of the file.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from operator import attrgetter
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from pgzoo.config import ActionConfig, Settings
from pgzoo.errors import ConfigError, UnfitError, UnknownName, UsageError, did_you_mean
from pgzoo.registry.files import as_names, module_of

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ObjectKind",
    "components_of",
    "find_component",
    "find_imported",
    "is_importable",
    "name_object",
    "names_of_references",
    "register_env",
]

ObjectKind = Literal["algorithm", "policy", "estimator"]

CONFIGS = "pgzoo.AlgorithmConfig (algorithms) or pgzoo.ComponentConfig (policies, estimators)"

ALGORITHM_METHODS = {
    "loss": "policy, params, batch, hyper",
    "update": "ctx, state, trajectory",
    "loop": "ctx",
}
"""The methods of which an algorithm has at least one, and their arguments."""


def names_of_references(references: Sequence[Any], imports: Sequence[str | Path]) -> tuple[list[Any], list[str]]:
    """Replace each `FILE.py:qualname` by `module:qualname`; leave everything else unchanged.

    Returns the names and `imports` with the files added.

    Raises:
        UsageError: two different files have the same name, so that they would be the same module.
    """
    names, found = list[Any](), as_names(imports, "imports")
    for reference in references:
        path, colon, attribute = reference.rpartition(":") if isinstance(reference, str) else ("", "", "")
        if not colon or not path.endswith(".py"):
            names.append(reference)
            continue
        names.append(f"{module_of(path)}:{attribute}")
        for other in found:
            if PurePath(other).name == PurePath(path).name and Path(other).resolve() != Path(path).resolve():
                raise UsageError(f"{other} and {path} would be the same module. Rename one of the files.")
        if path not in found:
            found.append(path)
    return names, found


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
    return find_object(name) if _import_of(name, imports) else None


def _import_of(name: str, imports: Iterable[str]) -> str | None:
    """Return the module or file among `imports` that has the module of a name, or None."""
    module = name.partition(":")[0]
    return next((one for one in imports if module_of(one) == module), None)


def find_component(kind: ObjectKind, name: str, imports: Sequence[str]) -> tuple[Any, Any]:
    """Return the target and the config model of the component `module:qualname`, in a module that the user imported.

    Raises:
        UnknownName: the user didn't ask for its module, or the module doesn't define the name.
        ConfigError: the object can't be used as such a component. The message names its file and line.
    """
    module, _, path = name.partition(":")
    if module.endswith(".py"):
        raise UnknownName(
            f'"{name}": a class in a file is named on the command line or in pgzoo.run, because settings files load no '
            f"code. In a settings file, write {module_of(module)}:{path}, and add: --import {module}"
        )
    source = _import_of(name, imports)
    if source is None and (module == "__main__" or "<" in path):
        raise UnknownName(
            f'No {kind} "{name}". It was defined in a notebook, a script or a function, and can\'t be found again. '
            "Define it at the top level of a module and train again."
        )
    if source is None:
        raise UnknownName(
            f'No {kind} "{name}". It is defined in Python, but pgzoo imports the code of a run only if you '
            f"name it. Give its module, or its file {module}.py by its path (in Python, with the argument imports): "
            f"--import {module}"
        )
    found = find_object(name)
    if found is None:
        known = [other for other in vars(sys.modules[module]) if find_object(f"{module}:{other}") is not None]
        raise UnknownName(f'{source} defines no {kind} "{path}".{did_you_mean(path, known)}')
    try:
        return components_of(kind, found)
    except ConfigError as error:
        raise ConfigError(f"{source}{_line_of(found)}: {error}") from None


def _line_of(thing: Any) -> str:
    """Return ", line N", where a class or function is defined."""
    try:
        return f", line {inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return ""


def register_env(name: str, imports: Iterable[str]) -> None:
    """Register the environment `module:qualname` with gymnasium, if it is a class or function of an imported module."""
    import gymnasium as gym

    from pgzoo.envs.ids import register_object

    short = name.partition(":")[2]
    if ":" in name and short not in gym.registry and callable(make := find_imported(name, imports)):
        register_object(short, make)


def components_of(kind: ObjectKind, thing: Any) -> tuple[Any, Any]:
    """Return the target and the config model with which an algorithm, a policy or an estimator is registered.

    Raises:
        ConfigError: the object can't be used as one.
    """
    return {"algorithm": _algorithm, "policy": _policy, "estimator": _estimator}[kind](thing)


def _estimator(thing: Any) -> tuple[Any, Any]:
    if not inspect.isfunction(thing):
        raise ConfigError(f"estimator: expected a function, not {_shown(thing)}. See: docs/estimators.md")
    return thing, _config(thing)


def _algorithm(thing: Any) -> tuple[Any, Any]:
    methods = [name for name in ALGORITHM_METHODS if inspect.isclass(thing) and hasattr(thing, name)]
    if not methods:
        raise ConfigError(
            f"algorithm: expected a name or a class with a method loss, update or loop, not {_shown(thing)}. "
            "See: pgzoo algorithms"
        )
    if not hasattr(thing, "estimator"):
        raise ConfigError(
            f"algorithm: class {thing.__qualname__} has no attribute estimator, the name of its default return "
            'estimator, such as "reward-to-go".'
        )
    for name in methods:
        arguments = ALGORITHM_METHODS[name]
        bound = isinstance(inspect.getattr_static(thing, name), staticmethod | classmethod)
        if not _takes(getattr(thing, name), len(arguments.split(",")) + (not bound)):
            raise ConfigError(
                f"algorithm: {name} of class {thing.__qualname__} must take the arguments (self, {arguments})."
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
    """Return the model of a component's settings, its attribute `config`, or None. Raises ConfigError for another."""
    model = getattr(thing, "config", None)
    if not inspect.isclass(model):
        return None
    if not issubclass(model, Settings):
        raise ConfigError(f"{thing.__name__}.config must be a subclass of {CONFIGS}, not {_shown(model)}")
    return model


def _shown(thing: Any) -> str:
    return name_object(thing) if callable(thing) else f"an object of {type(thing).__name__}"
