"""Records every change below a folder, and rebuilds what a crash at any moment would leave of the folder.

`Recorder` is a context manager that logs the changes that its body makes through `os` and `open`. `crashes` then
rebuilds the folder for every prefix of that log, under each of these rules:

    killed    the process was killed; all of its changes are kept
    strict    the power failed; only flushed changes are kept: contents of files, and names in folders
    names     the power failed; all names are kept, but contents only as far as they were flushed
    torn      as `names`, and half of the contents that weren't flushed are kept, too
    contents  the power failed; all contents are kept, but names only as far as they were flushed
"""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias
from unittest import mock

Rule: TypeAlias = Literal["killed", "strict", "names", "torn", "contents"]
RULES: tuple[Rule, ...] = ("killed", "strict", "names", "torn", "contents")
TOP = 0
"""The node of the recorded folder."""


class Change(NamedTuple):
    """One operation: `kind` is the name of a method of `Disk`."""

    kind: str
    arguments: tuple[Any, ...]


@dataclass
class Disk:
    """Files and folders in their current state and in their flushed state.

    A node is the content of a file, or a folder's names with their nodes.
    """

    nodes: dict[int, bytes | dict[str, int]] = field(default_factory=lambda: {TOP: {}})
    flushed: dict[int, bytes | dict[str, int]] = field(default_factory=lambda: {TOP: {}})
    handles: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def folder(self, path: tuple[str, ...]) -> dict[str, int]:
        return self._names(self.node(path[:-1]))

    def node(self, path: tuple[str, ...]) -> int:
        node = TOP
        for name in path:
            node = self._names(node)[name]
        return node

    def _names(self, node: int) -> dict[str, int]:
        names = self.nodes[node]
        assert isinstance(names, dict)
        return names

    def _new(self, path: tuple[str, ...], content: bytes | dict[str, int]) -> None:
        self.count += 1
        self.nodes[self.count] = content
        self.folder(path)[path[-1]] = self.count

    def open(self, handle: int, path: tuple[str, ...], truncate: bool) -> None:
        if path and path[-1] not in self.folder(path):
            self._new(path, b"")
        self.handles[handle] = self.node(path)
        if truncate:
            self.nodes[self.handles[handle]] = b""

    def write(self, handle: int, offset: int | None, data: bytes) -> None:
        content = self._content(handle)
        at = len(content) if offset is None else offset
        self.nodes[self.handles[handle]] = content[:at].ljust(at, b"\0") + data + content[at + len(data) :]

    def truncate(self, handle: int, size: int) -> None:
        self.nodes[self.handles[handle]] = self._content(handle)[:size].ljust(size, b"\0")

    def _content(self, handle: int) -> bytes:
        content = self.nodes[self.handles[handle]]
        assert isinstance(content, bytes)
        return content

    def fsync(self, handle: int) -> None:
        content = self.nodes[self.handles[handle]]
        self.flushed[self.handles[handle]] = content if isinstance(content, bytes) else dict(content)

    def mkdir(self, path: tuple[str, ...]) -> None:
        self._new(path, {})

    def rename(self, source: tuple[str, ...], target: tuple[str, ...]) -> None:
        node = self.node(source)
        del self.folder(source)[source[-1]]
        self.folder(target)[target[-1]] = node

    def remove(self, path: tuple[str, ...]) -> None:
        del self.folder(path)[path[-1]]

    def left(self, rule: Rule) -> dict[str, bytes | None]:
        """Return what a crash at this point would leave, by path: the content of a file, and None for a folder."""
        found: dict[str, bytes | None] = {}

        def visit(node: int, path: str) -> None:
            names = self.nodes[node] if rule in ("killed", "names", "torn") else self.flushed.get(node, {})
            assert isinstance(names, dict)
            for name, child in names.items():
                if isinstance(self.nodes[child], dict):
                    found[f"{path}{name}"] = None
                    visit(child, f"{path}{name}/")
                else:
                    found[f"{path}{name}"] = self._left_of(child, rule)

        visit(TOP, "")
        return found

    def _left_of(self, node: int, rule: Rule) -> bytes:
        now, safe = self.nodes[node], self.flushed.get(node, b"")
        assert isinstance(now, bytes) and isinstance(safe, bytes)
        if rule in ("killed", "contents"):
            return now
        if rule == "torn":
            kept = len(safe) if now.startswith(safe) else len(now) if safe.startswith(now) else 0
            return now[: kept + (len(now) - kept + 1) // 2]
        return safe


class _Raw(io.RawIOBase):
    """A file whose writes go through `os`, where they are recorded."""

    def __init__(self, handle: int, mode: str) -> None:
        self._handle, self._mode = handle, mode

    def readable(self) -> bool:
        return "r" in self._mode or "+" in self._mode

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._handle

    def readinto(self, buffer: Any) -> int:
        data = os.read(self._handle, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        return os.write(self._handle, bytes(data))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return os.lseek(self._handle, offset, whence)

    def truncate(self, size: int | None = None, /) -> int:
        size = os.lseek(self._handle, 0, os.SEEK_CUR) if size is None else size
        os.ftruncate(self._handle, size)
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._handle)


FLAGS = {"r": os.O_RDWR, "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND}
FLAGS["x"] = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class Recorder:
    """Logs the changes below `root`, which must be empty. `mark` adds a note, such as what is durable from then on."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.log: list[Change] = []
        self._descriptors: dict[int, tuple[int, str, bool]] = {}  # descriptor -> handle, path, whether it appends
        self._handles = 0
        self._guard = threading.RLock()
        self._patches: list[Any] = []

    def mark(self, note: Any) -> None:
        self.log.append(Change("mark", (note,)))

    def __enter__(self) -> Recorder:
        names = "open write fsync fdatasync ftruncate close replace rename unlink remove mkdir rmdir".split()
        self._real = {name: getattr(os, name) for name in names if hasattr(os, name)}
        self._real_open = io.open
        self._patches = [mock.patch.object(os, name, self._locked(getattr(self, f"do_{name}"))) for name in self._real]
        self._patches += [mock.patch.object(of, "open", self._open_file) for of in (io, builtins)]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in reversed(self._patches):
            patch.stop()

    def _locked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._guard:
                return function(*args, **kwargs)

        return call

    def _path(self, path: Any, folder: int | None = None) -> tuple[str, ...] | None:
        """Return the parts of a path below the root, or None for a path elsewhere."""
        text = os.fsdecode(path)
        if folder is not None and folder in self._descriptors:
            text = os.path.join(self._descriptors[folder][1], text)
        absolute = Path(os.path.abspath(text))
        absolute = absolute.parent.resolve() / absolute.name
        return absolute.relative_to(self.root).parts if absolute.is_relative_to(self.root) else None

    def _add(self, kind: str, *arguments: Any) -> None:
        self.log.append(Change(kind, arguments))

    def do_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        parts = self._path(path, dir_fd)
        unnamed = flags & getattr(os, "O_TMPFILE", 0) & ~getattr(os, "O_DIRECTORY", 0)
        if parts is not None and not unnamed:
            self._handles += 1
            self._descriptors[descriptor] = (self._handles, str(self.root.joinpath(*parts)), bool(flags & os.O_APPEND))
            self._add("open", self._handles, parts, bool(flags & os.O_TRUNC))
        return descriptor

    def do_write(self, descriptor: int, data: Any) -> int:
        offset = os.lseek(descriptor, 0, os.SEEK_CUR) if descriptor in self._descriptors else 0
        written: int = self._real["write"](descriptor, data)
        if descriptor in self._descriptors:
            handle, _, appends = self._descriptors[descriptor]
            self._add("write", handle, None if appends else offset, bytes(data)[:written])
        return written

    def do_fsync(self, descriptor: Any) -> None:
        self._real["fsync"](descriptor)
        if descriptor in self._descriptors:
            self._add("fsync", self._descriptors[descriptor][0])

    do_fdatasync = do_fsync

    def do_ftruncate(self, descriptor: int, size: int) -> None:
        self._real["ftruncate"](descriptor, size)
        if descriptor in self._descriptors:
            self._add("truncate", self._descriptors[descriptor][0], size)

    def do_close(self, descriptor: int) -> None:
        self._descriptors.pop(descriptor, None)
        self._real["close"](descriptor)

    def do_rename(self, source: Any, target: Any) -> None:
        self._real["rename"](source, target)
        parts = self._path(source), self._path(target)
        if parts[0] is not None:
            self._add("rename", *parts)

    do_replace = do_rename

    def do_unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("unlink", path, dir_fd)

    do_remove = do_unlink

    def do_rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("rmdir", path, dir_fd)

    def _removed(self, how: str, path: Any, folder: int | None) -> None:
        parts = self._path(path, folder)
        self._real[how](path, dir_fd=folder)
        if parts is not None:
            self._add("remove", parts)

    def do_mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        parts = self._path(path, dir_fd)
        if parts is not None:
            self._add("mkdir", parts)

    def _open_file(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        ours = file in self._descriptors if isinstance(file, int) else self._path(file) is not None
        if not ours or "opener" in kwargs or not set(mode) & set("wax+"):
            return self._real_open(file, mode, buffering, *args, **kwargs)
        [main] = set(mode) & set("rwax")
        raw = _Raw(file if isinstance(file, int) else os.open(file, FLAGS[main], 0o666), mode)
        if "b" in mode:
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return io.TextIOWrapper(io.BufferedWriter(raw), *args, **kwargs)


class Crash(NamedTuple):
    """What one crash leaves: the files by path, the notes up to the crash, and where it happened."""

    files: dict[str, bytes | None]
    notes: list[Any]
    where: str

    def restore(self, folder: Path) -> Path:
        """Replace `folder` with a folder of these files; return it."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for path, content in sorted(self.files.items()):
            if content is None:
                (folder / path).mkdir(mode=0o700)
            else:
                (folder / path).write_bytes(content)
        return folder


def crashes(log: list[Change], rules: tuple[Rule, ...] = RULES) -> Iterator[Crash]:
    """Yield what a crash before, between or after the changes of the log leaves; equal states are yielded once."""
    disk, notes, known = Disk(), list[Any](), set[bytes]()
    for place in range(len(log) + 1):
        for rule in rules:
            files = disk.left(rule)
            digest = hashlib.sha256(repr((len(notes), sorted(files.items()))).encode()).digest()
            if digest not in known:
                known.add(digest)
                before = f"{log[place].kind} {log[place].arguments}"[:200] if place < len(log) else "the end"
                yield Crash(files, list(notes), f"{rule}, change {place}, before {before}")
        if place < len(log):
            kind, arguments = log[place]
            if kind == "mark":
                notes.append(arguments[0])
            else:
                getattr(disk, kind)(*arguments)
