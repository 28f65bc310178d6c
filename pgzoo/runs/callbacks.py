"""Callbacks of `pgzoo.run`: functions and objects that receive the events of one run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pgzoo.errors import ConfigError, PluginError
from pgzoo.markers import hookimpl
from pgzoo.protocols import RunControl
from pgzoo.runs.relay import HOOKS, add_listener, listener_manager
from pgzoo.training.events import Event

__all__ = ["TAG", "as_listeners", "warning"]

TAG = "pgzoo.callbacks"
"""Tag with the names of the callbacks of a run."""


class FunctionListener:
    """A listener that calls one function with every event."""

    def __init__(self, function: Callable[..., object]) -> None:
        with_control = _takes_control(function)

        def call(event: Event, control: RunControl) -> None:
            function(*((event, control) if with_control else (event,)))

        self.call = call

    @hookimpl
    def pgzoo_run_started(self, event: Event, control: RunControl) -> None:
        """Call the function."""
        self.call(event, control)

    @hookimpl
    def pgzoo_episodes_finished(self, event: Event, control: RunControl) -> None:
        """Call the function."""
        self.call(event, control)

    @hookimpl
    def pgzoo_update_done(self, event: Event, control: RunControl) -> None:
        """Call the function."""
        self.call(event, control)

    @hookimpl
    def pgzoo_evaluated(self, event: Event, control: RunControl) -> None:
        """Call the function."""
        self.call(event, control)

    @hookimpl
    def pgzoo_checkpoint_saved(self, event: Event, control: RunControl) -> None:
        """Call the function."""
        self.call(event, control)

    @hookimpl
    def pgzoo_run_ended(self, event: Event, control: RunControl) -> None:
        """Call the function."""
        self.call(event, control)


def as_listeners(callbacks: Iterable[Any]) -> dict[str, object]:
    """Return the listeners of callbacks, by the names that messages use.

    A callback is a function of `(event, control)` or of `(event)`, or an object with event hooks.

    Raises:
        ConfigError: one is neither of them, or its hooks are wrong.
    """
    if not isinstance(callbacks, Iterable):
        raise ConfigError(f"callbacks: expected a list, not {type(callbacks).__name__}. Give: callbacks=[...]")
    listeners: dict[str, object] = {}
    manager = listener_manager()
    for callback in callbacks:
        has_hooks = not inspect.isclass(callback) and any(hasattr(callback, hook) for hook in HOOKS.values())
        name = base = getattr(callback, "__name__", type(callback).__name__)
        while name in listeners:
            name = f"{base}-{len(listeners) + 1}"
        if not has_hooks and (inspect.isclass(callback) or not callable(callback)):
            hint = " Did you forget the ()?" if inspect.isclass(callback) else ""
            raise ConfigError(
                f"callbacks: {base} is neither a function of (event, control) nor an object with event hooks.{hint}"
            )
        if not has_hooks and (
            inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)
        ):
            raise ConfigError(f"callbacks: {base} is an async function, which would never run. Give a plain function.")
        if any(listener is callback for listener in listeners.values()):
            raise ConfigError(f"callbacks: {base} is given twice.")
        listeners[name] = callback if has_hooks else FunctionListener(callback)
        try:
            add_listener(manager, name, listeners[name])
        except PluginError as error:
            raise ConfigError(f"callbacks: {error}") from error
    return listeners


def warning(tags: Mapping[str, str]) -> list[str]:
    """Return a sentence if the run with these tags was started with callbacks, which can't be called again."""
    if TAG not in tags:
        return []
    return [
        f"The run was started with callbacks ({tags[TAG]}). They aren't called again: evaluations and checkpoints that "
        "they ask for are missing."
    ]


def _takes_control(function: Callable[..., object]) -> bool:
    """Return whether a function can be called with two arguments. Raises ConfigError if it can't with one either."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a built-in function that doesn't tell, such as deque.append
        return False
    for count in (2, 1):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count == 2
    name = getattr(function, "__name__", type(function).__name__)
    raise ConfigError(f"callbacks: {name} can't be called with (event, control) or (event).")
