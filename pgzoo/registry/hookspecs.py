"""The hooks that a plugin may implement: one registers components, the others receive the events of a run.

A hook implementation may omit any of its arguments. The result of an event hook is ignored, and a listener whose hook
raises is detached. With `control` (`protocols.RunControl`), an event hook can ask for a stop, an evaluation or a
checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluggy import HookspecMarker

if TYPE_CHECKING:
    from pgzoo.protocols import RunControl
    from pgzoo.registry.catalog import Registry
    from pgzoo.training.events import CheckpointSaved, EpisodesFinished, Evaluated, RunEnded, RunStarted, UpdateDone

__all__ = ["PROJECT", "hookspec"]

PROJECT = "pgzoo"
hookspec = HookspecMarker(PROJECT)


@hookspec
def pgzoo_register(registry: Registry) -> None:
    """Register the plugin's components. Called once per process and plugin, when pgzoo looks for plugins.

    The `registry` belongs to this plugin, so that error messages can name the plugin of a component. If the hook
    raises, no component of the plugin is registered and the plugin is listed as broken; others are unaffected.
    """


@hookspec
def pgzoo_run_started(event: RunStarted, control: RunControl) -> None:
    """Called once per run: all checks have passed and nothing has been collected."""


@hookspec
def pgzoo_episodes_finished(event: EpisodesFinished, control: RunControl) -> None:
    """Called after each update, before `pgzoo_update_done`, with the episodes that ended while it collected, if any."""


@hookspec
def pgzoo_update_done(event: UpdateDone, control: RunControl) -> None:
    """Called after each update of the parameters, with its metrics."""


@hookspec
def pgzoo_evaluated(event: Evaluated, control: RunControl) -> None:
    """Called after each evaluation, once per mode (sampled, greedy)."""


@hookspec
def pgzoo_checkpoint_saved(event: CheckpointSaved, control: RunControl) -> None:
    """Called after checkpoints of some members were written: at intervals, when they end, and on interruption."""


@hookspec
def pgzoo_run_ended(event: RunEnded, control: RunControl) -> None:
    """Called once per run, at its end: finished, stopped, failed or interrupted."""
