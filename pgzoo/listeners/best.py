"""Keeps the policy with the best evaluation beside the final one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pgzoo.export.bundle import pack
from pgzoo.markers import hookimpl
from pgzoo.runs.context import RunContext
from pgzoo.tracking.journal import artifact_path
from pgzoo.training.events import Evaluated

__all__ = ["create"]

FOLDER, ABOUT = "policy-best", "best.json"


def create(context: RunContext) -> Best | None:
    """Make the listener of one run with the setting `save_best`."""
    return Best(context) if context.plan.config.save_best else None


class Best:
    """Stores the artifact `policy-best`: the policy with the highest mean return of all evaluations.

    Evaluations with sampled actions count, the final one included. Of equal means the first one is kept.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        runs = context.session.home.runs
        self.best = [_best_so_far(artifact_path(runs / key, f"{FOLDER}/{ABOUT}")) for key in context.plan.run_keys]

    @hookimpl
    def pgzoo_evaluated(self, event: Evaluated) -> None:
        """Store the policy of each member whose evaluation was better than all before."""
        if event.mode != "sampled" or event.state is None:
            return
        plan = self.context.plan
        params, env = plan.policy_params(event.state), plan.request(1)
        for member in np.flatnonzero(event.active).tolist():
            returns = event.returns[member]
            mean = float(returns.mean()) if len(returns) else np.nan
            if not (np.isfinite(mean) and mean > self.best[member]):
                continue
            self.best[member] = mean
            files = pack(plan.config.policy, plan.spec, plan.policy, params, member, env)
            about = {"env_steps": int(event.env_steps[member]), "return_mean": mean, "episodes": len(returns)}
            files[ABOUT] = (json.dumps(about) + "\n").encode()
            for name, data in files.items():
                self.context.artifact(member, f"{FOLDER}/{name}", data)


def _best_so_far(file: Path) -> float:
    """Return the best mean return of a run that is resumed; minus infinity for a new run."""
    try:
        return float(json.loads(file.read_bytes())["return_mean"])
    except FileNotFoundError:
        return -np.inf
