"""The uploader's loop, run in this process without a store."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from program import PATIENCE, eventually

from pgzoo.tracking import NO_STORE, Home, Session
from pgzoo.tracking import uploader as module
from pgzoo.tracking.ledger import WANTED, Ledger, read_json, retry_time, write_json
from pgzoo.tracking.locks import is_locked, lock
from pgzoo.tracking.run_upload import RunUpload
from pgzoo.tracking.session import ensure_uploader
from pgzoo.tracking.system import SYSTEM, Lock
from pgzoo.tracking.transfer import import_runs
from pgzoo.tracking.uploader import Uploader, replace_uploader


def without_start(home: Home, key: str) -> Path:
    folder = home.runs / key
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text('{"t": "update", "ts": 1, "steps": [1], "m": {}}\n', encoding="utf-8")
    return folder


def test_a_run_deleted_during_a_round_does_not_stop_the_uploader(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [without_start(home, key) for key in ("first", "second")]
    uploader = Uploader(home)
    refuse = RunUpload.refuse_run

    def refuse_deleted(upload: RunUpload, reason: str) -> None:
        if upload.folder == folders[0]:
            shutil.rmtree(upload.folder)
        refuse(upload, reason)

    monkeypatch.setattr(RunUpload, "refuse_run", refuse_deleted)
    uploader.round()
    assert not folders[0].exists() and not uploader.uploads
    assert "no start record" in (folders[1] / "ack.json").read_text(encoding="utf-8")


def test_an_incomplete_line_after_the_end_of_a_run_is_removed(home: Home) -> None:
    """A trainer that resumed the finished run was killed while it wrote its first line."""
    opened = Session(home, "group", NO_STORE)
    journal = opened.journal("ended", name="n", experiment="e", seed=0, algorithm="a", env="e")
    journal.end("FINISHED")
    opened.close(0)
    file = journal.path / "journal.jsonl"
    size = file.stat().st_size
    Ledger(offset=size, closed="FINISHED", reported=True, model="m-1", plots="omitted").write(journal.path)
    with file.open("ab") as torn:
        torn.write(b'{"t":"start"')
    upload = RunUpload(journal.path, home)
    upload.run_id = "1"
    upload.upload_records(mock.Mock())
    assert upload.nothing_to_do and file.stat().st_size == size


def test_the_uploader_stops_waiting_when_a_run_ends_or_is_deleted(tmp_path: Path) -> None:
    uploader, run = Uploader(Home(tmp_path, tmp_path / "mlflow.db", tmp_path / "mlartifacts")), tmp_path / "run"
    training: Any = SimpleNamespace(folder=run)
    for deleted in (False, True):
        run.mkdir(exist_ok=True)
        held = lock(run / "lock")
        assert held
        end = threading.Timer(0.1, shutil.rmtree, [run]) if deleted else threading.Timer(0.1, held.release)
        end.start()
        began = time.monotonic()
        uploader._rest(600.0, training)
        assert time.monotonic() - began < 300
        end.join()
        held.release()
    uploader._rest(0.0, training)


def trained(home: Home, key: str, steps: range, uri: str = NO_STORE, ends: bool = True) -> Path:
    """Record a point of a curve at each of these steps; return the run's folder."""
    opened = Session(home, "group", uri)
    journal = opened.journal(key, name="n", experiment="e", seed=0, algorithm="a", env="e")
    for step in steps:
        journal.record([step], {"a": float(step)})
    if ends:
        journal.end("FINISHED")
    opened.close(0)
    return journal.path


class FakeStore:
    """A store that keeps points in memory."""

    def __init__(self, uri: str = NO_STORE, refused: Exception | None = None) -> None:
        from pgzoo.tracking.store import Backoff

        self.uri, self.refused, self.vanished = uri, refused, False
        self.records, self.files, self.models = Backoff(), Backoff(), Backoff()
        self.successes = self.failures = 0
        self.points: list[int] = []
        self.uploaded: list[str] = []
        self.known = False

    def open_run(self, *_: Any) -> Any:
        from pgzoo.tracking.store import OpenedRun

        created, self.known = not self.known, True
        return OpenedRun("new", "1", {}, {}, created)

    def log(self, run_id: str, rows: list[tuple[str, float, int, int]], *_: Any) -> None:
        if self.refused:
            raise self.refused
        self.points += [step for *_, step in rows]

    def upload(self, run_id: str, file: Path, name: str) -> None:
        from pgzoo.tracking.store import TooLargeError

        if name == "large.bin":
            raise TooLargeError("it refuses large.bin")
        self.uploaded.append(name)

    def must_wait(self, key: str) -> bool:
        return False

    def delete_duplicates(self, *_: Any) -> None:
        pass

    def close_run(self, *_: Any) -> None:
        pass


@pytest.fixture
def no_uploader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgzoo.tracking.session.ensure_uploader", lambda home: None)


def test_a_run_that_is_resumed_after_its_store_was_replaced_is_uploaded_from_its_beginning(home: Home) -> None:
    folder = trained(home, "kept", range(1, 6))
    Ledger(offset=(folder / "journal.jsonl").stat().st_size, closed="FINISHED").write(folder)
    write_json(folder / "run.json", {"run_id": "old", "tracking_uri": NO_STORE})
    trained(home, "kept", range(6, 11))
    upload, store = RunUpload(folder, home), FakeStore()
    upload.upload_records(store)  # type: ignore[arg-type]
    assert store.points == list(range(1, 11))
    assert Ledger.read(folder).closed == "FINISHED" and read_json(folder / "run.json")["run_id"] == "new"


def test_a_run_that_its_store_has_lost_is_uploaded_again_when_sync_retries(
    home: Home, monkeypatch: pytest.MonkeyPatch, no_uploader: None
) -> None:
    from pgzoo.tracking.store import LostRunError

    folder = trained(home, "lost", range(1, 6), "http://server", ends=False)
    Ledger(offset=(folder / "journal.jsonl").stat().st_size).write(folder)
    write_json(folder / "run.json", {"run_id": "old", "tracking_uri": "http://server"})
    trained(home, "lost", range(6, 11), "http://server")
    store = FakeStore("http://server", LostRunError("the run old is gone from the store"))
    store.known = True  # so that it isn't created at the resumed run's start
    uploader = Uploader(home)
    monkeypatch.setattr(uploader, "_store", lambda upload: store)
    uploader.round()
    ledger = Ledger.read(folder)
    assert "gone" in ledger.refused and not ledger.offset and not (folder / "run.json").exists()
    store.refused = None
    home.retry_file.write_text("")
    uploader._find_due = 0.0  # after a slow search for runs, the next one comes later
    uploader.round()
    assert store.points == list(range(1, 11))


def test_a_run_that_is_moved_to_another_store_while_the_uploader_runs_is_uploaded_there_completely(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_uploader: None
) -> None:
    there = Home.find({"PGZOO_HOME": str(tmp_path / "there")})
    trained(there, "moved", range(1, 6))
    stores = {uri: FakeStore(uri) for uri in ("http://first", "http://second/with/another/length")}
    first, second = stores
    import_runs(there.root, home, first, move=True)
    uploader = Uploader(home)
    monkeypatch.setattr(uploader, "_store", lambda upload: stores[upload.uri])
    monkeypatch.setattr(RunUpload, "write_tables", lambda upload: False)  # so that it stays pending
    uploader.round()
    import_runs(there.root, home, second, move=True)
    for _ in range(3):
        uploader._find_due = 0.0
        uploader.round()
    assert stores[first].points == stores[second].points == list(range(1, 6))
    assert not (home.runs / "moved" / "rejected.jsonl").exists()


@pytest.fixture
def idle_home(tmp_path: Path) -> Home:
    """A home whose uploader's lock is free."""
    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    home.root.mkdir(exist_ok=True)
    return home


@contextlib.contextmanager
def asking_to_retry(home: Home, held: Lock) -> Iterator[Future[Lock | None]]:
    """Ask to retry and wait for the uploader's lock in another thread; `held` is released at the end."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(replace_uploader, home, SYSTEM, WANTED)
        finally:
            held.release()


@pytest.fixture
def failing(idle_home: Home, monkeypatch: pytest.MonkeyPatch) -> Uploader:
    """An uploader that has failed, of a home with nothing to upload; its rounds raise InterruptedError."""
    idle_home.uploader_lock.touch()
    uploader = Uploader(idle_home)
    backoff = SimpleNamespace(error="401", retry_now=mock.Mock())
    uploader.uploads[idle_home.root] = SimpleNamespace(backoff=backoff)  # type: ignore[assignment]
    monkeypatch.setattr(uploader, "round", mock.Mock(side_effect=InterruptedError))
    return uploader


def test_a_request_to_retry_ends_an_uploader_that_fails_if_the_next_one_waits(
    idle_home: Home, failing: Uploader
) -> None:
    """Its environment may have other credentials than that of `pgzoo sync`, which has started the next one."""
    next_one = lock(idle_home.successor_lock)
    assert next_one is not None
    with pytest.raises(InterruptedError):
        failing.run()
    idle_home.retry_file.write_text("")
    assert not failing.run()
    failing._heed_request()  # the request may also come after the check of `run`
    assert not idle_home.status_file.exists() and failing._retried == 0  # the next uploader finds the request
    next_one.release()


def test_an_uploader_that_fails_retries_itself_if_no_other_waits_to_take_its_place(
    idle_home: Home, failing: Uploader
) -> None:
    idle_home.retry_file.write_text("")
    with pytest.raises(InterruptedError):
        failing.run()
    failing._heed_request()
    assert failing._retried == idle_home.retry_file.stat().st_mtime_ns


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "retries"])
def test_the_process_that_asks_to_retry_waits_until_the_uploader_leaves_or_retries(
    idle_home: Home, leaves: bool
) -> None:
    running = lock(idle_home.uploader_lock)
    assert running is not None
    with asking_to_retry(idle_home, running) as asking:
        eventually(lambda: idle_home.retry_file.exists() and idle_home.retry_file.read_text() == WANTED)
        assert is_locked(idle_home.successor_lock) and not asking.done()
        if leaves:
            running.release()
            other = replace(SYSTEM, is_locked=lambda file: file == idle_home.successor_lock, start_process=mock.Mock())
            ensure_uploader(idle_home, other)  # a trainer looks when the one has left and the other hasn't come yet
            other.start_process.assert_not_called()
        else:
            write_json(idle_home.status_file, {"retried": retry_time(idle_home)})
        mine = asking.result(PATIENCE)
        assert not is_locked(idle_home.successor_lock) and is_locked(idle_home.uploader_lock)
    assert (mine is not None) == leaves
    if mine is not None:
        mine.release()


def test_a_request_to_retry_is_made_after_that_of_another_command(idle_home: Home) -> None:
    other = lock(idle_home.successor_lock)
    assert other is not None
    with asking_to_retry(idle_home, other) as asking:
        time.sleep(0.1)
        assert not idle_home.retry_file.exists()
        other.release()
        mine = asking.result(PATIENCE)
    assert mine is not None and idle_home.retry_file.exists()
    mine.release()


def test_an_uploader_whose_database_was_replaced_starts_the_next_one_when_it_leaves(
    idle_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, free = FakeStore(), []
    store.vanished = True

    def serve(home: Home) -> bool:
        uploader = Uploader(home)
        uploader._stores[store.uri] = store  # type: ignore[assignment]
        return uploader.run()

    for name in ("collect_garbage_rarely", "lower_priority"):
        monkeypatch.setattr(module, name, lambda: None)
    monkeypatch.setattr(module, "serve", serve)
    monkeypatch.setattr(module, "ensure_uploader", lambda home: free.append(not is_locked(home.uploader_lock)))
    monkeypatch.setattr("sys.argv", ["uploader", str(idle_home.root)])
    module.main()
    assert free == [True]
    store.vanished = False
    monkeypatch.setattr(module, "EXIT_AFTER_IDLE", -1.0)
    module.main()
    assert free == [True]


def test_a_file_that_is_too_large_for_the_server_keeps_back_no_others(home: Home) -> None:
    from pgzoo.tracking.store import TooLargeError

    folder = trained(home, "large", range(1, 2))
    size = (folder / "journal.jsonl").stat().st_size
    Ledger(offset=size, closed="FINISHED", reported=True, files=["large.bin", "config.yaml"]).write(folder)
    upload, store = RunUpload(folder, home), FakeStore()
    upload.run_id, upload.alive = "1", False
    with pytest.raises(TooLargeError):
        upload.upload_files(store)  # type: ignore[arg-type]
    assert store.uploaded == ["config.yaml"] and Ledger.read(folder).files == ["large.bin"]
    assert not upload.upload_files(store)  # type: ignore[arg-type]  # the plots come first
    assert upload.draw_plots(lambda group: True)
    with pytest.raises(TooLargeError):
        upload.upload_files(store)  # type: ignore[arg-type]


def test_error_413_of_an_upload_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    from requests import HTTPError, Response

    from pgzoo.tracking.store import Store, TooLargeError, short_message

    response, file = Response(), tmp_path / "policy.safetensors"
    response.status_code = 413
    file.write_bytes(b"12345")
    store = Store("http://server")
    store._client, store._artifact_folders["1"] = mock.Mock(), None
    store._client.log_artifact.side_effect = HTTPError("413 Client Error", response=response)
    with pytest.raises(TooLargeError) as caught:
        store.upload("1", file, "policy/policy.safetensors")
    assert short_message(caught.value) == (
        "it refuses policy/policy.safetensors, which has 5 bytes (413): raise the limit of the server, or of the proxy "
        "before it (nginx: client_max_body_size)"
    )
