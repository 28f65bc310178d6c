"""Watch the head node of a Ray cluster."""

from __future__ import annotations

import socket
import time

from ray.experimental.internal_kv import _internal_kv_exists

__all__ = ["HEAD_SECONDS", "Head"]

PROBE_SECONDS = 3.0
"""Interval of connections to the head of the cluster, in seconds, and their time limit."""

HEAD_SECONDS = 30.0
"""Seconds without a connection to the head after which the run ends."""


class Head:
    """Watches the head node of the cluster. Without it, Ray would wait for minutes, or end this process.

    A connection is kept open from one look to the next: if it was closed, the head has been restarted in between.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._lost_since, self._next, self._doubtful = 0.0, 0.0, False
        self._connection: socket.socket | None = None
        self.is_well()

    def is_well(self) -> bool:
        """Connect, and return whether the head is reachable and has not lost its state in a restart."""
        if self._connection is not None:
            self._doubtful |= _is_closed(self._connection)
            self._connection.close()
        name, _, port = self.address.rpartition(":")
        try:
            self._connection = socket.create_connection((name.strip("[]"), int(port)), timeout=PROBE_SECONDS)
            self._connection.setblocking(False)
            self._lost_since = 0.0
        except OSError:
            self._connection, self._doubtful = None, True
            self._lost_since = self._lost_since or time.monotonic()
        self._next = time.monotonic() + PROBE_SECONDS
        return not self._lost_since and not self._restarted()

    def problem(self) -> str:
        """Return why the run can't continue; "" if it can."""
        if time.monotonic() >= self._next:
            self.is_well()
        if self._lost_since and time.monotonic() - self._lost_since > HEAD_SECONDS:
            return f"the head of the Ray cluster, {self.address}, can't be reached for {HEAD_SECONDS:.0f} seconds"
        if not self._lost_since and self._restarted():
            return f"the head of the Ray cluster, {self.address}, was restarted and has lost its state"
        return ""

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _restarted(self) -> bool:
        """Return whether a head that was not reachable at some time no longer knows this process."""
        if self._doubtful:
            try:
                _internal_kv_exists(b"pgzoo")
            except Exception:
                return True
            self._doubtful = False
        return False


def _is_closed(connection: socket.socket) -> bool:
    """Return whether the other side has closed a connection."""
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
