"""Pass events to listeners, with one plugin manager per run.

A listener reports. It may ask for a stop, an evaluation or a checkpoint, but an exception that it raises doesn't end
the run. The exception is a listener that keeps the record of the run and sets `required = True`: without its records
the run would be lost.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pluggy

from pgzoo.errors import PgzooError, PluginError, RunFailed, raised_at
from pgzoo.protocols import RunControl
from pgzoo.registry import hooks
from pgzoo.registry.catalog import PluginCatalog
from pgzoo.registry.trace import traced
from pgzoo.training import events
from pgzoo.training.loop import Control

__all__ = ["HOOKS", "ListenerControl", "add_listener", "listener_manager", "relay"]

_log = logging.getLogger("pgzoo")
HOOKS: dict[type[events.Event], str] = {
    events.RunStarted: "pgzoo_run_started",
    events.EpisodesFinished: "pgzoo_episodes_finished",
    events.UpdateDone: "pgzoo_update_done",
    events.Evaluated: "pgzoo_evaluated",
    events.CheckpointSaved: "pgzoo_checkpoint_saved",
    events.RunEnded: "pgzoo_run_ended",
}
"""The hook of each event."""


@dataclass(frozen=True)
class ListenerControl:
    """Implements `protocols.RunControl` for a run with this number of members."""

    control: Control
    members: int

    def stop(self, reason: str, members: Sequence[int] | None = None) -> None:
        """End members (indices; None: all). Raises ValueError for an index that no member has."""
        for member in members or ():
            if not 0 <= member < self.members:
                raise ValueError(f"there is no member {member}: this process has {self.members}, counted from 0")
        self.control.stop(None if members is None else tuple(map(int, members)), reason)

    def evaluate(self) -> None:
        """Request an evaluation of all active members."""
        self.control.evaluate()

    def save(self) -> None:
        """Request a checkpoint of every member."""
        self.control.save()


def listener_manager(catalog: PluginCatalog | None = None) -> pluggy.PluginManager:
    """Return a manager for one run. The plugins in `catalog` that implement event hooks themselves are registered."""
    manager = hooks.new_manager()
    for name, plugin in (catalog.objects if catalog else {}).items():
        hooks.register(manager, plugin, f"{name} (plugin)")  # a listener may have the name of its plugin
    return manager


def add_listener(manager: pluggy.PluginManager, name: str, listener: object) -> None:
    """Register an object with event hooks.

    Raises:
        PluginError: it implements no event hook, has a hook that doesn't exist, or wraps one.
    """
    try:
        implemented = hooks.register(manager, listener, name)
        if not set(implemented) & set(HOOKS.values()):
            raise PluginError("It implements no event hook.")
    except PluginError as error:
        raise PluginError(f'The listener "{name}" is not usable. {error}') from error


def relay(manager: pluggy.PluginManager, event: events.Event, control: RunControl) -> None:
    """Pass an event, and the control of the run, to every listener.

    One that raises is detached with a warning, and the run continues. The warning goes to the logger "pgzoo", with the
    traceback at level DEBUG.

    Raises:
        RunFailed: a `required` listener raised; the other listeners have received the event.
        PgzooError: one raised this error in `pgzoo_run_started`, before anything was trained.
    """
    lost: PgzooError | None = None
    arguments = {"event": event, "control": control}
    caller = getattr(manager.hook, HOOKS[type(event)])
    for impl in reversed(caller.get_hookimpls()):  # pluggy's own order: the last registered is called first
        try:
            with traced(caller.name, f'listener "{impl.plugin_name}"'):
                impl.function(*[arguments[name] for name in impl.argnames])
        except Exception as error:
            manager.unregister(impl.plugin)
            what = f"{type(error).__name__}: {error}".removesuffix(": ") + raised_at(error)
            if getattr(impl.plugin, "required", False):
                lost = RunFailed(f'Listener "{impl.plugin_name}", which keeps the record of the run, failed: {what}')
                if isinstance(error, PgzooError):
                    starting = isinstance(event, events.RunStarted)
                    lost = error if starting else RunFailed(str(error))
                _log.debug("Traceback of listener %s", impl.plugin_name, exc_info=error)
                continue
            _log.warning('Listener "%s" raised in %s and is detached: %s', impl.plugin_name, caller.name, what)
            _log.debug("Traceback of listener %s", impl.plugin_name, exc_info=error)
    if lost is not None:
        raise lost
