"""Show what is being done while a user waits: a line that changes in a terminal or notebook, lines of text elsewhere.

Everything goes to stderr, and is written by a thread of its own. Importing this module imports nothing heavy.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Self

__all__ = ["NotebookLine", "ProgressMode", "Ticker", "Waiting", "progress_mode"]

ProgressMode = Literal["bar", "notebook", "plain", "none"]

PATIENCE = 1.0
"""Seconds that something may take without a word."""

TICK = 0.25
"""Seconds between two updates of a line in a terminal or notebook."""

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


def progress_mode(shown: bool | None = True) -> ProgressMode:
    """Return how to show progress here. With None it is shown in a terminal or a notebook only."""
    if shown is False:
        return "none"
    ipython = sys.modules.get("IPython")
    if ipython is not None and hasattr(ipython.get_ipython(), "kernel"):
        return "notebook"
    if sys.stderr is not None and sys.stderr.isatty():
        return "bar"
    return "plain" if shown else "none"


class Ticker:
    """Calls `tick` every `seconds` in a thread of its own, from `start` until `stop`."""

    def __init__(self, tick: Callable[[], None], seconds: float) -> None:
        self._tick, self._seconds, self._stopped = tick, seconds, threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgzoo-progress", daemon=True)

    def start(self) -> None:
        """Start the thread. The first call of `tick` comes after the first interval."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; after this, `tick` is not called any more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            self._tick()


class NotebookLine:
    """A line of text in the output of a notebook cell, which can be changed."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Show a text in place of the last one."""
        from IPython.display import display

        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)

    def clear(self) -> None:
        """Show an empty line in place of a text, if there is one."""
        if self._handle is not None:
            self.show("")


class Waiting:
    """Shows a text, with the seconds so far, while the body of a `with` statement takes longer than a second.

        with Waiting(lambda: f"Playing: {done} of {total} episodes", progress_mode()):
            ...

    `text` may be called in another thread. In a log, a line is written every few seconds.
    """

    def __init__(self, text: str | Callable[[], str], mode: ProgressMode) -> None:
        self._text, self._mode = text, mode
        self._status: AbstractContextManager[Any] | None = None
        self._notebook = NotebookLine()
        self._began = self._next = 0.0
        self._ticker = Ticker(self._tick, TICK)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._next = self._began + (LINE_EVERY / 2 if self._mode == "plain" else PATIENCE)
        if self._mode != "none":
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.stop()
        if self._status is not None:
            self._status.__exit__(None, None, None)
        self._notebook.clear()

    def _tick(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        text = self._text if isinstance(self._text, str) else self._text()
        line = f"{text} ({now - self._began:.0f} s)"
        match self._mode:
            case "bar":
                self._show_in_terminal(line)
            case "notebook":
                self._notebook.show(line)
            case "plain":
                print(line, file=sys.stderr, flush=True)
                self._next = now + LINE_EVERY

    def _show_in_terminal(self, line: str) -> None:
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True)
        shown = Text(line)
        shown.truncate(console.width - 3, overflow="ellipsis")  # beside the spinner, in one line
        if self._status is None:
            self._status = console.status(shown)
            self._status.__enter__()
        else:
            self._status.update(shown)  # type: ignore[attr-defined]
