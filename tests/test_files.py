"""Atomic writes: a file or folder has its old content or its new content, never a part of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pgzoo.files import write_file, write_folder


def test_write_file_sets_content_and_permissions_without_leftover_files(tmp_path: Path) -> None:
    target = tmp_path / "made" / "status.json"
    for data, mode in ((b"old", 0o644), (b"new" * 10**6, 0o600)):
        write_file(target, data, mode=mode)
        assert target.read_bytes() == data and target.stat().st_mode & 0o777 == mode
    assert [path.name for path in target.parent.iterdir()] == ["status.json"]


def test_a_new_folder_replaces_the_old_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "step-1", {"a": b"1", "b": b"2"})
    write_folder(tmp_path / "step-1", {"a": b"3"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "step-1").iterdir()} == {"a": b"3"}
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "file", b"old")
    write_folder(tmp_path / "folder", {"a": b"old"})

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            write_file(tmp_path / "file", b"new")
        with pytest.raises(OSError, match="No space left"):
            write_folder(tmp_path / "folder", {"a": b"new"})
    assert (tmp_path / "file").read_bytes() == (tmp_path / "folder" / "a").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
