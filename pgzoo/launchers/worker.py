"""A worker process, which trains one shard of a run.

It reads the shard and commands from standard input and writes events to standard output (see `launchers.protocol`).
When standard input ends, the process that started this worker has died: the worker stops as if interrupted.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from pgzoo.launchers.pipes import write_all
from pgzoo.process import collect_garbage_rarely, keep_freed_memory

if TYPE_CHECKING:
    from pgzoo.training.loop import Control

__all__ = ["execute_commands", "main", "report_activity"]

ACTIVITY_INTERVAL = 0.5
"""Seconds between two messages about what a worker is doing."""

TrainShard = Callable[[Mapping[str, Any], "Control", "Pipe"], None]
"""`train_shard(shard, control, pipe)`: train the shard, which `control` may stop, and write its events to `pipe`."""


def main(train_shard: TrainShard) -> None:
    """Train the shard described on standard input."""
    collect_garbage_rarely()
    keep_freed_memory()
    # Standard output is for lines of JSON alone: what environments print goes to standard error.
    pipe = Pipe(os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    if hasattr(signal, "pthread_sigmask"):
        for number in (signal.SIGINT, signal.SIGHUP):  # handled by the coordinator, which sends a command
            signal.signal(number, lambda *_: None)  # not SIG_IGN, which child processes would inherit
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})
    commands = os.fdopen(os.dup(0), "rb", buffering=0)  # unbuffered: a thread may block in it at exit
    first = commands.readline()
    if not first:
        return
    try:
        shard = json.loads(first)
        control = _start_control(commands, shard["rows"])
        _send_warnings(pipe)
        train_shard(shard, control, pipe)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.freeze()  # the process ends now: collecting the compiler's garbage would take two seconds


class Pipe:
    """Writes lines from any thread. Lines are dropped when the process that reads them has died."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._lock = file, threading.Lock()

    def put(self, line: str) -> None:
        """Write a line."""
        with suppress(OSError), self._lock:
            write_all(self._file, line.encode() + b"\n")

    def send(self, kind: str, **content: Any) -> None:
        """Write a JSON object with `kind` under the key "type"."""
        self.put(json.dumps({"type": kind, **content}))


@contextmanager
def report_activity(control: Control, pipe: Pipe) -> Iterator[Callable[[], None]]:
    """Send what the run is doing every `ACTIVITY_INTERVAL` seconds while the body runs; yield a function that does."""
    from pgzoo.launchers.protocol import activity_of

    ended, lock, last = threading.Event(), threading.Lock(), activity_of(control.activity)

    def report() -> None:
        nonlocal last
        with lock:
            if (now := activity_of(control.activity)) != last:
                last = now
                pipe.send("activity", **now)

    def repeat() -> None:
        while not ended.wait(ACTIVITY_INTERVAL):
            report()

    thread = threading.Thread(target=repeat, name="pgzoo-activity", daemon=True)
    thread.start()
    try:
        yield report
    finally:
        ended.set()
        thread.join()


class WarningForwarder(logging.Handler):
    """Sends pgzoo's warnings to the coordinator, which shows each once."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        self._pipe.send("log", level=record.levelno, text=record.getMessage())


def _start_control(commands: Iterable[bytes], rows: list[int]) -> Control:
    """Return a control, and start a thread that executes the commands on it."""
    from pgzoo.training.loop import Control

    control = Control()
    threading.Thread(
        target=execute_commands, args=(commands, control, rows), name="pgzoo-commands", daemon=True
    ).start()
    return control


def _send_warnings(pipe: Pipe) -> None:
    logger = logging.getLogger("pgzoo")
    logger.addHandler(WarningForwarder(pipe))
    logger.propagate = False


def execute_commands(commands: Iterable[bytes], control: Control, rows: list[int]) -> None:
    """Pass the coordinator's commands on to `control`; `rows` are this worker's members. Stop the run at their end."""
    for line in commands:
        match json.loads(line):
            case {"stop": stop}:
                mine = None if stop["rows"] is None else tuple(rows.index(row) for row in stop["rows"] if row in rows)
                if mine is None or mine:
                    control.stop(mine, stop["reason"], stop["status"])
            case {"evaluate": _}:
                control.evaluate()
            case {"save": _}:
                control.save()
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # redirect: the reading process has died
        os.dup2(silence, stream)
    control.stop(reason="the process that started the worker has died", status="interrupted")
