"""Split the seeds among new processes on this machine, each with its own torch threads."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from typing import IO

from pgzoo.errors import ConfigError
from pgzoo.launchers.children import block_terminal_signals, describe_exit
from pgzoo.launchers.pipes import write_all
from pgzoo.types import LaunchRequest, WorkerMessage

__all__ = ["cores", "launch"]

POLL_INTERVAL = 0.1
"""Polling interval for new commands, in seconds."""

DRAIN_SECONDS = 2.0
"""Maximum seconds to read from a worker that has exited: one of its child processes may keep the pipes open."""


def launch(request: LaunchRequest) -> Generator[WorkerMessage] | None:
    """Start `workers` processes, by default one per `threads` CPU cores. Return None if one would be enough.

    Raises:
        ConfigError: the run sets `cpus_per_shard` or `gpus_per_shard`.
    """
    config = request.config
    if config.cpus_per_shard is not None or config.gpus_per_shard is not None:
        raise ConfigError(
            "--cpus-per-shard, --gpus-per-shard: only the launcher of a cluster, such as ray, reserves them. Use "
            "--workers and --threads"
        )
    count = min(config.workers or max(1, cores() // config.threads), len(config.seeds))
    return _run_workers(request, count) if count > 1 or config.verify else None


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A worker process, and the threads that read its output into `messages`."""

    def __init__(self, index: int, command: Sequence[str], messages: queue.SimpleQueue[WorkerMessage]) -> None:
        with block_terminal_signals():
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
            )
        self.index, self.exited = index, False
        self._exit_time: float | None = None
        out, err = self.process.stdout, self.process.stderr
        assert out is not None and err is not None
        self._readers = [
            threading.Thread(target=_read, args=(index, kind, pipe, messages), daemon=True)
            for kind, pipe in (("stdout", out), ("stderr", err))
        ]
        for reader in self._readers:
            reader.start()

    def send(self, lines: Iterable[str]) -> None:
        """Write lines to its standard input, if it is still alive."""
        assert self.process.stdin is not None
        with suppress(OSError):
            for line in lines:
                write_all(self.process.stdin, line.encode() + b"\n")

    def poll(self) -> WorkerMessage | None:
        """Return the message "exited", once, when the process has ended and its output is read; else None."""
        if self.exited or self.process.poll() is None:
            return None
        self._exit_time = self._exit_time or time.monotonic()
        if any(reader.is_alive() for reader in self._readers) and time.monotonic() - self._exit_time < DRAIN_SECONDS:
            return None
        self.exited = True
        return WorkerMessage(self.index, "exited", _exit_reason(self.process))

    def kill(self) -> None:
        """Kill it if it is alive, and close its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()


def _run_workers(request: LaunchRequest, count: int) -> Generator[WorkerMessage]:
    messages: queue.SimpleQueue[WorkerMessage] = queue.SimpleQueue()
    workers: list[_Worker] = []
    try:
        for index, shard in enumerate(request.split(count)):
            workers.append(_Worker(index, request.command, messages))
            workers[-1].send([shard.spec])
        while not all(worker.exited for worker in workers):
            commands = request.commands()
            for worker in workers:
                worker.send(commands)
            with suppress(queue.Empty):
                yield messages.get(timeout=POLL_INTERVAL)
                while True:
                    yield messages.get_nowait()
            for worker in workers:
                if (last := worker.poll()) is not None:
                    while not messages.empty():  # the readers of this worker are done: all of its messages are here
                        yield messages.get()
                    yield last
    finally:
        for worker in workers:
            worker.kill()


def _read(index: int, kind: str, pipe: IO[bytes], messages: queue.SimpleQueue[WorkerMessage]) -> None:
    with suppress(OSError, ValueError):  # `kill` closes the pipe
        for line in pipe:
            messages.put(WorkerMessage(index, kind, line.decode(errors="replace").rstrip("\r\n")))


def _exit_reason(process: subprocess.Popen[bytes]) -> str:
    return f"its worker process {process.pid} {describe_exit(process.returncode)}"
