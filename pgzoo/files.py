"""Write files and folders atomically: a reader finds the old content or the new, never a part of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_file", "write_folder"]


def write_file(target: Path, data: bytes, *, durable: bool = True, mode: int = 0o644) -> None:
    """Write a file under a temporary name, then rename it to `target`.

    Missing parent folders are created. With `durable` the content is flushed to disk before the rename, so that it also
    survives a power cut. `mode` is the permissions of the file.

    Raises:
        OSError: the disk is full or the folder can't be written; an existing `target` is unchanged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(file.fileno(), data, durable)
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink(missing_ok=True)
        raise


def write_folder(target: Path, files: Mapping[str, bytes], *, mode: int = 0o755) -> None:
    """Write files into a temporary folder, then rename it to `target`, which survives a power cut.

    An existing `target` is replaced. `mode` is the permissions of the folder.

    Raises:
        OSError: the disk is full or the parent folder can't be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
    try:
        for name, data in files.items():
            with (fresh / name).open("wb") as file:
                _write(file.fileno(), data, durable=True)
        fresh.chmod(mode)
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
        _sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _write(handle: int, data: bytes, durable: bool) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
    if durable:
        os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    """Flush a rename to disk, on systems that can sync a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
