"""Train one shard of a run in a worker process. Its names and settings arrive as JSON on standard input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.launchers import worker

if TYPE_CHECKING:
    from pgzoo.training.events import Event
    from pgzoo.training.loop import Control

__all__ = ["main"]


def main() -> None:
    """Train the shard that standard input names."""
    worker.main(train_shard)


def train_shard(shard: Mapping[str, Any], control: Control, pipe: worker.Pipe) -> None:
    """Resolve the shard's settings, train its seeds, and send the shared events and the end to `pipe`."""
    from pgzoo.config import Layer
    from pgzoo.envs.wrappers import import_wrappers
    from pgzoo.errors import PgzooError
    from pgzoo.launchers.protocol import SHARED_EVENTS, encode, load_resume_point
    from pgzoo.registry import discover
    from pgzoo.registry.objects import register_env
    from pgzoo.runs.resolve import resolve
    from pgzoo.runs.runner import WorkerContext, run_config
    from pgzoo.tracking import Home
    from pgzoo.training.events import EpisodesFinished

    def send(event: Event) -> None:
        if isinstance(event, EpisodesFinished):
            report()  # first, so that the coordinator knows how much of the activity the event contains
        if isinstance(event, SHARED_EVENTS):
            pipe.put(encode(event))

    try:
        catalog = discover(blocked=shard["blocked"], imports=shard["imports"])
        given = dict(shard["config"])
        axes = {"sweep_axis": given.pop("sweep_axis", {})}  # each sweep value replaces the setting in the shared config
        config = resolve([Layer(given, ".".join), Layer(axes, ".".join)], catalog)
        register_env(config.env, catalog.imports)
        import_wrappers(config.wrappers or ())  # the command that started this worker has checked them
        resume_point = load_resume_point(shard["group"], config, shard["resume"]) if shard["resume"] else None
        context = WorkerContext(shard["group"], control, send)
        home = Home(*map(Path, shard["home"]))
        with worker.report_activity(control, pipe) as report:
            result = run_config(
                config,
                catalog,
                command=shard["command"],
                resume_point=resume_point,
                worker=context,
                home=home,
                own_process=True,
            )
    except PgzooError as error:
        pipe.send("refused", text=str(error))
        return
    pipe.send(
        "ended",
        statuses=[run.status for run in result.runs],
        reasons=[run.reason for run in result.runs],
        env_steps=[run.env_steps for run in result.runs],
        timing=dict(result.timing),
        lost=result.pending.lost,
        dropped=result.pending.dropped,
        failure=str(result.error) if result.error else None,
    )
