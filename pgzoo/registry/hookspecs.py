"""The hooks that a plugin may implement: one registers components, the others receive the events of a run.

A hook implementation may leave out its argument. Nothing that an event hook returns or raises changes the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluggy import HookspecMarker

if TYPE_CHECKING:
    from pgzoo.registry.catalog import Registry
    from pgzoo.training.events import CheckpointSaved, EpisodesFinished, Evaluated, RunEnded, RunStarted, UpdateDone

__all__ = ["PROJECT", "hookspec"]

PROJECT = "pgzoo"
hookspec = HookspecMarker(PROJECT)


@hookspec
def pgzoo_register(registry: Registry) -> None:
    """Register the plugin's components. Called once per process and plugin, when pgzoo looks for plugins.

    The `registry` belongs to this plugin, so that error messages can name the plugin of a component. If the hook
    raises, no component of the plugin is registered, the plugin is listed as broken, and everything else works.
    """


@hookspec
def pgzoo_run_started(event: RunStarted) -> None:
    """Fires once per run: the plan is made and everything fits; nothing has been collected."""


@hookspec
def pgzoo_episodes_finished(event: EpisodesFinished) -> None:
    """Fires after each collection, with the episodes that ended in it; there may be none."""


@hookspec
def pgzoo_update_done(event: UpdateDone) -> None:
    """Fires after each update of the parameters, with its metrics."""


@hookspec
def pgzoo_evaluated(event: Evaluated) -> None:
    """Fires after each evaluation, once per mode (sampled, greedy), and for the final ones."""


@hookspec
def pgzoo_checkpoint_saved(event: CheckpointSaved) -> None:
    """Fires after checkpoints of some members were written: at intervals, when they end, and on interruption."""


@hookspec
def pgzoo_run_ended(event: RunEnded) -> None:
    """Fires once per run, last, however the run ended: finished, stopped, failed or interrupted."""
