"""What a run is doing right now: written by the thread that trains, read by a display in another thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Activity", "Cancelled", "Monitor"]


class Cancelled(Exception):
    """A collection of whole episodes, or compiling, was aborted. Only the work of the current update is lost."""


@dataclass
class Monitor:
    """Watches collections from outside.

    `cancelled()` is asked before every step; True ends a collection of whole episodes. `seconds` sums up the time spent
    on choosing actions ("acting"), on stepping environments ("environment"), and in loops that do both in compiled code
    ("compiled").

    `steps` and `episodes` count while a collection runs, over all members, so that another thread can show them. The
    steps include those that only reset an environment.
    """

    cancelled: Callable[[], bool] = lambda: False
    seconds: dict[str, float] = field(default_factory=lambda: {"environment": 0.0, "acting": 0.0})
    steps: int = 0
    episodes: int = 0


@dataclass
class Activity:
    """What a run is doing right now. The training thread writes it; a display may read it from another thread.

    `phase` is the current phase of the stopwatch, such as "collect", "compile" or "evaluate"; empty before training.
    `collecting` watches the collections for training, `evaluating` the current evaluation of `episodes_due` episodes.
    `reported` are the steps and episodes of `collecting` that events contain already.
    """

    phase: str = ""
    collecting: Monitor = field(default_factory=Monitor)
    evaluating: Monitor = field(default_factory=Monitor)
    episodes_due: int = 0
    reported: tuple[int, int] = (0, 0)

    def report(self) -> None:
        """Mark what was collected as contained in an event."""
        self.reported = self.collecting.steps, self.collecting.episodes
