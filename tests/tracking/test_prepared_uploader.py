"""The prepared uploader: a process that loads mlflow before there is something to upload."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import PATIENCE, eventually

from pgzoo.tracking import NO_STORE, Home, Session, session
from pgzoo.tracking.ledger import read_json
from pgzoo.tracking.locks import is_locked, lock
from pgzoo.tracking.session import prepare_uploader

PREPARE = """
import os, sys
from pgzoo.tracking import Home
from pgzoo.tracking.session import prepare_uploader, prepared
home = Home.find()
prepare_uploader(home, home.default_uri)
print(prepared[0][1].pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home that doesn't exist yet; its processes are ended after the test."""
    monkeypatch.setattr(session, "prepared", [])
    monkeypatch.setattr(session, "children", [])
    home = Home.find({"PGZOO_HOME": str(tmp_path / "home")})
    yield home
    session.dismiss_prepared()
    home.uploader_lock.unlink(missing_ok=True)  # ends its uploader
    for _, child in session.children:
        assert isinstance(child, subprocess.Popen)
        child.wait(PATIENCE)


def run(home: Home, key: str, uri: str = "") -> Session:
    """Write the journal of a run that has ended; return the session."""
    opened = Session(home, "group", uri or home.default_uri)
    opened.journal(key, name=key, experiment="e", seed=0, algorithm="a", env="e").end("FINISHED")
    return opened


def test_the_prepared_process_becomes_the_uploader(place: Home) -> None:
    prepare_uploader(place, place.default_uri)
    [(_, child)] = session.prepared
    assert not place.root.exists()
    assert not run(place, "first").close(PATIENCE)
    assert read_json(place.status_file)["pid"] == child.pid and not session.prepared
    assert f"as process {child.pid}" in place.uploader_log.read_text(encoding="utf-8")
    prepare_uploader(place, place.default_uri)
    assert not session.prepared, "there is an uploader already"


def test_the_prepared_process_is_killed_if_it_is_not_needed(place: Home) -> None:
    prepare_uploader(place, NO_STORE)
    assert not session.prepared
    prepare_uploader(place, place.default_uri)
    [(_, child)] = session.prepared
    run(place, "kept", NO_STORE).close(0)
    assert child.returncode == -signal.SIGKILL and not place.uploader_log.exists()
    prepare_uploader(place, place.default_uri)
    [(_, child)] = session.prepared
    other = lock(place.uploader_lock)
    assert other is not None
    session.ensure_uploader(place)  # another process has become the uploader meanwhile
    other.release()
    assert child.returncode == -signal.SIGKILL and not place.uploader_log.exists()


def test_a_home_has_at_most_one_prepared_process(place: Home) -> None:
    place.root.mkdir()
    prepare_uploader(place, place.default_uri)
    [(_, first)] = session.prepared
    eventually(lambda: is_locked(place.prepared_lock))
    session.prepared.clear()  # as in another process
    prepare_uploader(place, place.default_uri)
    assert not session.prepared
    late = [sys.executable, "-m", "pgzoo.tracking.uploader", str(place.root), "--when-asked"]  # both saw no lock held
    with subprocess.Popen(late, stdin=subprocess.PIPE) as second:
        assert second.wait(PATIENCE) == 0
    session.prepared.append((place.root, first))
    assert not run(place, "first").close(PATIENCE)
    assert read_json(place.status_file)["pid"] == first.pid and not is_locked(place.prepared_lock)


def test_another_uploader_is_started_if_the_prepared_process_has_died(place: Home) -> None:
    prepare_uploader(place, place.default_uri)
    [(_, child)] = session.prepared
    child.kill()
    assert not run(place, "first").close(PATIENCE)
    assert read_json(place.status_file)["pid"] != child.pid


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_the_prepared_process_ends_with_its_parent_and_leaves_no_files(tmp_path: Path, end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PREPARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        if end == "kill":
            parent.send_signal(signal.SIGKILL)
    eventually(lambda: has_ended(pid))
    assert list(tmp_path.iterdir()) == []


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (ProcessLookupError, FileNotFoundError):
        return True
