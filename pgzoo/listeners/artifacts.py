"""Keeps with each run what it takes to repeat it and to use what it learned."""

from __future__ import annotations

import yaml

from pgzoo.bundle import pack
from pgzoo.events import RunEnded, RunStarted
from pgzoo.protocols import RunContext
from pgzoo.registry import hookimpl

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
        """Write each run's config, with its own seed: `pgzoo run --config` repeats exactly this run."""
        nested = event.config.nested()
        nested.pop("tracking_uri", None)  # it may hold a password, and belongs to whoever ran it
        for member, seed in enumerate(event.seeds):
            text = yaml.safe_dump(nested | {"seeds": [seed]}, sort_keys=False)
            self.context.artifact(member, "config.yaml", text.encode())

    @hookimpl
    def pgzoo_run_ended(self, event: RunEnded) -> None:
        """Write each member's last finite parameters."""
        plan = self.context.plan
        params = plan.policy_params(event.state)
        env = plan.request(1)
        for member in range(len(plan.run_keys)):
            for name, data in pack(plan.config.policy, plan.spec, plan.policy, params, member, env).items():
                self.context.artifact(member, f"policy/{name}", data)
