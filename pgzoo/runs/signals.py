"""Stop a run on Ctrl-C (SIGINT), SIGTERM, and SIGHUP (a terminal that is closed)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pgzoo.training.loop import Control

__all__ = ["stop_on_signals"]


@contextmanager
def stop_on_signals(control: Control, *, announce: bool, terminal: bool) -> Iterator[None]:
    """Let signals stop the run while the body runs; the handlers that were there are put back afterwards.

    The first signal stops the run cleanly: checkpoints are written and the last parameters are evaluated. A second
    SIGINT or SIGTERM raises KeyboardInterrupt. A second SIGHUP is ignored, because the kernel and the shell may each
    send one when a terminal is closed. SIGHUP that was ignored before (`nohup`) stays ignored.

    Args:
        control: receives the stop.
        announce: write a line to standard error at the first signal.
        terminal: handle SIGINT and SIGHUP. False in a worker: the terminal also signals it, but the coordinator stops
            it by a command.

    Outside of the main thread, where Python has no signal handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [signal.SIGTERM]
    if terminal:
        handled.append(signal.SIGINT)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handled.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in handled}

    def stop(number: int, _: object) -> None:
        for other in handled:
            signal.signal(other, signal.SIG_IGN if other not in (signal.SIGINT, signal.SIGTERM) else _interrupt)
        control.stop(reason=f"interrupted by {signal.Signals(number).name}", status="interrupted")
        if announce:  # os.write, because the signal may interrupt a print
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            with suppress(OSError):  # the terminal may be gone
                os.write(
                    2, f"{clear}Stopping and saving checkpoints. Press Ctrl-C again to quit immediately.\n".encode()
                )

    try:
        for number in handled:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by code in C


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(f"quit immediately after a second {signal.Signals(number).name}")
