"""How a run hears that it shall end: Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pgzoo.training.loop import Control

__all__ = ["stop_on_signals"]


@contextmanager
def stop_on_signals(control: Control, aloud: bool, deaf: bool) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run in order; the second at once. A worker is deaf to Ctrl-C: it is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGTERM,) if deaf else (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.getsignal(name) for name in names}

    def stop(number: int, _: object) -> None:
        for name in names:
            signal.signal(name, _interrupt)
        control.stop(reason=f"interrupted by {signal.Signals(number).name}", status="interrupted")
        if aloud:  # by the system call: the signal may have come in the middle of a print
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            os.write(2, f"{clear}Stopping, and keeping what there is. Once more ends at once.\n".encode())

    for name in names:
        signal.signal(name, stop)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt
