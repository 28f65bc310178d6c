"""Shows how far a search is: trials done, the best score so far, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pgzoo.errors import visible
from pgzoo.runs.waiting import ProgressMode, Waiting
from pgzoo.search.result import TrialRow

__all__ = ["Display", "format_left"]


def format_left(seconds: float) -> str:
    """Return a duration as `40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Display:
    """Writes a line per trial to stderr; in a terminal or notebook also a line that shows what is being trained."""

    def __init__(self, mode: ProgressMode, study: str, trials: int) -> None:
        self.mode, self._study, self._trials = mode, study, trials
        self._done = self._done_before = 0
        self._best: tuple[float, int] | None = None
        self._began = time.monotonic()

    def start(self, rows: Sequence[TrialRow]) -> None:
        """Say what is searched, and what is known from an earlier call."""
        self._note(rows)
        self._done_before = self._done
        known = f": {self._done} of {self._trials} trials are done" if rows else f": {self._trials} trials"
        self._write(f"Study {self._study}{known}. To continue it later: the same command with --study {self._study}")

    def training(self, numbers: Sequence[int], fresh: bool = False) -> AbstractContextManager[Any]:
        """Return a context in which the trials of one batch are shown."""
        which = f"trial {numbers[0]}" if len(numbers) == 1 else f"trials {', '.join(map(str, numbers))}"
        what = f"Training {which} {'on fresh seeds' * fresh}".rstrip()
        return self.waiting(lambda: f"{what}; {self.state()}")

    def waiting(self, text: Callable[[], str]) -> AbstractContextManager[Any]:
        """Return a context in which a text is shown where it can be replaced."""
        return Waiting(text, self.mode) if self.mode in ("bar", "notebook") else nullcontext()

    def ended(self, row: TrialRow, rows: Sequence[TrialRow]) -> None:
        """Write the line of a trial. `rows` are all trials that have ended, also in other processes."""
        self._note(rows)
        shown = row.status if row.score is None else f"{row.score:.5g}"
        why = f"  ({row.reason})" if row.reason else ""
        self._write(f"trial {row.number:>3}  {shown:>9}  {row.format_settings()}{why}  [{self.state()}]")

    def state(self) -> str:
        """Return the number of trials that are done, the best score, and the time left."""
        parts = [f"{self._done} of {self._trials}"]
        if self._best is not None:
            parts.append(f"best {self._best[0]:.5g} (trial {self._best[1]})")
        if (here := self._done - self._done_before) and self._done < self._trials:
            per_trial = (time.monotonic() - self._began) / here
            parts.append(f"about {format_left(per_trial * (self._trials - self._done))} left")
        return ", ".join(parts)

    def _note(self, rows: Sequence[TrialRow]) -> None:
        self._done = len(rows)
        self._trials = max(self._trials, self._done)  # a study that is continued may already have more
        self._best = max(((row.score, row.number) for row in rows if row.score is not None), default=None)

    def _write(self, text: str) -> None:
        if self.mode != "none":
            print(visible(text), file=sys.stderr, flush=True)
