"""Shows how a run gets on: a bar in a terminal, a line that changes in a notebook, lines of text elsewhere.

A thread of its own looks at what the run is doing, so that progress moves within a long collection, too.
"""

from __future__ import annotations

import sys
import time
from collections import deque

import numpy as np

from pgzoo.analysis.wording import decimals
from pgzoo.config.sweep import format_setting
from pgzoo.errors import visible
from pgzoo.markers import hookimpl
from pgzoo.runs.context import RunContext
from pgzoo.runs.time_limit import note_on_evaluation
from pgzoo.runs.waiting import NotebookLine, Ticker
from pgzoo.training.events import EpisodesFinished, RunEnded, RunStarted, UpdateDone

__all__ = ["create"]

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""

PATIENCE = 60.0
"""Seconds of training without a step after which the display says so: a loop that never acts would hang unnoticed."""

TICK = 0.2
"""Seconds between two updates of a bar."""


def create(context: RunContext) -> Display | None:
    """Make the listener of one run."""
    match context.progress:
        case "bar":
            return Display(context, Bar(), TICK)
        case "notebook":
            return Display(context, Notebook(), TICK)
        case "plain":
            return Display(context, Lines(), LINE_EVERY)
    return None


class Watch:
    """How far a run is, and the mean return of its last 100 episodes a seed.

    Between two events the numbers come from `context.activity`, which the training thread updates with every step.
    """

    def __init__(self, context: RunContext) -> None:
        c = context.plan.config
        self.by_episodes = c.total_steps is None
        goal = c.total_steps or c.total_episodes
        assert goal is not None
        members = context.plan.members
        self.total = goal * len(members)
        self.unit = "episodes" if self.by_episodes else "steps"
        self.algorithm = visible(c.algorithm)
        seeds = f"seed {c.seeds[0]}" if len(c.seeds) == 1 else f"{len(c.seeds)} seeds"
        if (settings := len({format_setting(member.overrides) for member in members})) > 1:
            seeds = f"{settings} settings, {seeds}"
        self.title = f"{visible(f'{c.algorithm} on {c.env}')}, {seeds}: {self.total:,} {self.unit}"
        if not self.by_episodes and c.total_episodes is not None:
            self.title += f", or {c.total_episodes * len(members):,} episodes, whichever comes first"
        if note := note_on_evaluation(context.plan):
            self.title += f"\n{note}"
        self.activity = context.activity
        self.recent: deque[float] = deque(maxlen=100 * len(members))
        self.training = np.ones(len(members), dtype=bool)
        self._steps = self._episodes = 0  # at the last event
        self._shown = 0
        self._begun: int | None = None if context.resumed else 0  # steps that another process did
        self._phase, self._since = "", time.perf_counter()
        self._seen, self._stepped = 0, time.perf_counter()
        self.started = time.perf_counter()

    def add(self, event: EpisodesFinished) -> None:
        for returns in event.returns:
            self.recent.extend(returns)
            self._episodes += len(returns)
        self._steps = int(event.env_steps.sum())
        if self._begun is None:
            self._begun, self.started = self._steps, time.perf_counter()

    @property
    def steps(self) -> int:
        return self._steps + self.activity.collecting.steps - self.activity.reported[0]

    @property
    def done(self) -> int:
        """Steps or episodes that are done, all seeds together. It never decreases.

        In a resumed run it is 0 until the first event says how far the run is. If it began to rise before, the bar
        would take the steps of the interrupted run for fast progress, and show too little time left.
        """
        if self._begun is None:
            return 0
        episodes = self._episodes + self.activity.collecting.episodes - self.activity.reported[1]
        self._shown = max(self._shown, min(self.total, episodes if self.by_episodes else self.steps))
        return self._shown

    @property
    def speed(self) -> float:
        return (self.steps - (self._begun or 0)) / max(1e-9, time.perf_counter() - self.started)

    @property
    def text(self) -> str:
        """What the run is doing: training at some speed, or what keeps it from training."""
        phase, evaluating = self.activity.phase, self.activity.evaluating
        if phase != self._phase:
            self._phase, self._since = phase, time.perf_counter()
        seconds = time.perf_counter() - self._since
        if self.steps != self._seen or phase in ("evaluate", "compile"):
            self._seen, self._stepped = self.steps, time.perf_counter()
        if phase == "evaluate":
            text = f"evaluating: {evaluating.episodes:,} of {self.activity.episodes_due:,} episodes"
            return text if seconds < LINE_EVERY else f"{text}, {evaluating.steps:,} steps"
        if phase == "compile":
            return f"compiling the update ({seconds:.0f} s)"
        if not self.training.any():
            return "evaluating and saving"
        if phase and (idle := time.perf_counter() - self._stepped) >= PATIENCE:
            who = f': algorithm "{self.algorithm}" is computing' if phase == "update" else ""
            return f"no step for {idle:.0f} s{who}"
        mean = "-"
        if self.recent:
            mean = f"{np.mean(list(self.recent)):.{decimals(max(map(abs, self.recent)))}f}"
        return f"mean return {mean}   {self.speed:,.0f} steps/s"


class Display:
    """Counts the events of a run, and shows on a screen how far it is."""

    def __init__(self, context: RunContext, screen: Bar | Notebook | Lines, seconds: float) -> None:
        self.watch, self.screen, self._shown = Watch(context), screen, False
        self._ticker = Ticker(self._tick, seconds)

    @hookimpl
    def pgzoo_run_started(self, event: RunStarted) -> None:
        """Say what begins."""
        self._shown = True
        self.screen.start(self.watch)
        self._ticker.start()

    @hookimpl
    def pgzoo_episodes_finished(self, event: EpisodesFinished) -> None:
        """Count."""
        self.watch.add(event)

    @hookimpl
    def pgzoo_update_done(self, event: UpdateDone) -> None:
        """Note which members have ended."""
        self.watch.training &= ~event.ended

    @hookimpl
    def pgzoo_run_ended(self, event: RunEnded) -> None:
        """Take the display away: the summary follows."""
        self.close()

    def close(self) -> None:
        """Take the display away if it is still there, as after a second Ctrl-C."""
        if self._shown:
            self._shown = False
            self._ticker.stop()
            self.screen.stop()

    def _tick(self) -> None:
        self.screen.show(self.watch)


class Lines:
    """A line each few seconds."""

    def start(self, watch: Watch) -> None:
        """Say what begins."""
        self._print(watch.title)

    def show(self, watch: Watch) -> None:
        """Say how far it is."""
        self._print(f"{watch.done:,}/{watch.total:,} {watch.unit}   {watch.text}")

    def stop(self) -> None:
        """Do nothing."""

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Notebook:
    """A line in the output of a cell."""

    def __init__(self) -> None:
        self._line, self._title = NotebookLine(), ""

    def start(self, watch: Watch) -> None:
        """Say what begins."""
        self._title = watch.title
        self._line.show(self._title)

    def show(self, watch: Watch) -> None:
        """Say how far it is."""
        share = f"{watch.done / watch.total:.0%} of {watch.total:,} {watch.unit}"
        self._line.show(f"{self._title}\n{share}   {watch.text}")

    def stop(self) -> None:
        """Leave the title: the result follows."""
        self._line.show(self._title)


class Bar:
    """A rich progress bar."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.progress.add_task("", total=None, text="")

    def start(self, watch: Watch) -> None:
        """Say what begins, and show the bar."""
        self.progress.console.print(watch.title, markup=False, highlight=False)
        self.progress.update(self.task, total=watch.total)
        self.progress.start()

    def show(self, watch: Watch) -> None:
        """Move the bar; rich draws it in a thread of its own, ten times a second."""
        self.progress.update(self.task, completed=watch.done, text=watch.text)

    def stop(self) -> None:
        """Take the bar away."""
        self.progress.stop()
