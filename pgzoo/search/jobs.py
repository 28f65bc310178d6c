"""Worker processes on this machine that train trials of a study: `pgzoo sweep --jobs N`.

Each does what `pgzoo sweep --join` does (see `search.worker`). A worker reads what to do as a line of JSON from its
standard input, and stops as interrupted when its standard input ends, so it never outlives the process that started it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self

from pgzoo.launchers.children import describe_exit

__all__ = ["Workers"]


class Workers:
    """Running worker processes; a context manager that kills those that are left."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []
        self._readers: dict[int, threading.Thread] = {}
        self._last_lines: dict[int, str] = {}
        self._shown: set[str] = set()

    @property
    def count(self) -> int:
        """The number of workers that `poll` hasn't reported as ended."""
        return len(self._running)

    def start(self, spec: Mapping[str, Any]) -> None:
        """Start a worker with this process's import path. `spec` are the arguments of `search.worker.train_trials`."""
        boot = f"import sys; sys.path[:] = {sys.path!r}; from pgzoo.search.worker import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", boot],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal is for this process, which then stops its workers
        )
        assert process.stdin is not None and process.stderr is not None
        self._running.append(process)
        with suppress(OSError):  # it has died already, which `poll` reports
            process.stdin.write(json.dumps(spec) + "\n")
            process.stdin.flush()
        reader = threading.Thread(target=self._relay, args=(process.pid, process.stderr), daemon=True)
        self._readers[process.pid] = reader
        reader.start()

    def poll(self) -> list[str]:
        """Remove the workers that have ended; return, for each that didn't end normally, how it ended."""
        ended = [process for process in self._running if process.poll() is not None]
        self._running = [process for process in self._running if process not in ended]
        described = [(process.returncode, self._describe(process)) for process in ended]
        return [text for code, text in described if code]

    def stop(self) -> None:
        """Let all workers end as interrupted, and wait for them."""
        for process in self._running:
            _close_input(process)
        for process in self._running:
            process.wait()
            self._readers.pop(process.pid).join(2.0)
        self._running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            process.kill()
            process.wait()
            _close_input(process)

    def _describe(self, process: subprocess.Popen[str]) -> str:
        self._readers.pop(process.pid).join(2.0)  # one of its child processes may keep the pipe open
        _close_input(process)
        last = self._last_lines.pop(process.pid, "")
        return f"worker process {process.pid} {describe_exit(process.returncode)}" + (f": {last}" if last else "")

    def _relay(self, pid: int, pipe: IO[str]) -> None:
        """Show what a worker writes to standard error, unless another one has written the same line before."""
        with pipe:
            for line in pipe:
                if text := line.rstrip():
                    self._last_lines[pid] = text
                    if text not in self._shown:
                        self._shown.add(text)
                        print(text, file=sys.stderr, flush=True)


def _close_input(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
