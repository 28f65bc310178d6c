"""The uploader's loop in this process, without a store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pgzoo.tracking import Home
from pgzoo.tracking.run_upload import RunUpload
from pgzoo.tracking.uploader import Uploader


def without_start(home: Home, key: str) -> Path:
    folder = home.runs / key
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text('{"t": "update", "ts": 1, "steps": [1], "m": {}}\n', encoding="utf-8")
    return folder


def test_a_run_that_is_deleted_while_it_is_looked_at_ends_no_upload(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
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
