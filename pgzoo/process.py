"""Settings for a process that runs nothing but pgzoo. A program that imports pgzoo keeps its own."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["collect_garbage_rarely", "ignore_stop_signals", "keep_freed_memory", "lower_priority"]

MALLOC_TRIM, MALLOC_MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's mallopt
KEPT_BYTES, LARGE_BYTES = 2**28, 2**25

NICENESS = 10


def collect_garbage_rarely() -> None:
    """Let Python look for reference cycles rarely: imports make many objects that stay, and each look takes long."""
    gc.set_threshold(50_000, 20, 100)


def keep_freed_memory() -> None:
    """Let glibc reuse up to 256 MiB of freed memory; other C libraries keep their behavior.

    By default it returns the memory of a few large tensors to the system as soon as they are freed, and the next update
    gets it back page by page, filled with zeros: a third of the time of an update on whole episodes. Tensors of 32 MiB
    and more are still returned. Environment variables that configure glibc's allocation take precedence.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MALLOC_TRIM, KEPT_BYTES)
        mallopt(MALLOC_MMAP, LARGE_BYTES)


def lower_priority() -> None:
    """Leave nine tenths of a core to processes of normal priority that share it with this one.

    If Linux's autogroups are on, the kernel first divides a core among sessions, and then, by their priorities, among
    the processes of a session. So a process with a session of its own also lowers the priority of the session.
    """
    if hasattr(os, "nice"):
        with suppress(OSError):
            os.nice(NICENESS)
            for _ in range(20 if os.getsid(0) == os.getpid() else 0):
                try:
                    Path("/proc/self/autogroup").write_text(str(NICENESS))
                    break
                except BlockingIOError:  # Linux takes one such request in a tenth of a second, from all processes
                    time.sleep(0.1)


def ignore_stop_signals() -> None:
    """Ignore SIGINT, SIGHUP and SIGTERM, and unblock them: the process that started this one ends it by a message.

    A terminal sends the first two to all of its processes; `timeout` and Slurm send SIGTERM to all processes of a
    command. Unlike SIG_IGN, a handler isn't inherited by the programs that an environment starts.
    """
    numbers = {getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGTERM") if hasattr(signal, name)}
    for number in numbers:
        signal.signal(number, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
