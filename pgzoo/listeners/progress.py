"""Shows the progress of a run: a bar in a terminal, a line now and then elsewhere. Everything goes to stderr."""

from __future__ import annotations

import sys
import time
from collections import deque

import numpy as np

from pgzoo.config.sweep import format_setting
from pgzoo.markers import hookimpl
from pgzoo.runs.context import RunContext
from pgzoo.training.events import EpisodesFinished, RunEnded, RunStarted, UpdateDone

__all__ = ["create"]

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


def create(context: RunContext) -> Bar | Lines | None:
    """Make the listener of one run."""
    match context.progress:
        case "bar":
            return Bar(context)
        case "plain":
            return Lines(context)
    return None


class Watch:
    """Number of completed steps, and the mean return of the last 100 episodes per seed."""

    def __init__(self, context: RunContext) -> None:
        c = context.plan.config
        self.by_episodes = c.total_steps is None
        goal = c.total_steps or c.total_episodes
        assert goal is not None
        members = context.plan.members
        self.total = goal * len(members)
        self.unit = "episodes" if self.by_episodes else "steps"
        seeds = f"seed {c.seeds[0]}" if len(c.seeds) == 1 else f"{len(c.seeds)} seeds"
        if (settings := len({format_setting(member.overrides) for member in members})) > 1:
            seeds = f"{settings} settings, {seeds}"
        self.title = f"{c.algorithm} on {c.env}, {seeds}: {self.total:,} {self.unit}"
        if not self.by_episodes and c.total_episodes is not None:
            self.title += f", or {c.total_episodes * len(members):,} episodes if they come first"
        self.recent: deque[float] = deque(maxlen=100 * len(members))
        self.steps = self.episodes = 0
        self._begun: int | None = None if context.resumed else 0  # steps that another process did
        self.started = time.perf_counter()

    def add(self, event: EpisodesFinished) -> None:
        for returns in event.returns:
            self.recent.extend(returns)
            self.episodes += len(returns)
        self.steps = int(event.env_steps.sum())
        if self._begun is None:
            self._begun, self.started = self.steps, time.perf_counter()

    @property
    def done(self) -> int:
        return min(self.total, self.episodes if self.by_episodes else self.steps)

    @property
    def speed(self) -> float:
        return (self.steps - (self._begun or 0)) / max(1e-9, time.perf_counter() - self.started)

    @property
    def text(self) -> str:
        mean = f"{np.mean(self.recent):.1f}" if self.recent else "-"
        return f"mean return {mean}   {self.speed:,.0f} steps/s"


class Lines:
    """Prints a line every few seconds."""

    def __init__(self, context: RunContext) -> None:
        self.watch = Watch(context)
        self._next = 0.0

    @hookimpl
    def pgzoo_run_started(self, event: RunStarted) -> None:
        """Print the title of the run."""
        self._say(self.watch.title)
        self._next = time.monotonic() + LINE_EVERY

    @hookimpl
    def pgzoo_episodes_finished(self, event: EpisodesFinished) -> None:
        """Count."""
        self.watch.add(event)

    @hookimpl
    def pgzoo_update_done(self, event: UpdateDone) -> None:
        """Print progress at intervals."""
        if time.monotonic() >= self._next:
            self._say(f"{self.watch.done:,}/{self.watch.total:,} {self.watch.unit}   {self.watch.text}")
            self._next = time.monotonic() + LINE_EVERY

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Bar:
    """A rich progress bar."""

    def __init__(self, context: RunContext) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self.watch = Watch(context)
        self.progress = Progress(
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.progress.add_task("", total=self.watch.total, text="")
        self._training = np.zeros(len(context.plan.members), dtype=bool)

    @hookimpl
    def pgzoo_run_started(self, event: RunStarted) -> None:
        """Say what begins, and show the bar."""
        self.progress.console.print(self.watch.title, markup=False, highlight=False)
        self.progress.start()

    @hookimpl
    def pgzoo_episodes_finished(self, event: EpisodesFinished) -> None:
        """Count."""
        self.watch.add(event)

    @hookimpl
    def pgzoo_update_done(self, event: UpdateDone) -> None:
        """Move the bar; rich draws it in a thread of its own, ten times a second."""
        self._training = (self._training | event.active) & ~event.ended
        text = self.watch.text if self._training.any() else "evaluating"
        self.progress.update(self.task, completed=self.watch.done, text=text)

    @hookimpl
    def pgzoo_run_ended(self, event: RunEnded) -> None:
        """Remove the bar: the summary follows."""
        self.progress.stop()
