"""The uploader's loop, run in this process without a store."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from pgzoo.tracking import NO_STORE, Home, Session
from pgzoo.tracking.ledger import Ledger
from pgzoo.tracking.locks import lock
from pgzoo.tracking.run_upload import RunUpload
from pgzoo.tracking.uploader import Uploader


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
