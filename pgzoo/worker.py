"""A process that trains some seeds of a run: it reads its order from standard input and tells what happens.

    python -c "from pgzoo.worker import main; main()"

See `launching` for the lines. When standard input ends, whoever gave the order is gone: the run is stopped in order, as
interrupted, so that no worker is left behind.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgzoo.events import Event
    from pgzoo.training import Control

__all__ = ["main"]


def main() -> None:
    """Carry out one order."""
    # What environments print must not come between the lines: it goes where errors go.
    pipe = Pipe(os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    if hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the launcher's to hear; children hear it again
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    orders = os.fdopen(os.dup(0), "rb", buffering=0)  # a thread may still wait in it when Python ends
    order = orders.readline()
    if not order:
        return
    try:
        work(json.loads(order), orders, pipe)
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


def work(order: Mapping[str, Any], wishes: Iterable[bytes], pipe: Pipe) -> None:
    """Train the seeds of an order, and obey what is wished meanwhile."""
    from pgzoo.config import Layer, resolve
    from pgzoo.errors import PgzooError
    from pgzoo.launching import TOLD, encode, load
    from pgzoo.registry import discover
    from pgzoo.runner import Post, run_config
    from pgzoo.training import Control

    def tell(event: Event) -> None:
        if isinstance(event, TOLD):
            pipe.put(encode(event))

    logger = logging.getLogger("pgzoo")
    logger.addHandler(Warnings(pipe))
    logger.propagate = False
    control = Control()
    threading.Thread(target=_obey, args=(wishes, control, order["rows"]), name="pgzoo-wishes", daemon=True).start()
    try:
        catalog = discover(blocked=order["blocked"], imports=order["imports"])
        given = dict(order["config"])
        axes = {"sweep_axis": given.pop("sweep_axis", {})}  # over what the first member has of it
        config = resolve([Layer(given, ".".join), Layer(axes, ".".join)], catalog)
        taken_up = load(order["group"], config, order["standing"]) if order["standing"] else None
        post = Post(order["group"], control, tell)
        result = run_config(config, catalog, command=order["command"], resumption=taken_up, post=post)
    except PgzooError as error:
        pipe.say("refused", text=str(error))
        return
    pipe.say(
        "ended",
        statuses=[run.status for run in result.runs],
        reasons=[run.reason for run in result.runs],
        env_steps=[run.env_steps for run in result.runs],
        timing=dict(result.timing),
        lost=result.pending.lost,
        dropped=result.pending.dropped,
        failure=str(result.error) if result.error else None,
    )


def _obey(wishes: Iterable[bytes], control: Control, rows: list[int]) -> None:
    for line in wishes:
        stop = json.loads(line)["stop"]
        mine = None if stop["rows"] is None else tuple(rows.index(row) for row in stop["rows"] if row in rows)
        if mine is None or mine:
            control.stop(mine, stop["reason"], stop["status"])
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # whoever read them is gone
        os.dup2(silence, stream)
    control.stop(reason="the process that started its worker is gone", status="interrupted")
