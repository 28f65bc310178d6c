"""Train the members of a plan, as a generator of events.

It is independent of plugins, tracking, the command line and terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pgzoo.config import RunConfig
from pgzoo.errors import RunFailed
from pgzoo.training import plateau
from pgzoo.training.activity import Activity, Cancelled
from pgzoo.training.diagnostics import Diagnostics
from pgzoo.training.engine import Engine, rounds_of
from pgzoo.training.events import (
    CheckpointSaved,
    EpisodesFinished,
    Evaluated,
    EvaluationMode,
    Event,
    MemberStatus,
    RunEnded,
    RunStarted,
    UpdateDone,
)
from pgzoo.training.plan import Plan
from pgzoo.training.threads import limit_threads
from pgzoo.types import RECENT, TrainState

__all__ = ["Control", "Progress", "reached_goals", "train"]

LOOP_ENDED = object()

WITHOUT_STEP = 100
"""Updates in a row that may count no environment step."""

CHECKPOINT_INTERVAL = 30.0
"""Seconds between two checkpoints, unless the config sets a number of steps."""

INTERRUPTED_EVALUATION = 2.0
"""Maximum seconds for the final evaluation of a run that was interrupted, because its user waits for it to end."""


ProgressStatus = MemberStatus | Literal["running"]


@dataclass(frozen=True)
class Stop:
    """A request to end members (indices; None: all)."""

    members: tuple[int, ...] | None
    reason: str
    status: MemberStatus


@dataclass(frozen=True)
class Progress:
    """The state of a run that a checkpoint stores, with a status and a reason per member.

    The status of an active member is "running", unless a component of the run has failed. For `forgets` see `Plan`.
    """

    state: TrainState
    statuses: tuple[ProgressStatus, ...]
    reasons: tuple[str, ...]
    forgets: bool = True

    @property
    def exact(self) -> bool:
        """Whether a run resumed from here equals an uninterrupted run, bit for bit."""
        if self.state.collector is None:
            return self.forgets or not self.state.updates.any()
        saved = self.state.environments or (None,) * len(self.statuses)
        return all(rows is not None or n == 0 for rows, n in zip(saved, self.state.updates, strict=True))


@dataclass
class Control:
    """Controls a run from outside. Requests take effect after the current update.

    An interruption of the whole run takes effect sooner: a collection of whole episodes and compiling are given up.
    `write_checkpoints(progress, members)`, if set, is called when checkpoints of members (indices) are due.
    """

    stops: list[Stop] = field(default_factory=list)
    evaluation_due: bool = False
    checkpoint_due: bool = False
    interrupted: bool = False
    write_checkpoints: Callable[[Progress, tuple[int, ...]], None] | None = None
    activity: Activity = field(default_factory=Activity)
    """What the run is doing right now, to be shown by another thread."""

    def stop(
        self,
        members: tuple[int, ...] | None = None,
        reason: str = "stopped by the caller",
        status: MemberStatus = "stopped",
    ) -> None:
        """End members (indices; None: all). Their last parameters are evaluated."""
        self.stops.append(Stop(members, reason, status))
        self.interrupted |= members is None and status == "interrupted"

    def evaluate(self) -> None:
        """Request an evaluation of all active members."""
        self.evaluation_due = True

    def save(self) -> None:
        """Request a checkpoint of every member."""
        self.checkpoint_due = True

    def take_stops(self) -> list[Stop]:
        """Return the stop requests since the last call."""
        return [self.stops.pop(0) for _ in range(len(self.stops))]  # another thread may append to this list


def reached_goals(config: RunConfig, state: TrainState) -> list[str]:
    """Return for each member why `stop_at` or `stop_on_plateau` ends its training; "" if they don't."""
    goals = [""] * len(state.active)
    stagnant = np.zeros_like(state.env_steps) if config.stop_on_plateau is None else plateau.steps_since_best(state)
    for row in range(len(goals)):
        if config.stop_at is not None and float(state.recent[row].mean()) >= config.stop_at:  # NaN if they are fewer
            goals[row] = f"the mean return of {RECENT} episodes reached {config.stop_at:g}"
        elif config.stop_on_plateau is not None and stagnant[row] >= config.stop_on_plateau:
            goals[row] = f"no better mean return of {RECENT} episodes for {config.stop_on_plateau:,} steps"
    return goals


def train(plan: Plan, control: Control | None = None, resume_from: Progress | None = None) -> Generator[Event]:
    """Train every member of the plan until it ends, and yield events; start from `resume_from` if it is given.

    Yields RunStarted; EpisodesFinished and UpdateDone for every update; Evaluated when an evaluation is due and for the
    last parameters (sampled, then greedy); CheckpointSaved for every checkpoint; and in any case RunEnded at the end.

    Raises:
        RunFailed: a component raised. RunEnded is yielded first.
        UnfitError: the estimator needs an argument that the run can't provide. Nothing is yielded before.
    """
    run = _TrainingRun(plan, control or Control(), resume_from)
    error: RunFailed | None = None
    try:
        with limit_threads(plan.config.threads):
            try:
                yield from run.loop()
            except RunFailed as caught:
                error = caught
                run.fail_all(str(caught))
                yield from run.checkpoint(range(len(plan.members)), failed=True, environments=False)
    finally:
        run.ctx.close()
    yield run.ended()
    if error:
        raise error


class _TrainingRun:
    """The state of `train` between events: the engine, and the status of every member."""

    def __init__(self, plan: Plan, control: Control, resume_from: Progress | None) -> None:
        members = len(plan.members)
        self.plan, self.control, self.ctx = plan, control, Engine(plan, resume_from.state if resume_from else None)
        self.diagnostics = Diagnostics(self.ctx)
        control.activity = self.ctx.watch.activity
        self.ctx.interaction.monitor.cancelled = lambda: control.interrupted
        self.statuses: list[MemberStatus] = ["finished"] * members  # unless something else ends a member
        if resume_from:
            self.statuses = ["finished" if status == "running" else status for status in resume_from.statuses]
        self.reasons = list(resume_from.reasons) if resume_from else [""] * members
        self.last_checkpoint = time.perf_counter()
        self.ended_since_checkpoint = np.zeros(members, np.bool_)
        self.loop_seconds = 0.0

    def loop(self) -> Iterator[Event]:
        """Update until no member is active, then evaluate."""
        c, ctx, watch = self.plan.config, self.ctx, self.ctx.watch
        yield RunStarted(c, self.plan.group, self.plan.seeds, self.plan.run_keys)
        started = time.perf_counter()
        rounds = rounds_of(ctx)
        index, ahead, without_step = 0, False, 0
        while ctx.running():
            before = ctx.state
            ctx.begin_update()
            try:
                with watch.phase("update", f'algorithm "{c.algorithm}"'):
                    loop_ended = next(rounds, LOOP_ENDED) is LOOP_ENDED
                if loop_ended:
                    raise RunFailed(f'The loop of algorithm "{c.algorithm}" ended before its members did.')
                state, finished = ctx.end_update(before)
            except (Cancelled, RunFailed) as broken:  # go back to the last completed update
                ctx.state = before
                if isinstance(broken, RunFailed):
                    raise
                ctx.state = before._replace(active=self._still_active(before, 0.0))
                self.ended_since_checkpoint |= before.active
                ahead = before.collector is not None  # the environments have taken the steps of the lost update
                break
            without_step = 0 if (state.env_steps > before.env_steps)[before.active].any() else without_step + 1
            if without_step >= WITHOUT_STEP:
                raise RunFailed(
                    f'algorithm "{c.algorithm}": {without_step} updates have counted no step. ctx.collect and ctx.play '
                    "return a new state; a loop assigns it before it yields: ctx.state = state."
                )
            with watch.phase("track"):
                self.diagnostics.measure(before)
                watch.activity.report()
                yield EpisodesFinished(index, state.env_steps, finished.returns, finished.lengths)
            self.loop_seconds = self._elapsed(started)
            active = before.active
            ctx.state = state._replace(
                updates=before.updates + active, active=self._still_active(state, self.loop_seconds)
            )
            with watch.phase("track"):
                ended = active & ~ctx.state.active
                yield UpdateDone(index, state.env_steps, active, ended, ctx.metrics.means())
            yield from self._evaluate_if_due(before.env_steps)
            yield from self._checkpoint_if_due(before, ended)
            index += 1
        self.loop_seconds = self._elapsed(started)
        yield from self.checkpoint(np.flatnonzero(self.ended_since_checkpoint), environments=not ahead)
        not_failed = np.array([status != "failed" for status in self.statuses])
        if self.control.interrupted:
            deadline = time.perf_counter() + INTERRUPTED_EVALUATION
            ctx.interaction.monitor.cancelled = lambda: time.perf_counter() > deadline
        if not_failed.any():
            yield from self._evaluate(not_failed, final=True)
        self._interrupt_finished()

    def _elapsed(self, started: float) -> float:
        """Return the seconds of training since `started`, without those spent on evaluating and compiling."""
        not_training = self.ctx.watch.seconds["evaluate"] + self.ctx.watch.seconds["compile"]
        return time.perf_counter() - started - not_training

    def _evaluate_if_due(self, before: NDArray[np.int64]) -> Iterator[Event]:
        """Evaluate members whose last update crossed a multiple of `eval_every`; all if the control requests it."""
        every, steps = self.plan.config.eval_every, self.ctx.state.env_steps
        active = self.ctx.state.active
        due = active & (steps // every > before // every) if every else np.zeros_like(active)
        if self.control.evaluation_due:
            self.control.evaluation_due, due = False, active
        if due.any():
            yield from self._evaluate(due, final=False)

    def _checkpoint_if_due(self, before: TrainState, ended: NDArray[np.bool_]) -> Iterator[Event]:
        """Checkpoint members that crossed a multiple of `checkpoint_every`; without it, all active ones at intervals.

        Members that ended don't change any more; they are written with the next checkpoint, or after the loop.
        """
        if ended.any() and self.ctx.running():
            self.ctx.keep_environments_of(ended)
        every, steps = self.plan.config.checkpoint_every, self.ctx.state.env_steps
        self.ended_since_checkpoint |= ended
        due = np.zeros_like(ended)
        if every:
            due |= before.active & (steps // every > before.env_steps // every)
        elif every is None and time.perf_counter() - self.last_checkpoint > CHECKPOINT_INTERVAL:
            due |= before.active
        if self.control.checkpoint_due:
            self.control.checkpoint_due, due = False, np.ones_like(due)
        if due.any():
            with self.ctx.watch.phase("track"):
                yield from self.checkpoint(np.flatnonzero(due | self.ended_since_checkpoint))
            self.ended_since_checkpoint[:] = False

    def checkpoint(self, members: Iterable[int], *, failed: bool = False, environments: bool = True) -> Iterator[Event]:
        """Write checkpoints of members (indices), if the control does that.

        Where a component has `failed`, they hold the status of every member. Without `environments` a resumed run
        restarts the open episodes.
        """
        chosen = tuple(int(member) for member in members)
        if self.control.write_checkpoints is None or not chosen:
            return
        state = self.ctx.snapshot(environments=environments)
        both = zip(state.active, self.statuses, strict=True)
        statuses: tuple[ProgressStatus, ...] = tuple(
            "running" if active and not failed else status for active, status in both
        )
        progress = Progress(state, statuses, tuple(self.reasons), self.plan.forgets)
        self.control.write_checkpoints(progress, chosen)
        self.last_checkpoint = time.perf_counter()
        yield CheckpointSaved(self.ctx.state.env_steps, chosen, progress.exact)

    def _evaluate(self, active: NDArray[np.bool_], *, final: bool) -> Iterator[Event]:
        modes: tuple[EvaluationMode, ...] = ("sampled", "greedy") if final else ("sampled",)
        for mode in modes:
            played = self.ctx.evaluate(self.ctx.state, active, mode)
            if not any(map(len, played.returns)):
                return  # cancelled before the first round was completed
            state, cut = self.ctx.state, played.cut if played.cut.any() else None
            yield Evaluated(state.env_steps, active, mode, final, played.returns, played.lengths, cut, state)

    def _still_active(self, state: TrainState, seconds: float) -> NDArray[np.bool_]:
        """Return the members that continue to train; record the status and the first reason of those that end."""
        c, active = self.plan.config, state.active.copy()

        def end(row: int, status: MemberStatus, reason: str) -> None:
            if active[row]:
                active[row], self.statuses[row], self.reasons[row] = False, status, reason

        for row, reason in self.ctx.failures.items():
            end(row, "failed", reason)
        goals = reached_goals(c, state)
        for row in range(len(active)):
            if c.total_steps is not None and state.env_steps[row] >= c.total_steps:
                end(row, "finished", f"completed {c.total_steps:,} steps")
            if c.total_episodes is not None and state.episodes[row] >= c.total_episodes:
                end(row, "finished", f"completed {c.total_episodes:,} episodes")
            if goals[row]:
                end(row, "stopped", goals[row])
            if c.max_minutes is not None and seconds >= 60 * c.max_minutes:
                end(row, "stopped", f"reached the limit of {c.max_minutes:g} minutes")
        for stop in self.control.take_stops():
            for row in range(len(active)) if stop.members is None else stop.members:
                if not 0 <= row < len(active):
                    raise ValueError(f"control.stop: there is no member {row}: there are {len(active)}, from 0")
                end(row, stop.status, stop.reason)
        return active

    def _interrupt_finished(self) -> None:
        """Let a signal that arrives after training, in the final evaluation, still mark the run as interrupted."""
        for stop in self.control.take_stops():
            for row, status in enumerate(self.statuses):
                if stop.status == "interrupted" and status in ("finished", "stopped"):
                    self.statuses[row], self.reasons[row] = stop.status, stop.reason

    def fail_all(self, reason: str) -> None:
        """Mark all active members as failed; in the final evaluation, all members that haven't failed before."""
        for row, active in enumerate(self.ctx.state.active):
            if active or (not self.ctx.state.active.any() and self.statuses[row] != "failed"):
                self.statuses[row], self.reasons[row] = "failed", reason

    def ended(self) -> RunEnded:
        """Return the last event."""
        ctx, timing = self.ctx, self.ctx.watch.seconds | {"loop": self.loop_seconds}
        state = ctx.snapshot(environments=False)
        return RunEnded(
            state.env_steps,
            tuple(self.statuses),
            tuple(self.reasons),
            timing,
            state,
            laps=ctx.interaction.monitor.seconds,
        )
