"""Changes of the whole process, such as where output goes, that several threads may make at the same time."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from threading import Lock

__all__ = ["prints_to_stderr", "shared", "without_warnings"]


def shared(change: Callable[[], AbstractContextManager[object]]) -> Callable[[], AbstractContextManager[None]]:
    """Let the first of the threads that are inside make the change, and the last one undo it.

    If every thread restored what it had found, one that found the change of another would restore that for good.
    """
    lock, made, inside = Lock(), ExitStack(), 0

    @contextmanager
    def enter() -> Iterator[None]:
        nonlocal inside
        with lock:
            if not inside:
                made.enter_context(change())
            inside += 1
        try:
            yield
        finally:
            with lock:
                inside -= 1
                if not inside:
                    made.close()

    return enter


@shared
@contextmanager
def without_warnings() -> Iterator[None]:
    """Hide all warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@shared
def prints_to_stderr() -> AbstractContextManager[object]:
    """Send what Python code prints to stderr."""
    return redirect_stdout(sys.stderr)
