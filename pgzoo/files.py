"""Write files and folders atomically: a reader finds the old content or the new, never a part of it.

Functions that take a `disk` change files through it alone, so that a simulation can inject a disk that fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

__all__ = [
    "DISK",
    "Disk",
    "identity_of",
    "make_folder",
    "remove_folder",
    "replaced_name",
    "sync_folder",
    "write_file",
    "write_folder",
]

Data: TypeAlias = bytes | memoryview

TEMPORARY = ".tmp-"
"""Begins the name of a folder that isn't complete yet, or is about to be deleted."""
REPLACED = re.compile(r"\.(.+)\.old")


class Disk(Protocol):
    """The system calls that change files. All of them raise OSError."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Open or create a file, or open a folder; return its descriptor."""

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Write some of the data and return how many bytes were written."""

    def sync(self, descriptor: int) -> None:
        """Flush the content of a file, or the names in a folder, to disk."""

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file to `size` bytes."""

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file; an existing `target` is replaced."""

    def unlink(self, path: Path) -> None:
        """Delete a file."""

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        """Create a folder unless it exists."""


class _OperatingSystem:
    """The disk of this machine."""

    # `os` is looked up at each call: the tests of crash points replace its functions.
    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags, mode)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        getattr(os, "fdatasync", os.fsync)(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        path.mkdir(mode=mode, exist_ok=True)


DISK: Disk = _OperatingSystem()


def make_folder(folder: Path, mode: int = 0o777, durable: bool = True, disk: Disk = DISK) -> bool:
    """Create a folder, and those above it that are missing, with these permissions.

    With `durable` the new names survive a power cut. Returns False if the disk failed to flush one of them.

    Raises:
        OSError: it can't be created.
    """
    if folder.is_dir():
        return True
    flushed = make_folder(folder.parent, mode, durable, disk)
    disk.mkdir(folder, mode)
    return (not durable or sync_folder(folder.parent, disk)) and flushed


def write_file(target: Path, data: bytes, *, durable: bool = True, mode: int = 0o644, disk: Disk = DISK) -> bool:
    """Write a file under a temporary name, then rename it to `target`.

    Missing parent folders are created. With `durable` the content is flushed to disk before the rename, and the rename
    after it, so that both survive a power cut. Returns False if the disk failed to flush a name; then `sync_folder` may
    be tried again. `mode` is the permissions of the file.

    Raises:
        OSError: the disk is full or the folder can't be written; an existing `target` is unchanged.
    """
    flushed = make_folder(target.parent, durable=durable, disk=disk)
    scratch = target.parent / f".{os.urandom(8).hex()}.tmp"
    handle = disk.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            _write(handle, [data], durable, disk)
        finally:
            disk.close(handle)
        scratch.chmod(mode)
        disk.replace(scratch, target)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.unlink(scratch)
        raise
    return (not durable or sync_folder(target.parent, disk)) and flushed


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
                _write(file.fileno(), [content] if isinstance(content, bytes) else content, durable=True, disk=DISK)
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


def identity_of(file: Path) -> tuple[int, int] | None:
    """Return the inode and device of a file, which a file that replaces it doesn't share; None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_dev


def replaced_name(target: Path) -> Path:
    """Return the name that a folder has while another one takes its place."""
    return target.with_name(f".{target.name}.old")


def sync_folder(folder: Path, disk: Disk = DISK) -> bool:
    """Flush new, renamed and deleted names in a folder to disk, on systems that can sync a folder.

    Returns False if the disk failed, so that it is worth trying again.
    """
    try:
        handle = disk.open(folder, os.O_RDONLY)
        try:
            disk.sync(handle)
        finally:
            disk.close(handle)
    except OSError as error:
        return error.errno not in (errno.EIO, errno.ENOSPC, errno.EDQUOT)
    return True


def _clean_up(folder: Path) -> None:
    """Finish what a crashed `write_folder` or `remove_folder` left half done in this folder."""
    for path in list(folder.iterdir()):
        replaced = REPLACED.fullmatch(path.name)
        if replaced and not (target := path.with_name(replaced[1])).exists():
            path.rename(target)
        elif replaced or path.name.startswith(TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)


def _write(handle: int, pieces: Sequence[Data], durable: bool, disk: Disk) -> None:
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[disk.write(handle, rest) :]
    if durable:
        disk.sync(handle)
