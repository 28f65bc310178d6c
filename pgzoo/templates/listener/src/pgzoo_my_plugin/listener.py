"""The listener. Change its hooks: docs/hooks.md of pgzoo lists them all."""

from __future__ import annotations

import json
from typing import Any

import pgzoo
from pgzoo.runs.context import RunContext
from pgzoo.training.events import Evaluated, RunEnded


def create(context: RunContext) -> MyPlugin:
    """Return the listener of one run; None would mean that it has nothing to do in this run."""
    return MyPlugin(context)


class MyPlugin:
    """Stores the mean return of each evaluation in a file of each seed."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.means: list[list[list[float]]] = [[] for _ in context.plan.members]
        for member, snapshot in enumerate(context.resumed):
            self.means[member] = list(snapshot.get("means", []))

    @pgzoo.hookimpl
    def pgzoo_evaluated(self, event: Evaluated) -> None:
        """Remember the step and the mean return of the seeds that were evaluated."""
        if event.mode == "sampled":
            for member in event.active.nonzero()[0]:
                mean = float(event.returns[member].mean())
                self.means[member].append([int(event.env_steps[member]), mean])

    @pgzoo.hookimpl
    def pgzoo_run_ended(self, event: RunEnded) -> None:
        """Store the file."""
        for member, means in enumerate(self.means):
            self.context.artifact(member, "my-plugin.json", json.dumps(means).encode())

    def snapshot(self, member: int) -> Any:
        """Return what a resumed run needs; it becomes part of the seed's checkpoints."""
        return {"means": self.means[member]}
