"""Processes that pgzoo starts: which signals they get, and how they ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["block_terminal_signals", "describe_exit"]


@contextmanager
def block_terminal_signals() -> Iterator[None]:
    """Block SIGINT and SIGHUP in processes started meanwhile, until they have handlers and unblock them.

    A terminal sends both to all of its processes. pgzoo's processes are stopped by a message instead.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def describe_exit(code: int) -> str:
    """Return how a process ended, such as "was killed by SIGKILL", from the return code that `subprocess` reports."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"was killed by signal {-code}"
