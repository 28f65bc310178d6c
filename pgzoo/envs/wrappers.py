"""Gymnasium wrappers that a run puts around its environments, by name. Imports no torch: processes start here."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from operator import attrgetter
from typing import Any

import gymnasium as gym

from pgzoo.envs.ids import missing_package
from pgzoo.errors import EnvError, UsageError, raised_at

__all__ = ["Wrap", "apply", "find_wrappers", "import_wrappers"]

Wrap = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]

NORMALIZING: dict[type, str] = {
    gym.wrappers.NormalizeObservation: "--normalize-obs",
    gym.wrappers.NormalizeReward: "--normalize-reward",
}
"""Wrappers that are refused, and the option to use in place of each."""


def import_wrappers(names: Iterable[str]) -> None:
    """Import the modules of wrappers that the user named on this command. Raises UsageError if one can't be imported.

    Names that were read from the files of a run must not come here: files never cause code to be loaded.
    """
    for name in names:
        module = name.partition(":")[0]
        try:
            import_module(module)
        except (Exception, SystemExit) as error:
            raise UsageError(
                f'The module of wrapper "{name}" can\'t be imported: {type(error).__name__}: {error}{raised_at(error)}.'
            ) from error


def find_wrappers(names: Iterable[str], frame_stack: int = 0) -> tuple[Wrap, ...]:
    """Return the wrappers of these names, `module:Class`, in order; one that stacks frames comes last.

    Modules of gymnasium are imported. Any other module must have been imported already.

    Raises:
        UsageError: a module isn't imported, or it has no wrapper of this name.
    """
    found: list[Wrap] = [_find(name) for name in names]
    if frame_stack:
        found.append(functools.partial(FrameStackObservation, stack_size=frame_stack))
    return tuple(found)


def apply(env: gym.Env[Any, Any], env_id: str, wrappers: Iterable[Wrap]) -> gym.Env[Any, Any]:
    """Return the environment inside these wrappers, the last one outermost. Raises EnvError if one can't be made."""
    for wrapper in wrappers:
        made = wrapper.func if isinstance(wrapper, functools.partial) else wrapper
        name = f"{made.__module__}:{made.__qualname__}"
        try:
            env = wrapper(env)
        except Exception as error:
            if missing := missing_package(error):
                raise EnvError(f'wrapper "{name}" can\'t be used here: {missing}.') from error
            raise EnvError(
                f'wrapper "{name}" can\'t be put around environment "{env_id}": {type(error).__name__}: {error}'
                f"{raised_at(error)}. A wrapper is called with the environment alone."
            ) from error
    return env


class FrameStackObservation(gym.wrappers.FrameStackObservation):  # don't rename: saved states contain the name
    """Gymnasium's wrapper, but it keeps copies: the environment may return the same array in every step."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        result = super().reset(**kwargs)
        self.obs_queue.extend([copy.deepcopy(self.obs_queue[-1])] * self.stack_size)
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = super().step(action)
        self.obs_queue[-1] = copy.deepcopy(self.obs_queue[-1])
        return result


def _find(name: str) -> Wrap:
    module, _, path = name.partition(":")
    if module.partition(".")[0] == "gymnasium":
        import_wrappers([name])
    elif module not in sys.modules:
        raise UsageError(
            f'The wrapper "{name}" is in module "{module}", which is not imported. pgzoo imports the '
            f"code of a run only if you name it. Add: --import {module}"
        )
    try:
        found = attrgetter(path)(sys.modules[module])
    except AttributeError:
        raise UsageError(f'There is no wrapper "{name}": module "{module}" has no {path}.') from None
    if not (isinstance(found, type) and issubclass(found, gym.Wrapper)):
        raise UsageError(f'"{name}" is no wrapper: expected a subclass of gymnasium.Wrapper.')
    if option := NORMALIZING.get(found):
        raise UsageError(
            f'The wrapper "{name}" keeps statistics of its own in each environment, which evaluations and saved '
            f"policies don't get. Use {option}."
        )
    return found
