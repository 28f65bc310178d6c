"""Every check of a listener can fail: for each there is a listener with one fault."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from failing_checks import ALL_CHECKS, assert_fails, failing, named_by_faulty_plugins

from pgzoo.markers import hookimpl
from pgzoo.testing.checks import CHECKS
from pgzoo.training.events import UpdateDone


class Hearing:
    """Receives updates, and no other events."""

    @hookimpl
    def pgzoo_update_done(self, event: UpdateDone) -> None:
        self.heard(event)

    def heard(self, event: UpdateDone) -> None:
        pass


class Deaf:
    """Implements no event hook."""


class Fragile(Hearing):
    """Raises an exception in its hook."""

    def heard(self, event: UpdateDone) -> None:
        raise ConnectionError("no server")


class Scrawling(Hearing):
    """Writes into the events that it receives."""

    def heard(self, event: UpdateDone) -> None:
        event.env_steps[:] = 0


class Arrayed(Hearing):
    """Has an array in its snapshot."""

    def snapshot(self, member: int) -> Any:
        return {"steps": np.zeros(1)}


class Unready(Hearing):
    """Has a snapshot of what no event has set."""

    def snapshot(self, member: int) -> Any:
        return self.steps  # type: ignore[attr-defined]


class Indexed(Hearing):
    """Has numbers as keys in its snapshot."""

    def snapshot(self, member: int) -> Any:
        return {"best": [{member: 1.0}]}


class Unclosable(Hearing):
    """Raises in close."""

    def close(self) -> None:
        raise OSError("no connection")


class Lingering(Hearing):
    """Waits in close."""

    def close(self) -> None:
        threading.Event().wait()


class Orderly(Hearing):
    """Has a snapshot, and is closed."""

    closed = 0

    def snapshot(self, member: int) -> Any:
        return {"seen": [1, 2.0, None, True, "x"], "member": member}

    def close(self) -> None:
        type(self).closed += 1


LISTENERS = [
    (Deaf, "creates", "It implements no event hook"),
    (Fragile, "raises-nothing", "ConnectionError: no server in pgzoo_update_done"),
    (Scrawling, "events-unchanged", "writes into UpdateDone.env_steps"),
    (Arrayed, "snapshots", "can't be saved: TypeError: Object of type ndarray is not JSON serializable"),
    (Unready, "snapshots", "can't be saved: AttributeError"),
    (Indexed, "snapshots", "can't be saved: 0 is a key, which JSON turns into a text"),
    (Unclosable, "closes", "raises OSError: no connection in close. close ends threads and connections"),
    (Lingering, "closes", "hasn't returned after 0.2 s in close"),
]


def test_a_correct_listener_passes_all_checks() -> None:
    assert failing("listener", lambda context: Hearing()) == {}
    assert failing("listener", lambda context: Orderly()) == {}
    assert Orderly.closed == 1


@ALL_CHECKS
@pytest.mark.parametrize(("listener", "check", "said"), LISTENERS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_listener_with_one_fault_fails_only_the_check_for_it(
    all_checks: bool, listener: type, check: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if listener is Lingering:
        monkeypatch.setattr("pgzoo.testing.listeners.END_PATIENCE", 0.2)
    only = None if all_checks else check
    assert_fails(failing("listener", lambda context: listener(), only), check, said, 'Listener "broken"')


def test_every_check_of_a_listener_has_one_that_fails_it() -> None:
    assert {check for _, check, _ in LISTENERS} | named_by_faulty_plugins("listener") == set(CHECKS["listener"])
