"""Saves `config.yaml`, the Python files that the user named, and the policy as artifacts of each run."""

from __future__ import annotations

import yaml

from pgzoo.export.bundle import pack
from pgzoo.markers import hookimpl
from pgzoo.runs.context import RunContext
from pgzoo.training.events import RunEnded, RunStarted

__all__ = ["create"]


def create(context: RunContext) -> Artifacts:
    """Make the listener of one run."""
    return Artifacts(context)


class Artifacts:
    """`config.yaml` at the start, the policy at the end, also of a run that failed or was interrupted."""

    def __init__(self, context: RunContext) -> None:
        self.context = context

    @hookimpl(trylast=True)
    def pgzoo_run_started(self, event: RunStarted) -> None:
        """Write each run's own config: `pgzoo run --config` repeats exactly this run. And the files of a new run."""
        sources = {} if self.context.resumed else self.context.sources  # a resumed run keeps those that it began with
        for row, member in enumerate(self.context.plan.members):
            nested = member.config.nested()
            nested.pop("tracking_uri", None)  # it may contain a password and is specific to the user
            self.context.artifact(row, "config.yaml", yaml.safe_dump(nested, sort_keys=False).encode())
            for name, content in sources.items():
                self.context.artifact(row, f"code/{name}", content)

    @hookimpl
    def pgzoo_run_ended(self, event: RunEnded) -> None:
        """Write each member's last finite parameters."""
        plan = self.context.plan
        params = plan.policy_params(event.state)
        env = plan.request(1)
        for member in range(len(plan.run_keys)):
            for name, data in pack(plan.config.policy, plan.spec, plan.policy, params, member, env).items():
                self.context.artifact(member, f"policy/{name}", data)
