"""Reports a run to MLflow, through the journal: the training thread writes a line per seed and update, no more.

Curves sit on one step grid for every seed and algorithm: a point at each multiple of `log_every` environment
steps, written by the first update at or past it, with the mean of everything since the point before.
"""

from __future__ import annotations

import logging
import math
import time
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo.config import Member
from pgzoo.config.sweep import format_setting
from pgzoo.envs.ids import threshold
from pgzoo.markers import hookimpl
from pgzoo.tracking.journal import clean_key
from pgzoo.tracking.ledger import SWEEP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pgzoo.runs.context import RunContext
    from pgzoo.tracking import EndStatus, Journal, Session
    from pgzoo.training.events import EpisodesFinished, Evaluated, RunEnded, RunStarted, UpdateDone

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

__all__ = ["MlflowListener", "RunDescription", "StepGrid", "create"]

_log = logging.getLogger("pgzoo")
STATUS: dict[str, EndStatus] = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
WINDOW = 100
"""Number of episodes in a moving average of the return."""
MERGE = 256
"""Number of episodes whose means are computed at once."""


@dataclass(frozen=True)
class MemberDescription:
    """Parameters and tags of one member's run; `label` follows the algorithm in its name."""

    label: str
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class RunDescription:
    """Names, parameters and tags of the runs of one command; `members` has what differs between members."""

    algorithm: str
    env: str
    experiment: str
    name: str = ""
    """Runs are named `NAME s3`; empty: the algorithm's name."""
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    reward_threshold: float | None = None
    members: tuple[MemberDescription, ...] = ()
    """In the order of the members; empty where they differ in their seeds alone."""


def create(context: RunContext) -> MlflowListener:
    """Make the listener of one run."""
    config = context.plan.config
    description = RunDescription(
        algorithm=config.algorithm,
        env=config.env,
        experiment=context.experiment,
        name=config.name or "",
        tags=context.tags,
        reward_threshold=threshold(config.env),
        members=tuple(map(describe_member, context.plan.members)),
    )
    return MlflowListener(
        context.session,
        description,
        config.log_every,
        eval_every=config.eval_every,
        total_steps=config.total_steps,
        profile=config.profile,
        resumed=context.resumed,
    )


def describe_member(member: Member) -> MemberDescription:
    """Return a member's label, its settings as parameters, and its tags, among them its swept settings."""
    swept = {SWEEP: format_setting(member.overrides)} if member.overrides else {}
    return MemberDescription(
        member.label,
        member.config.flat(),
        {**member.config.tags, "pgzoo.setting": member.config.setting_hash()} | swept,
    )


class StepGrid:
    """Means of `[S]` values between the multiples of `every` steps, separately for each member."""

    def __init__(self, members: int, every: int) -> None:
        self.every = every
        self._point = np.zeros(members, dtype=np.int64)
        self._row: dict[str, int] = {}
        """The row of each name in the sums."""
        self._totals, self._weights = np.zeros((2, 0, members))
        self._rows_of: dict[tuple[str, ...], slice | Ints] = {}

    def add(self, values: Mapping[str, Floats], weights: Floats | Bools) -> Bools:
        """Add `values`, `[S]` each, with `weights [S]`; those that aren't finite are left out.

        Returns which values are finite, `[M, S]`.
        """
        rows, shape = self._rows(tuple(values)), (len(values), len(self._point))
        added = np.array([*values.values()], np.float64).reshape(shape)
        finite = np.isfinite(added)
        weights = np.where(finite, weights, 0.0)
        self._totals[rows] += np.where(weights > 0, added, 0.0) * weights
        self._weights[rows] += weights
        return finite

    def _rows(self, names: tuple[str, ...]) -> slice | Ints:
        """Return the rows of some names; a slice, which is faster than an index, if they follow each other."""
        if names not in self._rows_of:
            new = [name for name in names if name not in self._row]
            self._row |= {name: len(self._row) + k for k, name in enumerate(new)}
            more = np.zeros((len(new), len(self._point)))
            self._totals, self._weights = (np.concatenate([sums, more]) for sums in (self._totals, self._weights))
            rows = [self._row[name] for name in names]
            together = bool(rows) and rows == list(range(rows[0], rows[0] + len(rows)))
            self._rows_of[names] = slice(rows[0], rows[-1] + 1) if together else np.array(rows, np.int64)
        return self._rows_of[names]

    def cross(self, env_steps: Ints, active: Bools) -> list[tuple[int, list[int], dict[str, float]]]:
        """Return (member, grid steps, means) for every member that reached a grid point; its sums restart at zero."""
        point = env_steps // self.every
        crossed = np.flatnonzero(active & (point > self._point))
        if not len(crossed):
            return []
        totals, weights = self._totals[:, crossed], self._weights[:, crossed]
        means = np.divide(totals, weights, out=np.full_like(totals, np.nan), where=weights > 0).T.tolist()
        points = []
        for member, row in zip(crossed.tolist(), means, strict=True):
            steps = range((int(self._point[member]) + 1) * self.every, int(env_steps[member]) + 1, self.every)
            known = {name: mean for name, mean in zip(self._row, row, strict=True) if not math.isnan(mean)}
            points.append((member, list(steps), known))
        self._point[crossed] = point[crossed]
        self._totals[:, crossed] = self._weights[:, crossed] = 0.0
        return points

    def snapshot(self, member: int) -> dict[str, list[float]]:
        """Return a member's sums since its last point: of the values, and of the weights."""
        pairs = zip(self._row, self._totals[:, member].tolist(), self._weights[:, member].tolist(), strict=True)
        return {name: [total, weight] for name, total, weight in pairs}

    def restore(self, member: int, env_steps: int, totals: Mapping[str, list[float]]) -> None:
        """Restore a member's sums from a `snapshot`."""
        self._point[member] = env_steps // self.every
        for name, (total, weight) in totals.items():
            rows = self._rows((name,))
            self._totals[rows, member], self._weights[rows, member] = total, weight


class BestMean:
    """The best mean return of 100 consecutive episodes of one member, and the step at which it reached the threshold.

    `add` only stores the episodes; means are computed for many at once, to save time during training. Its size doesn't
    depend on the number of episodes.
    """

    def __init__(self, threshold: float | None) -> None:
        self._threshold = np.inf if threshold is None else threshold
        self._new_steps, self._new_returns = array("q"), array("d")
        self._returns = np.zeros(0)
        """The last returns, at most 100."""
        self._best = -np.inf
        self._solved_at = -1

    def add(self, steps: Iterable[int], returns: Iterable[float]) -> None:
        """Add episodes in the order in which they ended."""
        self._new_steps.extend(steps)
        self._new_returns.extend(returns)
        if len(self._new_steps) >= MERGE:
            self._merge()

    @property
    def value(self) -> float:
        """The best mean; that of all episodes while there are fewer than 100; NaN without any."""
        self._merge()
        return self.latest if self._best == -np.inf else self._best

    @property
    def latest(self) -> float:
        """The mean of the last 100 episodes, NaN without any."""
        self._merge()
        return float(self._returns.mean()) if self._returns.size else float("nan")

    @property
    def solved_at(self) -> int:
        """The step at which a mean first reached the threshold, -1 if none did."""
        self._merge()
        return self._solved_at

    def _merge(self) -> None:
        """Compute the means that end with one of the new episodes."""
        steps, returns = np.array(self._new_steps), np.array(self._new_returns)
        del self._new_steps[:], self._new_returns[:]
        returns = np.concatenate([self._returns, returns])
        self._returns = returns[-WINDOW:].copy()
        if not steps.size or returns.size < WINDOW:
            return
        # each window is added up by itself: a running sum would stay wrong after a huge return or NaN
        with np.errstate(invalid="ignore", over="ignore"):
            means = np.convolve(returns, np.full(WINDOW, 1.0), "valid")[-len(steps) :] / WINDOW
        self._best = float(np.fmax(self._best, np.fmax.reduce(means)))
        enough = np.flatnonzero(means >= self._threshold)
        if self._solved_at < 0 and enough.size:
            self._solved_at = int(steps[len(steps) - len(means) + enough[0]])


class MlflowListener:
    """Turns the events of a run into journal records, one journal per seed."""

    required = True
    """If this listener fails, the run stops, because its records would be lost."""

    def __init__(
        self,
        session: Session,
        description: RunDescription,
        log_every: int = 1000,
        *,
        eval_every: int = 0,
        total_steps: int | None = None,
        profile: bool = False,
        resumed: tuple[Mapping[str, Any], ...] = (),
    ) -> None:
        """Report through `session`, which the caller closes; a point each `log_every` environment steps.

        Evaluations are also recorded at their scheduled steps: multiples of `eval_every`, and `total_steps`.
        """
        if log_every < 1:
            raise ValueError(f"log_every must be at least 1, not {log_every}")
        self.session, self.description, self.log_every = session, description, log_every
        self._eval_every, self._total_steps, self._profile = eval_every, total_steps, profile
        self._resumed = resumed
        self.journals: list[Journal] = []
        """One per member, in the order of the event's seeds; empty until the run has started."""

    @hookimpl(tryfirst=True)
    def pgzoo_run_started(self, event: RunStarted) -> None:
        """Open a journal per member. Raises StoreError if the home can't be written."""
        about, members = self.description, len(event.seeds)
        tags = dict(about.tags)
        if about.reward_threshold is not None:
            tags["pgzoo.reward_threshold"] = f"{about.reward_threshold:g}"
        self._grid = StepGrid(members, self.log_every)
        self._best = [BestMean(about.reward_threshold) for _ in range(members)]
        self._steps = np.zeros(members, dtype=np.int64)
        self._episodes: list[tuple[list[int], list[float], list[int]] | None] = [None] * members
        self._final = np.full(members, np.nan)
        self._timed = np.zeros(members, dtype=np.int64), np.full(members, time.perf_counter())
        each = about.members or tuple(MemberDescription(f"s{seed}", {}, {}) for seed in event.seeds)
        for member, (seed, key, own) in enumerate(zip(event.seeds, event.run_keys, each, strict=True)):
            journal = self.session.journal(
                key,
                name=f"{about.name or about.algorithm} {own.label}",
                experiment=about.experiment,
                params={**about.params, **own.params},
                tags={**tags, **own.tags},
                seed=seed,
                algorithm=about.algorithm,
                env=about.env,
            )
            self.journals.append(journal)
            before = journal.take_episodes()
            self._best[member].add(before.steps, before.returns)
        for member, known in enumerate(self._resumed):
            if known:
                self._steps[member] = self._timed[0][member] = known["env_steps"]
                self._grid.restore(member, known["env_steps"], known["grid"])
        self._begun = self._steps.copy()
        self._named = set[str]()

    def snapshot(self, member: int) -> dict[str, Any]:
        """Return a member's step and its sums since the last point of its curves, for a checkpoint."""
        return {"env_steps": int(self._steps[member]), "grid": self._grid.snapshot(member)}

    @hookimpl
    def pgzoo_episodes_finished(self, event: EpisodesFinished) -> None:
        """Count the episodes; they are written with the update that follows."""
        counts = np.array([len(r) for r in event.returns], dtype=np.float64)
        if counts.any():
            some = counts > 0
            safe = np.maximum(counts, 1.0)
            returns = np.array([r.sum() for r in event.returns]) / safe
            lengths = np.array([n.sum() for n in event.lengths]) / safe
            self._grid.add({"train/return_mean": returns, "train/length_mean": lengths}, counts)
            for member in np.flatnonzero(some).tolist():
                self._assign_steps(member, int(event.env_steps[member]), event.returns[member], event.lengths[member])
        self._steps = np.array(event.env_steps, dtype=np.int64)

    @hookimpl
    def pgzoo_update_done(self, event: UpdateDone) -> None:
        """Write one record for each member that has finished episodes or reached a grid point."""
        if new := event.metrics.keys() - self._named:
            self._named |= new
            for name in [name for name in sorted(new) if clean_key(name) != name]:
                _log.warning(
                    'The metric "%s" is stored in MLflow as "%s". Names consist of a group and a word, such as '
                    "loss/policy.",
                    name,
                    clean_key(name),
                )
        finite = self._grid.add(event.metrics, event.active)
        if not finite.all():
            for member in np.nonzero(event.active & ~finite)[1].tolist():
                self.journals[member].dropped += 1
        points = {m: (steps, means) for m, steps, means in self._grid.cross(event.env_steps, event.active)}
        if points:
            self._time(event.env_steps, points)
        for member, journal in enumerate(self.journals):
            steps, means = points.get(member, ((), None))
            episodes, self._episodes[member] = self._episodes[member], None
            if journal.open and (means or episodes):
                journal.record(steps, means, episodes)

    @hookimpl
    def pgzoo_evaluated(self, event: Evaluated) -> None:
        """Write the evaluation of each active member, at its own step."""
        for member in np.flatnonzero(event.active).tolist():
            returns = event.returns[member]
            self.journals[member].evaluation(
                self._due(int(event.env_steps[member]), event.final),
                event.mode,
                event.final,
                returns.tolist(),
                event.lengths[member].tolist(),
                0 if event.cut is None else int(event.cut[member]),
            )
            if event.mode == "sampled" and event.final and len(returns):
                self._final[member] = returns.mean()

    @hookimpl(trylast=True)
    def pgzoo_run_ended(self, event: RunEnded) -> None:
        """Write what is left, the summary and the end of every run."""
        for member, journal in enumerate(self.journals):
            if not journal.open:
                continue
            best, step = self._best[member], self._due(int(event.env_steps[member]), final=True)
            summary = {"summary/return_best": best.value}
            if not math.isnan(self._final[member]):
                summary["summary/return_final"] = float(self._final[member])
            elif journal.tail.points.get("summary/return_final", (-1,))[0] != step:
                summary["summary/return_final"] = journal.tail.finals.get((step, "sampled"), best.latest)
            if best.solved_at >= 0:
                summary["summary/steps_to_solve"] = float(best.solved_at)
            if self._profile and event.env_steps[member] > self._begun[member]:
                summary |= {f"profile/{part}": seconds for part, seconds in event.profile().items()}
            journal.record(episodes=self._episodes[member])
            journal.summary(step, summary)
            steps = str(int(event.env_steps[member]))
            journal.tags({"pgzoo.status": event.statuses[member], "pgzoo.env_steps": steps})
            journal.end(STATUS[event.statuses[member]], event.reasons[member])

    def _due(self, env_steps: int, final: bool) -> int:
        """Return the step of an evaluation: the same for all seeds, so that they can be averaged."""
        if final:
            return min(env_steps, self._total_steps or env_steps)
        return env_steps // self._eval_every * self._eval_every if self._eval_every else env_steps

    def _assign_steps(self, member: int, env_steps: int, returns: Floats, lengths: Ints) -> None:
        """Estimate the step at which each episode of a rollout ended from the episodes' lengths.

        It is after the last step of the rollout before: the journal leaves out earlier ones as repetitions.
        """
        known = self.journals[member].tail.last_episode
        begin = min(max(int(self._steps[member]), known), env_steps)
        played = np.cumsum(lengths)
        ends = begin + np.round((env_steps - begin) * played / max(int(played[-1]), 1)).astype(np.int64)
        ends = np.clip(ends, min(begin + 1, env_steps), env_steps)
        columns = ends.tolist(), returns.tolist(), lengths.tolist()
        if env_steps > known:
            self._best[member].add(columns[0], columns[1])
        waiting = self._episodes[member] or ([], [], [])
        self._episodes[member] = (waiting[0] + columns[0], waiting[1] + columns[1], waiting[2] + columns[2])

    def _time(self, env_steps: Ints, points: Mapping[int, tuple[list[int], dict[str, float]]]) -> None:
        last_steps, last_times = self._timed
        moment = time.perf_counter()
        for member, (_, means) in points.items():
            played, took = env_steps[member] - last_steps[member], moment - last_times[member]
            means["time/steps_per_second"] = float(played / max(took, 1e-9))
            last_steps[member], last_times[member] = env_steps[member], moment
