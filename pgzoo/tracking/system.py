"""The machine as the journal and the uploader see it: clock, files, locks and processes.

`SYSTEM` is the real one. A simulation injects its own, which fails as its seed says (tests/simulation).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from pgzoo.files import DISK, Disk
from pgzoo.tracking.locks import is_locked, lock

__all__ = ["SYSTEM", "Lock", "Process", "System"]


class Lock(Protocol):
    """A file lock that this process holds."""

    def release(self) -> None:
        """Let another process take it."""


class Process(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""


def start_process(command: Sequence[str], folder: Path, env: Mapping[str, str], log: IO[bytes]) -> Process:
    """Start a process that outlives this one, in `folder`, with its output in `log`. Raises OSError."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, **env},
    )


@dataclass(frozen=True)
class System:
    """The effects of the journal and the uploader, except those of mlflow. Files are read directly."""

    disk: Disk = DISK
    clock: Callable[[], float] = time.time
    """Seconds since 1970, from a clock that may be set."""
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    lock: Callable[[Path, float], Lock | None] = lock
    """`lock(file, timeout)`: the lock, None if another process still holds it after `timeout` seconds."""
    is_locked: Callable[[Path], bool] = is_locked
    start_process: Callable[[Sequence[str], Path, Mapping[str, str], IO[bytes]], Process] = start_process

    def now(self) -> int:
        """Return the time in milliseconds since 1970."""
        return int(self.clock() * 1000)


SYSTEM = System()
