"""Train: a generator of events.

Plain objects come in (`Plan`), events come out. Nothing here knows of plugins, trackers, the command line or a
terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pgzoo.errors import RunFailed
from pgzoo.training import plateau
from pgzoo.training.engine import Engine, default_loop
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
from pgzoo.training.rollout import Cancelled
from pgzoo.types import RECENT, TrainState

__all__ = ["Control", "Plan", "Progress", "train"]

OVER = object()

KEEP_EVERY = 30.0
"""Seconds between two checkpoints where no number of steps is asked for."""

PATIENCE = 2.0
"""Seconds for the final evaluation of a run that was interrupted: somebody waits for its end."""


ProgressStatus = MemberStatus | Literal["running"]


@dataclass(frozen=True)
class Stop:
    """A wish to end members (indices; None: all)."""

    members: tuple[int, ...] | None
    reason: str
    status: MemberStatus


@dataclass(frozen=True)
class Progress:
    """Where a run stands that goes on: its state, and the end that each member has come to, if any.

    A member that is active has the status "running", unless a component of the run has failed. `forgets` as in a plan.
    """

    state: TrainState
    statuses: tuple[ProgressStatus, ...]
    reasons: tuple[str, ...]
    forgets: bool = True

    @property
    def exact(self) -> bool:
        """Whether a run that goes on from here is, bit for bit, one that was never left."""
        if self.state.collector is None:
            return self.forgets or not self.state.updates.any()
        told = self.state.environments or (None,) * len(self.statuses)
        return all(rows is not None or n == 0 for rows, n in zip(told, self.state.updates, strict=True))


@dataclass
class Control:
    """Acts on a run from outside; obeyed at the next safe point, after an update.

    An interruption of the whole run doesn't wait for the end of whole episodes: their collection is given up.
    `keep(standing, members)` writes checkpoints of these members (indices), when one is due.
    """

    stops: list[Stop] = field(default_factory=list)
    evaluation_due: bool = False
    checkpoint_due: bool = False
    interrupted: bool = False
    keep: Callable[[Progress, tuple[int, ...]], None] | None = None

    def stop(
        self, members: tuple[int, ...] | None = None, reason: str = "asked to stop", status: MemberStatus = "stopped"
    ) -> None:
        """End these members (indices; None: all); their last parameters are evaluated."""
        self.stops.append(Stop(members, reason, status))
        self.interrupted |= members is None and status == "interrupted"

    def evaluate(self) -> None:
        """Evaluate the active members."""
        self.evaluation_due = True

    def save(self) -> None:
        """Keep a checkpoint of every member."""
        self.checkpoint_due = True

    def take_stops(self) -> list[Stop]:
        """Return the wishes since the last call; one that comes meanwhile is left for the next."""
        stops, self.stops = self.stops, []
        return stops


def train(plan: Plan, control: Control | None = None, standing: Progress | None = None) -> Generator[Event]:
    """Train every member of the plan to its end, and tell what happens; go on from `standing` where it is given.

    Yields RunStarted; EpisodesFinished and UpdateDone for every update; Evaluated where it is due and for the last
    parameters (sampled, then greedy); CheckpointSaved where one was kept; RunEnded, whatever happened.

    Raises:
        RunFailed: a component raised. RunEnded is yielded first.
        UnfitError: the estimator asks for what nobody gives; before anything is yielded.
    """
    run = _Run(plan, control or Control(), standing)
    error: RunFailed | None = None
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.config.threads)
    try:
        yield from run.loop()
    except RunFailed as caught:
        error = caught
        run.fail_all(str(caught))
        yield from run.keep(range(len(plan.members)), whole=False)
    finally:
        torch.set_num_threads(threads)
        run.ctx.close()
    yield run.ended()
    if error:
        raise error


class _Run:
    """What `train` remembers from one event to the next."""

    def __init__(self, plan: Plan, control: Control, standing: Progress | None) -> None:
        members = len(plan.members)
        self.plan, self.control, self.ctx = plan, control, Engine(plan, standing.state if standing else None)
        self.ctx.cancelled = lambda: control.interrupted
        self.statuses: list[MemberStatus] = ["finished"] * members
        if standing:
            self.statuses = ["finished" if status == "running" else status for status in standing.statuses]
        self.reasons = list(standing.reasons) if standing else [""] * members
        self.kept = time.perf_counter()
        self.unkept = np.zeros(members, np.bool_)
        """Who has ended, or was cut off, since the last checkpoint."""
        self.loop_seconds = 0.0

    def loop(self) -> Iterator[Event]:
        """Collect, update, report; and again until nobody is active. Then evaluate."""
        c, ctx, watch = self.plan.config, self.ctx, self.ctx.watch
        yield RunStarted(c, self.plan.group, self.plan.seeds, self.plan.run_keys)
        started = time.perf_counter()
        rounds = getattr(self.plan.algorithm, "loop", default_loop)(ctx)
        index = 0
        while ctx.running():
            before = ctx.state
            ctx.begin_update()
            try:
                with watch.phase("update", f'algorithm "{c.algorithm}"'):
                    over = next(rounds, OVER) is OVER
            except (Cancelled, RunFailed) as broken:  # the last whole update stands
                ctx.state = before
                if isinstance(broken, RunFailed):
                    raise
                ctx.state = before._replace(active=self._still_active(before, 0.0))
                self.unkept |= before.active
                break
            if over:
                raise RunFailed(f'The loop of algorithm "{c.algorithm}" ended before its members did.')
            state, finished = ctx.end_update(before)
            with watch.phase("track"):
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
            yield from self._keep_if_due(before, ended)
            index += 1
        self.loop_seconds = self._elapsed(started)
        yield from self.keep(np.flatnonzero(self.unkept))
        sound = np.array([status != "failed" for status in self.statuses])
        if self.control.interrupted:
            deadline = time.perf_counter() + PATIENCE
            ctx.cancelled = lambda: time.perf_counter() > deadline
        if sound.any():
            yield from self._evaluate(sound, final=True)
        self._interrupt_finished()

    def _elapsed(self, started: float) -> float:
        """Seconds of training since then: without evaluating and compiling."""
        apart = self.ctx.watch.seconds["evaluate"] + self.ctx.watch.seconds["compile"]
        return time.perf_counter() - started - apart

    def _evaluate_if_due(self, before: NDArray[np.int64]) -> Iterator[Event]:
        """Evaluate members whose last update crossed a multiple of `eval_every`, or all if asked to."""
        every, steps = self.plan.config.eval_every, self.ctx.state.env_steps
        active = self.ctx.state.active
        due = active & (steps // every > before // every) if every else np.zeros_like(active)
        if self.control.evaluation_due:
            self.control.evaluation_due, due = False, active
        if due.any():
            yield from self._evaluate(due, final=False)

    def _keep_if_due(self, before: TrainState, ended: NDArray[np.bool_]) -> Iterator[Event]:
        """Keep members that have crossed a multiple of `checkpoint_every`; without one, all now and then.

        Those that have ended don't change any more: they are kept with the next that are due, or after the loop.
        """
        if ended.any() and self.ctx.running():
            self.ctx.hold(ended)
        every, steps = self.plan.config.checkpoint_every, self.ctx.state.env_steps
        self.unkept |= ended
        due = np.zeros_like(ended)
        if every:
            due |= before.active & (steps // every > before.env_steps // every)
        elif every is None and time.perf_counter() - self.kept > KEEP_EVERY:
            due |= before.active
        if self.control.checkpoint_due:
            self.control.checkpoint_due, due = False, np.ones_like(due)
        if due.any():
            with self.ctx.watch.phase("track"):
                yield from self.keep(np.flatnonzero(due | self.unkept))
            self.unkept[:] = False

    def keep(self, members: Iterable[int], *, whole: bool = True) -> Iterator[Event]:
        """Write checkpoints of these members, if anybody keeps them; without environments if not `whole`."""
        chosen = tuple(int(member) for member in members)
        if self.control.keep is None or not chosen:
            return
        state = self.ctx.snapshot(environments=whole)
        both = zip(state.active, self.statuses, strict=True)
        statuses: tuple[ProgressStatus, ...] = tuple(
            "running" if active and whole else status for active, status in both
        )
        standing = Progress(state, statuses, tuple(self.reasons), self.plan.forgets)
        self.control.keep(standing, chosen)
        self.kept = time.perf_counter()
        yield CheckpointSaved(self.ctx.state.env_steps, chosen, standing.exact)

    def _evaluate(self, active: NDArray[np.bool_], *, final: bool) -> Iterator[Event]:
        modes: tuple[EvaluationMode, ...] = ("sampled", "greedy") if final else ("sampled",)
        for mode in modes:
            played = self.ctx.evaluate(self.ctx.state, active, mode)
            if not any(map(len, played.returns)):
                return  # interrupted
            yield Evaluated(self.ctx.state.env_steps, active, mode, final, played.returns, played.lengths)

    def _still_active(self, state: TrainState, seconds: float) -> NDArray[np.bool_]:
        """Freeze members that have come to an end, of whatever kind; the first reason counts."""
        c, active = self.plan.config, state.active.copy()

        def end(row: int, status: MemberStatus, reason: str) -> None:
            if active[row]:
                active[row], self.statuses[row], self.reasons[row] = False, status, reason

        for row, reason in self.ctx.failures.items():
            end(row, "failed", reason)
        stagnant = np.zeros_like(state.env_steps) if c.stop_on_plateau is None else plateau.stagnant(state)
        for row in range(len(active)):
            recent = float(state.recent[row].mean())  # NaN before there were so many
            if c.total_steps is not None and state.env_steps[row] >= c.total_steps:
                end(row, "finished", f"{c.total_steps:,} steps are done")
            if c.total_episodes is not None and state.episodes[row] >= c.total_episodes:
                end(row, "finished", f"{c.total_episodes:,} episodes are done")
            if c.stop_at is not None and recent >= c.stop_at:
                end(row, "stopped", f"the mean return of {RECENT} episodes reached {c.stop_at:g}")
            if c.stop_on_plateau is not None and stagnant[row] >= c.stop_on_plateau:
                end(row, "stopped", f"{c.stop_on_plateau:,} steps gave no better mean return of {RECENT} episodes")
            if c.max_minutes is not None and seconds >= 60 * c.max_minutes:
                end(row, "stopped", f"{c.max_minutes:g} minutes are over")
        for stop in self.control.take_stops():
            for row in range(len(active)) if stop.members is None else stop.members:
                end(row, stop.status, stop.reason)
        return active

    def _interrupt_finished(self) -> None:
        """A signal that comes when training is over, in the last evaluation, still interrupts the run."""
        for stop in self.control.take_stops():
            for row, status in enumerate(self.statuses):
                if stop.status == "interrupted" and status in ("finished", "stopped"):
                    self.statuses[row], self.reasons[row] = stop.status, stop.reason

    def fail_all(self, reason: str) -> None:
        """A component raised: nobody goes on. In the last evaluation that concerns whoever was being evaluated."""
        for row, active in enumerate(self.ctx.state.active):
            if active or (not self.ctx.state.active.any() and self.statuses[row] != "failed"):
                self.statuses[row], self.reasons[row] = "failed", reason

    def ended(self) -> RunEnded:
        """The last event."""
        ctx, timing = self.ctx, self.ctx.watch.seconds | {"loop": self.loop_seconds}
        state = ctx.snapshot(environments=False)
        return RunEnded(state.env_steps, tuple(self.statuses), tuple(self.reasons), timing, state, laps=ctx.laps)
