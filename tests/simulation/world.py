"""A machine that is simulated from one seed: its clock, its processes, its disk and its locks.

Processes are threads, of which only one runs at a time: each effect (`World.touch`) may end the process, or let another
one run. Reads go to real files in a temporary folder, so that the code under test needs no other interface than
`pgzoo.tracking.system.System`.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filesystem import Disk as Model
from filesystem import Rule

from pgzoo.tracking.system import System

Parts = tuple[str, ...]
LARGE = 1500
"""Size in bytes above which a file counts as large: a journal does after a few updates, no other file does."""


class Killed(BaseException):
    """Ends the thread of a simulated process that was killed, at its next effect and at all later ones."""


class Process:
    """A simulated process."""

    def __init__(self, world: World, name: str, main: Callable[[], None]) -> None:
        self.name, self.wake, self.killed, self.ended = name, world.now, False, False
        self.error: BaseException | None = None
        self.go = threading.Semaphore(0)
        self._world, self._main = world, main
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs, like `pgzoo.tracking.system.Process`."""
        return (9 if self.killed else 0) if self.ended else None

    def _run(self) -> None:
        self.go.acquire()
        try:
            if not self.killed:
                self._main()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self._world.forget(self)
        self._world.back.release()


class Lock:
    """A file lock that a simulated process holds."""

    def __init__(self, world: World, owner: Process | None, handle: int) -> None:
        self.world, self.owner, self.handle = world, owner, handle

    def release(self) -> None:
        """Release the lock. Does nothing for a process that was killed, as its locks are free already."""
        if self.world.locks.pop(os.fstat(self.handle).st_ino if self.handle >= 0 else -1, None):
            os.close(self.handle)
        self.handle = -1


class World:
    """The machine. `calm` ends all faults. `faults` counts them by name; `hours` is the simulated time."""

    def __init__(self, seed: int, root: Path) -> None:
        self.seed, self.root, self.random = seed, root.resolve(), random.Random(seed)
        self.now, self.clock_offset, self.calm = 0.0, 1.7e9, False
        self.faults: Counter[str] = Counter()
        self.trace: list[str] | None = None
        """A line for each event; None if they aren't recorded."""
        self.death = self.random.choice([0.0, 3e-4, 2e-3, 5e-3])
        """Probability that a process is killed at an effect."""
        self.current: Process | None = None
        self.processes: list[Process] = []
        self.back = threading.Semaphore(0)
        self.locks: dict[int, Lock] = {}
        self.disk = SimulatedDisk(self)
        self.programs: Callable[[Sequence[str]], tuple[str, Callable[[], None]]] | None = None
        """Returns the name and the main function of the process that a command starts."""
        self.system = System(
            self.disk,
            lambda: self.now + self.clock_offset,
            lambda: self.now,
            self.sleep,
            self.lock,
            self.is_locked,
            self._start_process,
        )

    def note(self, text: str) -> None:
        """Add a line to the trace if there is one."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.3f} {self.current.name if self.current else 'world'}: {text}")

    def fault(self, name: str) -> None:
        """Count a fault."""
        self.faults[name] += 1
        self.note(f"fault: {name}")

    def chance(self, probability: float) -> bool:
        """Return whether a fault with this probability happens now."""
        return not self.calm and self.random.random() < probability

    def touch(self, what: str = "") -> None:
        """Begin an effect of the current process, which may be killed here, or wait while another process runs."""
        process = self.current
        if process is None:
            return
        if process.killed:
            raise Killed
        self.now += 1e-4
        if self.chance(self.death):
            self.fault("process killed")
            self.note(f"killed at {what}")
            self.kill(process)
            raise Killed
        if self.random.random() < 0.02:
            self.sleep(0.0)

    def sleep(self, seconds: float) -> None:
        """Let other processes run for this many seconds."""
        process = self.current
        if process is None:
            self.now += seconds
            return
        if process.killed:
            raise Killed
        process.wake = self.now + seconds
        self.back.release()
        process.go.acquire()
        if process.killed:
            raise Killed

    def start(self, name: str, main: Callable[[], None]) -> Process:
        """Start a process."""
        self.note(f"start {name}")
        process = Process(self, name, main)
        self.processes.append(process)
        return process

    def _start_process(self, command: Sequence[str], folder: Path, env: Mapping[str, str], log: IO[bytes]) -> Process:
        self.touch("start a process")
        assert self.programs is not None
        return self.start(*self.programs(command))

    def run(self, until: float) -> None:
        """Run the processes until this time."""
        while True:
            ready = min((p for p in self.processes if not p.ended), key=lambda p: p.wake, default=None)
            if ready is None or ready.wake > until:
                self.now = max(self.now, until)
                return
            self.now = max(self.now, ready.wake)
            self._resume(ready)

    def _resume(self, process: Process) -> None:
        self.current = process
        process.go.release()
        self.back.acquire()
        self.current = None
        if process.ended:
            self.processes.remove(process)
            if process.error is not None:
                raise process.error

    def kill(self, process: Process) -> None:
        """Kill a process: its locks are free and its files closed at once; its thread ends at its next effect."""
        process.killed = True
        self.forget(process)

    def forget(self, process: Process) -> None:
        """Free the locks and close the files of a process that has ended."""
        for ino, lock in list(self.locks.items()):
            if lock.owner is process:
                os.close(self.locks.pop(ino).handle)
                lock.handle = -1
        self.disk.close_all(process)

    def end_all(self) -> None:
        """Kill all processes."""
        for process in list(self.processes):
            self.kill(process)
            self._resume(process)

    def power_cut(self) -> None:
        """Kill all processes, and reduce the files to what a crash of the machine may leave."""
        rule: Rule = self.random.choice(("strict", "names", "torn", "contents"))
        self.fault("power cut")
        self.end_all()
        self.disk.crash(rule)

    def lock(self, path: Path, timeout: float = 0.0) -> Lock | None:
        """Like `pgzoo.tracking.locks.lock`."""
        self.touch("lock")
        deadline = self.now + timeout
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            ino = os.fstat(handle).st_ino
            if ino not in self.locks:
                self.locks[ino] = Lock(self, self.current, handle)
                return self.locks[ino]
            os.close(handle)
            if self.now >= deadline:
                return None
            self.sleep(0.1)

    def is_locked(self, path: Path) -> bool:
        """Like `pgzoo.tracking.locks.is_locked`."""
        try:
            return path.stat().st_ino in self.locks
        except OSError:
            return False


class SimulatedDisk:
    """Real files below the root of a world; writes may fail, and a power cut may undo them."""

    def __init__(self, world: World) -> None:
        self._world, self._model = world, Model()
        self._open: dict[int, tuple[Process | None, bool]] = {}
        self.full = self.lies = self.small_files_only = False
        """Whether the disk is full at the moment, doesn't flush what it claims to, or lets no large file grow."""
        self.lied = False
        """Whether a power cut has removed something that the disk claimed to have flushed."""
        self._unflushed: set[int] = set()

    def _parts(self, path: Path) -> Parts:
        return path.relative_to(self._world.root).parts

    def _check_space(self) -> None:
        if self.full or self._world.chance(4e-3):
            self._world.fault("no space")
            raise OSError(errno.ENOSPC, "No space left on device")

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Like os.open."""
        self._world.touch("open")
        if flags & os.O_CREAT and not path.exists():
            self._check_space()
        handle = os.open(path, flags, mode)
        self._open[handle] = self._world.current, bool(flags & os.O_APPEND)
        self._model.open(handle, self._parts(path), bool(flags & os.O_TRUNC))
        return handle

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Like os.write, which may write only a part; the process may be killed in the middle."""
        world, data = self._world, bytes(data)
        world.touch("write")
        self._check_space()
        if self.small_files_only and os.fstat(descriptor).st_size > LARGE:
            world.fault("file too large")
            raise OSError(errno.EFBIG, "File too large")
        if world.chance(5e-3):
            world.fault("short write")
            data = data[: world.random.randrange(len(data)) + 1]
        torn = world.current is not None and world.chance(world.death)
        if torn:
            world.fault("torn write")
            data = data[: world.random.randrange(len(data) + 1)]
        offset = None if self._open[descriptor][1] else os.lseek(descriptor, 0, os.SEEK_CUR)
        written = os.write(descriptor, data)
        self._model.write(descriptor, offset, data[:written])
        if torn and world.current is not None:
            world.kill(world.current)
            raise Killed
        return written

    def sync(self, descriptor: int) -> None:
        """Like os.fsync."""
        self._world.touch("sync")
        if self._world.chance(2e-3):
            self._world.fault("sync failed")
            raise OSError(errno.EIO, "Input/output error")
        if self.lies:
            self._world.fault("sync that flushes nothing")
            self._unflushed.add(self._model.handles[descriptor])
        else:
            self._model.fsync(descriptor)
            self._unflushed.discard(self._model.handles[descriptor])

    def truncate(self, descriptor: int, size: int) -> None:
        """Like os.ftruncate."""
        self._world.touch("truncate")
        os.ftruncate(descriptor, size)
        self._model.truncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        """Like os.close."""
        if self._world.current is not None and self._world.current.killed:
            raise Killed
        self._open.pop(descriptor)
        os.close(descriptor)

    def close_all(self, process: Process) -> None:
        """Close the files of a process."""
        for descriptor, (owner, _) in list(self._open.items()):
            if owner is process:
                del self._open[descriptor]
                os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Like os.replace."""
        self._world.touch("replace")
        os.replace(source, target)
        self._model.rename(self._parts(source), self._parts(target))

    def unlink(self, path: Path) -> None:
        """Like os.unlink."""
        self._world.touch("unlink")
        path.unlink()
        self._model.remove(self._parts(path))

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        """Like Path.mkdir with exist_ok."""
        self._world.touch("mkdir")
        if not path.exists():
            self._check_space()
            path.mkdir(mode)
            self._model.mkdir(self._parts(path))

    def crash(self, rule: Rule) -> None:
        """Reduce the files to what a crash of the machine may leave."""
        left = self._model.left(rule)
        self.lied = self.lied or bool(self._unflushed)
        shutil.rmtree(self._world.root)
        self._world.root.mkdir()
        self._model, self._unflushed = Model(), set()
        for count, (name, content) in enumerate(sorted(left.items()), 1):
            path, handle = self._world.root / name, -count
            if content is None:
                path.mkdir(mode=0o700)
                self._model.mkdir(self._parts(path))
            else:
                path.write_bytes(content)
            self._model.open(handle, self._parts(path), False)
            if content:
                self._model.write(handle, 0, content)
            self._flush(handle)
        self._model.open(0, (), False)
        for handle in list(self._model.handles):
            self._flush(handle)

    def _flush(self, handle: int) -> None:
        self._model.fsync(handle)


@contextmanager
def simulated(seed: int, root: Path) -> Iterator[World]:
    """Make a world in an empty folder, and end its processes on exit."""
    root.mkdir(parents=True, exist_ok=True)
    world = World(seed, root)
    try:
        yield world
    finally:
        world.end_all()
