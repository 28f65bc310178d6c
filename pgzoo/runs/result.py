"""The result of a run: a row per seed, where to find it, and the policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo import tracking
from pgzoo.config.sweep import Setting, format_setting
from pgzoo.errors import ConfigError, RunFailed
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.ops.members import select
from pgzoo.runs.context import RunContext
from pgzoo.tracking.lookup import local_run
from pgzoo.training.events import Evaluated, MemberStatus, RunEnded
from pgzoo.training.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EXIT_WAIT", "Outcome", "Result", "SeedResult"]

EXIT_WAIT = 10.0
"""Seconds that the end of a run waits for the uploader."""

BADNESS: tuple[MemberStatus, ...] = ("finished", "stopped", "interrupted", "failed")


@dataclass(frozen=True)
class SeedResult:
    """The result of one member. The returns are those of the final evaluation, empty if there was none.

    `settings` are the values of the swept settings, in a sweep.
    """

    seed: int
    run_key: str
    run_id: str | None
    status: MemberStatus
    reason: str
    env_steps: int
    returns: np.ndarray[Any, np.dtype[np.float64]]
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    greedy_returns: np.ndarray[Any, np.dtype[np.float64]]
    settings: Setting = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, as `--json` prints them."""
        played = bool(self.returns.size) and bool(np.isfinite(self.returns).all())
        greedy = bool(self.greedy_returns.size) and bool(np.isfinite(self.greedy_returns).all())
        swept = {"settings": dict(self.settings)} if self.settings else {}
        return {
            "seed": self.seed,
            **swept,
            "run_key": self.run_key,
            "run_id": self.run_id,
            "status": self.status,
            "reason": self.reason,
            "env_steps": self.env_steps,
            "return_mean": float(self.returns.mean()) if played else None,
            "return_std": float(self.returns.std()) if played else None,
            "return_min": float(self.returns.min()) if played else None,
            "return_max": float(self.returns.max()) if played else None,
            "length_mean": float(self.lengths.mean()) if played else None,
            "episodes": int(self.returns.size),
            "greedy_return_mean": float(self.greedy_returns.mean()) if greedy else None,
        }


@dataclass(frozen=True)
class Result:
    """The result of one command: a row per member, where to find it, and the policies.

    `pending` counts what isn't shipped to MLflow yet, `error` is what made the whole run fail, and `steps_before` are
    the training steps that a resumed run had done before.
    """

    group: str
    experiment: str
    tracking_uri: str
    plan: Plan
    runs: tuple[SeedResult, ...]
    timing: Mapping[str, float]
    pending: tracking.Pending
    ended: RunEnded
    session: tracking.Session
    steps_before: int = 0
    error: RunFailed | None = None
    lost_members: frozenset[int] = frozenset()
    """Members whose worker process died before it wrote a checkpoint; they have no policy."""

    @property
    def status(self) -> MemberStatus:
        """The worst of the seeds' statuses."""
        return max((run.status for run in self.runs), key=BADNESS.index)

    @property
    def env_steps(self) -> int:
        """Training steps of all seeds together."""
        return sum(run.env_steps for run in self.runs)

    @property
    def speed(self) -> float:
        """Steps per second of the training loop, all seeds together."""
        wall = self.timing["loop"]
        return (self.env_steps - self.steps_before) / wall if wall else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        wall = self.timing["loop"]
        return {
            "group": self.group,
            "experiment": self.experiment,
            "tracking_uri": tracking.display_uri(self.tracking_uri),
            "algorithm": self.plan.config.algorithm,
            "env": self.plan.config.env,
            "status": self.status,
            "env_steps": self.env_steps,
            "wall_seconds": wall,
            "steps_per_second": self.speed,
            "seeds": [run.to_dict() for run in self.runs],
            "timing": {phase: seconds for phase, seconds in self.timing.items() if phase != "loop"},
            **({"profile": self.ended.profile()} if self.plan.config.profile else {}),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row per member as a data frame, with a column for each swept setting."""
        import pandas as pd

        rows = [run.to_dict() for run in self.runs]
        return pd.DataFrame([{"seed": row.pop("seed"), **row.pop("settings", {}), **row} for row in rows])

    def policy(self, seed: int, setting: Setting | None = None) -> LoadedPolicy:
        """Return the last policy of a seed; in a sweep, for a setting such as `{"learning_rate": 3e-4}`.

        If the worker process of the seed died, it is the policy of the last checkpoint.

        Raises:
            ConfigError: no member has this seed and setting, several have, or its process died before a checkpoint.
        """
        asked = (setting or {}).items()
        rows = [row for row, run in enumerate(self.runs) if run.seed == seed and asked <= run.settings.items()]
        if len(rows) != 1:
            of = f" with {format_setting(dict(asked))}" if asked else ""
            known = "; ".join(dict.fromkeys(format_setting(run.settings) for run in self.runs))
            seeds = ", ".join(map(str, dict.fromkeys(run.seed for run in self.runs)))
            settings = f" Settings: {known}." if known else ""
            what = f"seed {seed}{of} means {len(rows)} members" if rows else f"No seed {seed}{of} in this run"
            raise ConfigError(f"{what}; there are {seeds}.{settings}")
        if rows[0] in self.lost_members:
            raise ConfigError(f"Seed {seed} has no policy: its process died before it wrote a checkpoint.")
        params = select(self.plan.policy_params(self.ended.state), rows)
        return LoadedPolicy(self.plan.config.policy, self.plan.spec, self.plan.policy, params)

    def settled(self, wait: float = EXIT_WAIT) -> Result:
        """Wait at most `wait` seconds for the uploader; return the result with the run ids of MLflow."""
        pending = self.session.close(wait)
        return replace(self, runs=tuple(map(self._identified, self.runs)), pending=pending)

    def _identified(self, run: SeedResult) -> SeedResult:
        found = local_run(self.session.home.runs / run.run_key, self.session.home)
        return replace(run, run_id=found.run_id if found else None)


class Outcome:
    """Collects from the events what the result needs."""

    def __init__(self, steps_before: int = 0) -> None:
        """Begin. `steps_before` are the training steps of a resumed run before it was resumed."""
        self._steps_before = steps_before
        self._final: dict[tuple[str, int], Evaluated] = {}
        self._ended: RunEnded | None = None

    def record(self, event: object) -> None:
        """Keep the final evaluations and the end of the run."""
        if isinstance(event, Evaluated) and event.final:
            self._final |= {(event.mode, int(row)): event for row in np.flatnonzero(event.active)}
        elif isinstance(event, RunEnded):
            self._ended = event

    def result(
        self,
        context: RunContext,
        pending: tracking.Pending,
        error: RunFailed | None,
        lost_members: frozenset[int] = frozenset(),
    ) -> Result:
        """Return the result of a run that has ended."""
        plan, session, ended = context.plan, context.session, self._ended
        assert ended is not None, "training always ends with RunEnded"
        empty = np.zeros(0)

        def played(mode: str, what: str, row: int) -> Any:
            event = self._final.get((mode, row))
            return empty if event is None else getattr(event, what)[row]

        runs = tuple(
            SeedResult(
                seed=member.seed,
                settings=member.overrides,
                run_key=key,
                run_id=None,
                status=ended.statuses[row],
                reason=ended.reasons[row],
                env_steps=int(ended.env_steps[row]),
                returns=played("sampled", "returns", row),
                lengths=played("sampled", "lengths", row),
                greedy_returns=played("greedy", "returns", row),
            )
            for row, (member, key) in enumerate(zip(plan.members, plan.run_keys, strict=True))
        )
        return Result(
            plan.group,
            context.experiment,
            session.tracking_uri,
            plan,
            runs,
            ended.timing,
            pending,
            ended,
            session,
            self._steps_before,
            error,
            lost_members,
        )
