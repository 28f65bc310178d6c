"""Seeds shared out among fresh processes of this machine, each a worker that computes with its own threads."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from pgzoo.types import LaunchRequest, WorkerMessage

__all__ = ["cores", "launch"]

ASK_EVERY = 0.1
"""Seconds between two looks at what is wished."""

DRAIN = 2.0
"""Seconds for what a worker that has ended still had to say: a child of its own may hold the pipes open."""


def launch(request: LaunchRequest) -> Generator[WorkerMessage] | None:
    """Start `workers` processes, by default one for each core that `threads` leaves; none if one would do."""
    config = request.config
    count = min(config.workers or cores() // config.threads, len(config.seeds))
    return _heard(request, count) if count > 1 else None


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A process, and threads that read what it says."""

    def __init__(self, index: int, command: Sequence[str], heard: queue.SimpleQueue[WorkerMessage]) -> None:
        with _no_interrupt():
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
            )
        self.index, self.gone = index, False
        self._ended: float | None = None
        out, err = self.process.stdout, self.process.stderr
        assert out is not None and err is not None
        self._readers = [
            threading.Thread(target=_read, args=(index, kind, pipe, heard), daemon=True)
            for kind, pipe in (("line", out), ("aside", err))
        ]
        for reader in self._readers:
            reader.start()

    def tell(self, lines: Iterable[str]) -> None:
        """Send lines; a worker that has died hears nothing."""
        assert self.process.stdin is not None
        with suppress(OSError):
            for line in lines:
                self.process.stdin.write(line.encode() + b"\n")

    def check(self) -> WorkerMessage | None:
        """Return the last word once the process has ended and all that it said is read."""
        if self.gone or self.process.poll() is None:
            return None
        self._ended = self._ended or time.monotonic()
        if any(reader.is_alive() for reader in self._readers) and time.monotonic() - self._ended < DRAIN:
            return None
        self.gone = True
        return WorkerMessage(self.index, "gone", _reason(self.process))

    def kill(self) -> None:
        """End it at once, if it lives."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()


def _heard(request: LaunchRequest, count: int) -> Generator[WorkerMessage]:
    heard: queue.SimpleQueue[WorkerMessage] = queue.SimpleQueue()
    workers: list[_Worker] = []
    try:
        for index, shard in enumerate(request.split(count)):
            workers.append(_Worker(index, request.command, heard))
            workers[-1].tell([shard.spec])
        while not all(worker.gone for worker in workers):
            commands = request.commands()
            for worker in workers:
                worker.tell(commands)
            with suppress(queue.Empty):
                yield heard.get(timeout=ASK_EVERY)
                while True:
                    yield heard.get_nowait()
            for worker in workers:
                if (last := worker.check()) is not None:
                    while not heard.empty():  # its readers are done: nothing of it can come later
                        yield heard.get()
                    yield last
    finally:
        for worker in workers:
            worker.kill()


def _read(index: int, kind: str, pipe: IO[bytes], heard: queue.SimpleQueue[WorkerMessage]) -> None:
    with suppress(OSError, ValueError):  # closed under our hands
        for line in pipe:
            heard.put(WorkerMessage(index, kind, line.decode(errors="replace").rstrip("\r\n")))


def _reason(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code >= 0:
        return f"its worker process {process.pid} ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its worker process {process.pid} was killed by {name}"


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """What starts meanwhile is born deaf to Ctrl-C, which a terminal sends to all its processes: we pass it on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
