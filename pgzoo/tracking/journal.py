"""The journal of one run: JSON lines that a trainer appends and the uploader reads.

    {"t": "start", "ts": ms, "key", "name", "group", "experiment", "uri", "seed", "algorithm", "env", "params", "tags"}
    {"t": "update", "ts": ms, "steps": [...], "m": {name: value}, "e": [steps, returns, lengths]}
    {"t": "evaluation", "ts": ms, "step", "mode", "final", "returns", "lengths", "m": {name: value}}
    {"t": "artifact", "ts": ms, "path": "config.yaml"}
    {"t": "tags", "ts": ms, "tags": {...}}
    {"t": "end", "ts": ms, "status", "reason"}

The trainer writes the timestamp, so a record that is uploaded twice is the same row twice, which MLflow drops. Where
the clock steps back, timestamps stay constant until it has caught up.
A line is written by one `write`; what a full disk refuses is kept in memory and tried again with the next line.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import posixpath
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pgzoo.errors import StoreError
from pgzoo.files import DISK, Disk, sync_folder, write_file
from pgzoo.tracking.record_format import is_record
from pgzoo.tracking.system import SYSTEM, Lock, System

__all__ = [
    "EndStatus",
    "EpisodeRecord",
    "ExistingRecords",
    "Journal",
    "Record",
    "artifact_path",
    "clean_key",
    "records",
]

Record = dict[str, Any]
EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
RUN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
BACKLOG = 16 * 2**20
LOCK_WAIT = 5.0
SMALL = 2**16
"""Artifacts up to this size, in bytes, are kept in memory, to be written again if they are removed."""
MAX_PARAM, MAX_TAG, MAX_KEY = 6000, 8000, 250


class EpisodeRecord(NamedTuple):
    """Finished episodes: the environment step at which each ended, its return and its length."""

    steps: Sequence[int]
    returns: Sequence[float]
    lengths: Sequence[int]


NO_EPISODES = EpisodeRecord((), (), ())


class ExistingRecords(NamedTuple):
    """The content of a reopened journal: the last step of each kind of record, and all episodes."""

    metrics: int
    """The last step of a curve, -1 if there is none."""
    evaluations: Mapping[str, int]
    """The last step of an evaluation, by its mode."""
    finals: Mapping[tuple[int, str], float]
    """The mean return of each final evaluation, by its step and mode; NaN where an episode had no finite return."""
    points: Mapping[str, tuple[int, float]]
    """The last point (step, value) of each metric."""
    episodes: EpisodeRecord
    last_episode: int = -1
    """The step at which the last episode ended, -1 if there is none."""
    timestamp: int = 0
    """The last timestamp, in milliseconds."""


class Journal:
    """Appends one run's records. Made by `Session.journal`; one thread writes, any thread may sync."""

    def __init__(self, folder: Path, start: Record, warn: Callable[[str], None], system: System = SYSTEM) -> None:
        """Open or reopen the journal in `folder` and write its start record.

        Raises StoreError if the folder can't be written or another process writes this run.
        """
        self.key: str = start["key"]
        self.path = folder
        self.name: str = start["name"]
        self.dirty = False
        self.dropped = 0
        """Metric values that weren't finite."""
        self.lost = 0
        """Number of records lost because the disk was full."""
        self._warn, self._system, self._disk = warn, system, system.disk
        self._backlog = bytearray()
        """Records that aren't written yet, because the disk was full."""
        self._troubled = False
        self._name_is_durable = False
        self._unflushed = list[Path]()
        """Folders of artifacts in which the disk has failed to flush a name."""
        self._failure: StoreError | None = None
        self._small_artifacts: dict[str, bytes] = {}
        self._guard = threading.RLock()
        try:
            make_private(folder, self._disk)
            self._disk.mkdir(folder / "artifacts")
            self._lock: Lock | None = system.lock(folder / "lock", LOCK_WAIT)
        except OSError as error:
            raise StoreError(f"Can't keep the journal of run {self.key} in {folder}: {error.strerror}.") from error
        if self._lock is None:
            raise StoreError(f"Run {self.key} is being written by another process; wait for it to end.")
        try:
            file = folder / "journal.jsonl"
            self.resumed = file.exists() and trim(file, self._disk) > 0
            self.tail = read_tail(folder) if self.resumed else ExistingRecords(-1, {}, {}, {}, NO_EPISODES)
            self._fd: int | None = self._disk.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            self._lock.release()
            raise StoreError(f"Can't write the journal {folder}: {error.strerror}.") from error
        self._finals = self.tail.finals
        self._last_metric, self._last_evaluation = self.tail.metrics, dict(self.tail.evaluations)
        self._timestamp = self.tail.timestamp
        self._last_episode = self.tail.last_episode
        self._put(start)

    @property
    def open(self) -> bool:
        """Whether records can still be written."""
        return self._fd is not None

    def record(
        self,
        steps: Sequence[int] = (),
        metrics: Mapping[str, float] | None = None,
        episodes: EpisodeRecord | tuple[Sequence[int], Sequence[float], Sequence[int]] | None = None,
    ) -> None:
        """Write the records of one update: `metrics`, the same at each of `steps`, and finished `episodes`.

        Values that aren't finite are left out and counted. Steps that the journal already has (after a resume,
        which repeats them exactly) are left out.
        """
        line: Record = {"t": "update", "ts": self._system.now()}
        if metrics:
            # MLflow stores infinity as the largest float, which makes charts unreadable.
            finite = {clean_key(k): float(v) for k, v in metrics.items() if math.isfinite(v)}
            self.dropped += len(metrics) - len(finite)
            fresh = [int(s) for s in steps if s > self._last_metric]
            if finite and fresh:
                line["steps"], line["m"] = fresh, finite
                self._last_metric = fresh[-1]
        if episodes and len(episodes[0]):
            rows = [r for r in zip(*episodes, strict=True) if r[0] > self._last_episode and math.isfinite(r[1])]
            if rows:
                ends, returns, lengths = zip(*rows, strict=True)
                line["e"] = [[int(s) for s in ends], [float(r) for r in returns], [int(n) for n in lengths]]
                self._last_episode = line["e"][0][-1]
        if len(line) > 2:
            self._put(line)

    def take_episodes(self) -> EpisodeRecord:
        """Return the episodes that a reopened journal had, and forget them, because there may be many."""
        episodes = self.tail.episodes
        self.tail = self.tail._replace(episodes=NO_EPISODES)
        return episodes

    def evaluation(
        self, step: int, mode: str, final: bool, returns: Sequence[float], lengths: Sequence[int], cut: int = 0
    ) -> None:
        """Write one evaluation: its episodes, and as metrics their mean (and, sampled, standard deviation and length).

        `cut` is the number of episodes that were cut by the limit of steps; a metric if there are any.
        """
        if (int(step), mode) in self._finals or (not final and int(step) <= self._last_evaluation.get(mode, -1)):
            return
        returns, lengths = [float(r) for r in returns], [int(n) for n in lengths]
        metrics = {}
        if all(map(math.isfinite, returns)) and returns:
            mean = math.fsum(returns) / len(returns)
            if mode == "sampled":
                spread = math.sqrt(math.fsum((r - mean) ** 2 for r in returns) / len(returns))
                metrics = {"eval/return_mean": mean, "eval/return_std": spread}
                metrics["eval/length_mean"] = sum(lengths) / len(lengths)
            else:
                metrics = {f"eval/{clean_key(mode)}_return_mean": mean}
        else:
            self.dropped += 1
        if cut:
            prefix = "eval/" if mode == "sampled" else f"eval/{clean_key(mode)}_"
            metrics[f"{prefix}cut_episodes"] = float(cut)
        self._last_evaluation[mode] = int(step)
        kept = [r if math.isfinite(r) else None for r in returns]
        line: Record = {
            "t": "evaluation",
            "ts": self._system.now(),
            "step": int(step),
            "mode": mode,
            "final": bool(final),
        }
        self._put({**line, "returns": kept, "lengths": lengths, "m": metrics})

    def summary(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics of the whole run at its last step; call it after the last `record`.

        A value that the journal already has at this step, as when a finished run is resumed, isn't written again.
        """
        finite = {clean_key(k): float(v) for k, v in metrics.items() if math.isfinite(v)}
        finite = {k: v for k, v in finite.items() if self.tail.points.get(k) != (int(step), v)}
        if finite:
            self._put({"t": "update", "ts": self._system.now(), "steps": [int(step)], "m": finite})

    def artifact(self, path: str, data: bytes | Path) -> Path:
        """Keep bytes, or a copy of a file, as the run's artifact `path` (`a/b.txt`), durably and at once.

        Raises ValueError for a path that would leave the artifact folder. If the disk is full, it logs a warning and
        doesn't raise.
        """
        target = artifact_path(self.path, path)
        try:
            content = data if isinstance(data, bytes) else data.read_bytes()
            if not write_file(target, content, disk=self._disk):
                with self._guard:
                    self._unflushed += [one for one in target.parents if one.is_relative_to(self.path)]
                    self.dirty = True
        except OSError as error:
            self._warn_of_error(f"artifact {path} couldn't be kept", error)
        else:
            if len(content) <= SMALL:
                self._small_artifacts[path] = content
            self._put({"t": "artifact", "ts": self._system.now(), "path": str(PurePosixPath(path))})
        return target

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._put({"t": "tags", "ts": self._system.now(), "tags": clean_items(tags, MAX_TAG)})

    def end(self, status: EndStatus, reason: str = "") -> None:
        """Write the last record and release the lock of the run. A second call does nothing."""
        if not self.open:
            return
        self.sync()
        if self.dropped:
            self.tags({"pgzoo.dropped_values": str(self.dropped)})
        self._put({"t": "end", "ts": self._system.now(), "status": status, "reason": reason})
        self.release()

    def release(self) -> None:
        """Let go of the run without an end: the uploader will close it as KILLED."""
        self.sync()
        with self._guard:
            if self._fd is not None:
                if self._backlog:
                    self.lost += self._backlog.count(b"\n")
                self._disk.close(self._fd)
                self._fd = None
        if self._lock is not None:
            self._lock.release()

    def sync(self) -> bool:
        """Flush all records to the disk (fsync), and return whether they survive a power cut now.

        The session's thread calls it every second, so that training doesn't wait. Training itself calls it before a
        checkpoint, because a resumed run continues there and doesn't write earlier records again. Records that a full
        disk has refused are tried again.
        A journal that was removed is written again. Where that fails, the next record raises StoreError.
        """
        with self._guard:
            if self._fd is None:
                return not self.lost
            if self._failure is None and self._was_removed():
                self._write_again()
            if self._backlog:
                self._flush()
            if not self.dirty:
                return not self._backlog
            self.dirty = False
            try:
                self._disk.sync(self._fd)
            except OSError as error:
                self.dirty = True
                self._warn_of_error("the journal couldn't be synced", error)
            if not self._name_is_durable:
                self._name_is_durable = sync_names(self.path, self._disk)
                self.dirty = self.dirty or not self._name_is_durable
            self._unflushed = [folder for folder in self._unflushed if not sync_folder(folder, self._disk)]
            self.dirty = self.dirty or bool(self._unflushed)
            return not (self.dirty or self._backlog)

    def _was_removed(self) -> bool:
        """Return whether the open file is no longer the file in the run's folder."""
        assert self._fd is not None
        try:
            here, there = os.fstat(self._fd), (self.path / "journal.jsonl").stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return (here.st_ino, here.st_dev) != (there.st_ino, there.st_dev)

    def _write_again(self) -> None:
        """Copy the removed journal, which is still readable because it is open, back into its folder."""
        assert self._fd is not None
        try:
            make_private(self.path, self._disk)
            taken = self._system.lock(self.path / "lock", 0.0)
            if taken is None:
                raise OSError(errno.EBUSY, "another process writes it")
            scratch = self.path / ".journal.tmp"
            fd = self._disk.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            copy_descriptor(self._fd, fd, self._disk)
            self._disk.sync(fd)
            self._disk.replace(scratch, self.path / "journal.jsonl")
            self._name_is_durable = False
            for path, content in self._small_artifacts.items():
                write_file(artifact_path(self.path, path), content, disk=self._disk)
        except OSError as error:
            self._failure = StoreError(
                f"The journal of run {self.key} was removed from {self.path.parent} while the run was in training, and "
                f"it can't be written again: {error.strerror}. Further records of this run would be lost."
            )
            self._warn(str(self._failure))
            return
        self._disk.close(self._fd)
        if self._lock is not None:
            self._lock.release()
        self._fd, self._lock, self.dirty = fd, taken, True
        self._warn(
            f"{self.path.parent} was changed by another program while runs were in training: their journals had been "
            "removed and were written again. Earlier checkpoints, and files over 64 KiB, are lost."
        )

    def _put(self, record: Record) -> None:
        with self._guard:
            self._append(record)

    def _append(self, record: Record) -> None:
        if self._failure is not None:
            raise self._failure
        self._timestamp = record["ts"] = max(self._timestamp, record.get("ts", 0))
        line = encode(record).encode() + b"\n"
        if self._fd is None:
            raise RuntimeError(f"the journal of run {self.key} is closed")
        self._backlog += line
        self._flush()

    def _flush(self) -> None:
        """Write the records in memory, as far as the disk takes them; drop some if they are too many."""
        assert self._fd is not None
        try:
            written = self._disk.write(self._fd, bytes(self._backlog))
        except OSError as error:
            written = 0
            self._warn_of_error("the journal can't be written at the moment", error)
        self.dirty = True
        del self._backlog[:written]
        while len(self._backlog) > BACKLOG:
            second = self._backlog.find(b"\n") + 1  # keep the first line, which may be partially written
            third = self._backlog.find(b"\n", second) + 1
            if not third:
                return
            del self._backlog[second:third]
            self.lost += 1

    def _warn_of_error(self, what: str, error: OSError) -> None:
        if not self._troubled:
            self._troubled = True
            self._warn(f"{what} ({self.path}): {error.strerror}. Training continues.")


@lru_cache(maxsize=4096)
def clean_key(name: str) -> str:
    """Return the nearest name that every MLflow server takes as a metric, param or tag."""
    name = re.sub(r"[^\w\-. /]", "_", name)
    return posixpath.normpath("/" + name).strip("/. ")[:MAX_KEY].strip("/. ") or "_"


def clean_items(items: Mapping[str, str], limit: int) -> dict[str, str]:
    # An unpaired surrogate (an undecodable byte of a command line) can't be sent as UTF-8.
    return {clean_key(k): str(v).encode(errors="replace").decode()[:limit] for k, v in items.items()}


def make_private(folder: Path, disk: Disk = DISK) -> None:
    """Make a folder, and those above it that are missing, for their owner alone. Raises OSError."""
    if not folder.parent.exists():
        make_private(folder.parent, disk)
    disk.mkdir(folder, 0o700)


def copy_descriptor(source: int, target: int, disk: Disk) -> None:
    """Copy a whole open file to another, from its beginning. Raises OSError."""
    offset = 0
    while block := os.pread(source, 2**20, offset):
        offset += len(block)
        while block:
            block = block[disk.write(target, block) :]


def sync_names(folder: Path, disk: Disk) -> bool:
    """Flush the name of a run's journal, and those of new folders above it; return False if the disk failed."""
    return all(sync_folder(one, disk) for one in (folder, *folder.parents[:3]))


def sync_journal(folder: Path, disk: Disk = DISK, names: bool = False) -> None:
    """Flush a run's journal to disk, with `names` also its name, whichever process wrote it. Raises OSError.

    Does nothing if there is none.
    """
    if names and not sync_names(folder, disk):
        raise OSError(errno.EIO, "the folder can't be flushed to disk", str(folder))
    with contextlib.suppress(FileNotFoundError):
        handle = disk.open(folder / "journal.jsonl", os.O_RDONLY)
        try:
            disk.sync(handle)
        finally:
            disk.close(handle)


def check_run_key(key: str) -> str:
    """Return the key if it can be the name of a folder. Raises ValueError otherwise."""
    if not RUN_KEY.fullmatch(key):
        raise ValueError(f"{key!r} can't be a run key: use letters, digits, dots, dashes and underscores")
    return key


def artifact_path(folder: Path, path: str) -> Path:
    """Return the path of a run's artifact. Raises ValueError if that isn't inside its artifact folder."""
    pure, top = PurePosixPath(path), (folder / "artifacts").resolve()
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path or ":" in path:
        raise ValueError(f"{path!r} isn't an artifact path: it must be relative and stay below the run's folder")
    target = (top / pure).resolve()
    if not target.is_relative_to(top) or target == top:
        raise ValueError(f"{path!r} isn't an artifact path: it leads out of the run's folder")
    return target


def records(folder: Path, offset: int = 0, limit: int | None = None) -> Iterator[tuple[Record | None, int]]:
    """Yield (record, offset of the next record), starting at a byte offset, up to about `limit` bytes.

    A whole line that isn't a well-formed record yields None; a last line without its end isn't yielded.
    """
    try:
        file = (folder / "journal.jsonl").open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        file.seek(offset)
        begin = offset
        for line in file:
            if not line.endswith(b"\n") or (limit is not None and offset - begin > limit):
                return
            offset += len(line)
            yield parse(line), offset


def records_of(folder: Path, *kinds: str) -> Iterator[Record]:
    """Yield the records of these kinds; the content of others isn't read."""
    wanted = tuple(f'{{"t":"{kind}"'.encode() for kind in kinds)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), (folder / "journal.jsonl").open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and (line.startswith(wanted) or not line.startswith(b'{"t":"')):
                record = parse(line)
                if record is not None and record["t"] in kinds:
                    yield record


def parse(line: bytes) -> Record | None:
    """Return the record in a line, None if it isn't well-formed."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if is_record(record) else None


def count_lines(folder: Path, offset: int) -> int:
    """Return how many (record, offset) pairs `records` yields from this offset, without reading what they contain."""
    try:
        file = (folder / "journal.jsonl").open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return 0
    with file:
        file.seek(offset)
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


def trim(file: Path, disk: Disk = DISK) -> int:
    """Remove an incomplete last line. The caller must hold the journal's lock. Returns the new size."""
    handle = disk.open(file, os.O_RDWR)
    try:
        size = end = os.fstat(handle).st_size
        while end:
            begin = max(0, end - 65536)
            newline = os.pread(handle, end - begin, begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            disk.truncate(handle, end)
        return end
    finally:
        disk.close(handle)


def read_tail(folder: Path) -> ExistingRecords:
    """Read what a journal that is resumed already has."""
    metrics, timestamp, evaluations = -1, 0, dict[str, int]()
    finals, points = dict[tuple[int, str], float](), dict[str, tuple[int, float]]()
    episodes = EpisodeRecord([], [], [])
    for record, _ in records(folder):
        if record is None:
            continue
        timestamp = max(timestamp, record.get("ts", 0))
        if record["t"] == "update":
            steps = record.get("steps", ())
            metrics = max([metrics, *steps])
            points |= {name: (steps[-1], value) for name, value in record.get("m", {}).items() if steps}
            for column, values in zip(episodes, record.get("e", ()), strict=False):
                column.extend(values)  # type: ignore[attr-defined]
        elif record["t"] == "evaluation":
            evaluations[record["mode"]] = max(evaluations.get(record["mode"], -1), record["step"])
            if record["final"]:
                name = "eval/return_mean" if record["mode"] == "sampled" else f"eval/{record['mode']}_return_mean"
                finals[record["step"], record["mode"]] = record.get("m", {}).get(name, math.nan)
    last_episode = episodes.steps[-1] if episodes.steps else -1
    return ExistingRecords(metrics, evaluations, finals, points, episodes, last_episode, timestamp)
