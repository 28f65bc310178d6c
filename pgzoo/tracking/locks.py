"""File locks, which the kernel releases when the process that holds them ends for any reason."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["is_locked", "lock"]


def lock(path: Path, timeout: float = 0.0) -> FileLock | None:
    """Return the acquired lock, or None if another process still holds it after `timeout` seconds.

    Raises OSError where the folder can't be written.
    """
    # Not thread-local: the thread that closes a session need not be the one that opened it.
    mine = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        mine.acquire(timeout=timeout, poll_interval=0.02)
    except Timeout:
        return None
    return mine


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock. Two simultaneous callers may both get a false True."""
    if not path.exists():
        return False
    try:
        mine = lock(path)
    except OSError:
        return False
    if mine is None:
        return True
    mine.release()
    return False
