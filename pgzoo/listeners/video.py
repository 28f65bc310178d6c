"""Records an evaluation episode as MP4."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pgzoo.export.bundle import LoadedPolicy
from pgzoo.markers import hookimpl
from pgzoo.ops.members import select
from pgzoo.play.video import record
from pgzoo.runs.context import RunContext
from pgzoo.training.events import RunEnded
from pgzoo.training.seeding import generator

__all__ = ["create"]


def create(context: RunContext) -> Video | None:
    """Make the listener of one run, if it was asked for a video."""
    return Video(context) if context.plan.config.video else None


class Video:
    """Plays one more episode for each seed, with sampled actions, on gymnasium's own environment."""

    def __init__(self, context: RunContext) -> None:
        self.context = context

    @hookimpl
    def pgzoo_run_ended(self, event: RunEnded) -> None:
        """Record every member that did not fail."""
        plan = self.context.plan
        for member, status in enumerate(event.statuses):
            if status == "failed":
                continue
            params = select(plan.policy_params(event.state), [member])
            policy = LoadedPolicy(plan.config.policy, plan.spec, plan.policy, params)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "evaluation.mp4"
                record(policy, plan.request(1), path, rng=generator(plan.seeds[member], "video"))
                self.context.artifact(member, "videos/evaluation.mp4", path.read_bytes())
