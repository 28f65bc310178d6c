"""Write files and folders atomically: a reader finds the old content or the new, never a part of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

__all__ = ["make_folder", "remove_folder", "replaced_name", "sync_folder", "write_file", "write_folder"]

Data: TypeAlias = bytes | memoryview

TEMPORARY = ".tmp-"
"""Begins the name of a folder that isn't complete yet, or is about to be deleted."""
REPLACED = re.compile(r"\.(.+)\.old")


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Create a folder, and those above it that are missing, with these permissions. The new names survive a power cut.

    Raises:
        OSError: it can't be created.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent, mode)
    folder.mkdir(mode=mode, exist_ok=True)
    sync_folder(folder.parent)


def write_file(target: Path, data: bytes, *, durable: bool = True, mode: int = 0o644) -> None:
    """Write a file under a temporary name, then rename it to `target`.

    Missing parent folders are created. With `durable` the content is flushed to disk before the rename, and the rename
    after it, so that both survive a power cut. `mode` is the permissions of the file.

    Raises:
        OSError: the disk is full or the folder can't be written; an existing `target` is unchanged.
    """
    if durable:
        make_folder(target.parent)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(file.fileno(), [data], durable)
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(target.parent)


def write_folder(target: Path, files: Mapping[str, bytes | Sequence[Data]], *, mode: int = 0o755) -> None:
    """Write files into a temporary folder, then rename it to `target`, which survives a power cut.

    The content of a file may be given in pieces.

    An existing `target` is replaced: it is renamed to `replaced_name(target)` until the new one has its name. A crash
    between the two renames leaves only that one; the next call gives it its name back. The next call also deletes what
    a crash left behind, so only one process may write into the parent folder at a time. `mode` is the permissions of
    the folder.

    Raises:
        OSError: the disk is full or the parent folder can't be written.
    """
    make_folder(target.parent)
    _clean_up(target.parent)
    fresh, old = Path(tempfile.mkdtemp(dir=target.parent, prefix=TEMPORARY)), replaced_name(target)
    try:
        for name, content in files.items():
            with (fresh / name).open("wb") as file:
                _write(file.fileno(), [content] if isinstance(content, bytes) else content, durable=True)
        fresh.chmod(mode)
        sync_folder(fresh)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        with contextlib.suppress(OSError):
            if old.exists() and not target.exists():
                old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder, as far as possible. A crash leaves all of it, or nothing under its name."""
    with contextlib.suppress(OSError):
        gone = folder.with_name(f"{TEMPORARY}{folder.name}")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def replaced_name(target: Path) -> Path:
    """Return the name that a folder has while another one takes its place."""
    return target.with_name(f".{target.name}.old")


def sync_folder(folder: Path) -> None:
    """Flush new, renamed and deleted names in a folder to disk, on systems that can sync a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _clean_up(folder: Path) -> None:
    """Finish what a crashed `write_folder` or `remove_folder` left half done in this folder."""
    for path in list(folder.iterdir()):
        replaced = REPLACED.fullmatch(path.name)
        if replaced and not (target := path.with_name(replaced[1])).exists():
            path.rename(target)
        elif replaced or path.name.startswith(TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)


def _write(handle: int, pieces: Sequence[Data], durable: bool) -> None:
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(handle, rest) :]
    if durable:
        os.fsync(handle)
