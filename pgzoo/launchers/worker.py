"""A process that trains one shard of a run.

It reads the shard from standard input and writes events to standard output; see `launchers.protocol` for the lines.
When standard input ends, the process that started this worker is gone: training stops as if interrupted, so that no
worker is left behind.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgzoo.training.loop import Control

__all__ = ["main"]


TrainShard = Callable[[Mapping[str, Any], "Control", "Pipe"], None]
"""`train_shard(shard, control, pipe)`: train it, obey `control`, and write what happens to `pipe`."""


def main(train_shard: TrainShard) -> None:
    """Train the shard that standard input names."""
    # What environments print must not come between the lines: it goes where errors go.
    pipe = Pipe(os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    if hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the launcher's to hear; children hear it again
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    commands = os.fdopen(os.dup(0), "rb", buffering=0)  # a thread may still wait in it when Python ends
    first = commands.readline()
    if not first:
        return
    try:
        shard = json.loads(first)
        control = _controlled_by(commands, shard["rows"])
        _send_warnings(pipe)
        train_shard(shard, control, pipe)
    except KeyboardInterrupt:
        sys.exit(130)


class Pipe:
    """Takes lines of any thread; nobody there to read them is no reason to fail."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._lock = file, threading.Lock()

    def put(self, line: str) -> None:
        """Write a line."""
        rest = memoryview(line.encode() + b"\n")
        try:
            with self._lock:
                while rest:
                    rest = rest[self._file.write(rest) or 0 :]
        except OSError:
            pass

    def say(self, kind: str, **told: Any) -> None:
        """Write an object."""
        self.put(json.dumps({"t": kind, **told}))


class Warnings(logging.Handler):
    """Sends pgzoo's warnings to the launcher, who says each once."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        self._pipe.say("log", level=record.levelno, text=record.getMessage())


def _controlled_by(commands: Iterable[bytes], rows: list[int]) -> Control:
    """Return a control that obeys the commands read by a thread of its own."""
    from pgzoo.training.loop import Control

    control = Control()
    threading.Thread(target=_obey, args=(commands, control, rows), name="pgzoo-commands", daemon=True).start()
    return control


def _send_warnings(pipe: Pipe) -> None:
    logger = logging.getLogger("pgzoo")
    logger.addHandler(Warnings(pipe))
    logger.propagate = False


def _obey(commands: Iterable[bytes], control: Control, rows: list[int]) -> None:
    for line in commands:
        stop = json.loads(line)["stop"]
        mine = None if stop["rows"] is None else tuple(rows.index(row) for row in stop["rows"] if row in rows)
        if mine is None or mine:
            control.stop(mine, stop["reason"], stop["status"])
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # whoever read them is gone
        os.dup2(silence, stream)
    control.stop(reason="the process that started its worker is gone", status="interrupted")
