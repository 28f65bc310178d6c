"""Takes runs that were copied from another machine into this home, from which the uploader uploads them."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pgzoo.errors import StoreError, UsageError
from pgzoo.files import remove_folder, write_file, write_folder
from pgzoo.tracking.home import Home, sqlite_path
from pgzoo.tracking.journal import RUN_KEY, Record, encode, make_private
from pgzoo.tracking.ledger import Ledger
from pgzoo.tracking.locks import is_locked, lock
from pgzoo.tracking.secrets import hide_secrets

__all__ = ["Imported", "import_runs"]

START = b'{"t":"start",'
CHECKPOINTS = "checkpoints"


@dataclass
class Imported:
    """What `import_runs` did: numbers of runs, and, by run key, the reasons for which runs were `refused`."""

    new: int = 0
    grown: int = 0
    """Runs that have more records than when they were last copied."""
    moved: int = 0
    """Runs without more records that are uploaded to another store from now on."""
    unchanged: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def import_runs(
    source: Path, home: Home, uri: str, move: bool, progress: Callable[[int], None] = lambda count: None
) -> Imported:
    """Copy the journals, artifacts and checkpoints in `source` into `home`, to be uploaded to the store `uri`.

    `source` is a home (`.pgzoo`), the folder that contains it, or a folder with one folder per run. It is only read.
    A run that this home already has is continued with the records that it lacks, and stays in its store unless `move`.
    `progress` is called with the number of runs so far.

    Raises UsageError if `source` contains no runs or is this home itself, StoreError if this home can't be written.
    """
    folders = run_folders(source, home)
    outcome = Imported()
    try:
        public = hide_secrets(uri, home)
        artifacts = home.artifacts.as_uri() if sqlite_path(uri) is not None else None
        for count, folder in enumerate(folders, 1):
            try:
                done = import_run(folder, home.runs / folder.name, public, artifacts, move)
            except UsageError as error:
                outcome.refused[folder.name] = str(error)
            else:
                setattr(outcome, done, getattr(outcome, done) + 1)
            progress(count)
    except OSError as error:
        raise StoreError(f"Can't copy runs from {source} to {home.runs}: {error}.") from error
    return outcome


def run_folders(source: Path, home: Home) -> list[Path]:
    """Return the folders of the runs in `source`, oldest key first. Raises UsageError if there are none."""
    for runs in (source / "runs", source / ".pgzoo" / "runs", source):
        try:
            found = sorted(p for p in runs.iterdir() if (p / "journal.jsonl").is_file() and RUN_KEY.fullmatch(p.name))
        except OSError:
            continue
        if found and home.runs.exists() and runs.samefile(home.runs):
            raise UsageError(
                f"{source} is this home's own folder, whose runs `pgzoo sync` uploads without an argument."
            )
        if found:
            return found
    raise UsageError(f"{source} contains no runs: give a .pgzoo folder, or a folder that contains `runs` or .pgzoo.")


def import_run(source: Path, target: Path, uri: str, artifacts: str | None, move: bool) -> str:
    """Copy one run and return "new", "grown", "moved" or "unchanged". Raises UsageError or OSError."""
    if is_locked(source / "lock"):
        raise UsageError("a process of this machine is writing it")
    theirs = (source / "journal.jsonl").read_bytes()
    theirs = theirs[: theirs.rfind(b"\n") + 1]
    starts = [start for line in theirs.splitlines() if (start := start_record(line))]
    if not starts or starts[0].get("key") != source.name:
        raise UsageError("its journal has no start record with this run key")
    make_private(target)
    mine = lock(target / "lock", timeout=1.0)
    if mine is None:
        raise UsageError("a process of this machine is writing the run with this key")
    try:
        file = target / "journal.jsonl"
        ours = file.read_bytes() if file.exists() else b""
        ours = ours[: ours.rfind(b"\n") + 1]
        kept = [start for line in ours.splitlines() if (start := start_record(line))]
        if kept and not move:
            uri, artifacts = str(kept[-1]["uri"]), kept[-1].get("artifacts")
        theirs, same_store = with_store(theirs, uri, artifacts), with_store(ours, uri, artifacts)
        if not (theirs.startswith(same_store) or same_store.startswith(theirs)):
            raise UsageError("this machine has another run with the same key")
        grown = len(theirs) > len(same_store)
        copy_artifacts(source / "artifacts", target / "artifacts", replace=grown)
        new = max(theirs, same_store, key=len)
        if new != ours:
            if same_store != ours:  # the other store has nothing of it
                (target / "ack.json").unlink(missing_ok=True)
                (target / "run.json").unlink(missing_ok=True)
            elif ours and grown:  # draw its plots and log its policy again
                ledger = Ledger.read(target)
                ledger.closed, ledger.reported, ledger.model, ledger.plots = "", False, "", ""
                ledger.write(target)
            write_file(file, new, mode=0o600)
        if new == theirs:  # also if it was copied before: that may have been interrupted here
            # After the journal: a resumed run doesn't write earlier records again.
            copy_checkpoints(source / CHECKPOINTS, target / CHECKPOINTS)
        return "unchanged" if new == ours else "new" if not ours else "grown" if grown else "moved"
    finally:
        mine.release()


def start_record(line: bytes) -> Record | None:
    """Return the start record that a line of a journal contains, None if it contains another record."""
    if not line.startswith(START):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and "uri" in record else None


def with_store(journal: bytes, uri: str, artifacts: object) -> bytes:
    """Return a journal with another tracking store in its start records.

    The result depends only on the records and the store, so a longer copy of a journal begins with the shorter one.
    """
    lines = journal.splitlines(keepends=True)
    for place, line in enumerate(lines):
        start = start_record(line)
        if start is not None:
            rest = {key: value for key, value in start.items() if key != "artifacts"}
            rest |= {"uri": uri} | ({"artifacts": artifacts} if artifacts is not None else {})
            lines[place] = encode(rest).encode() + b"\n"
    return b"".join(lines)


def copy_artifacts(source: Path, target: Path, replace: bool) -> None:
    """Copy the files that `target` lacks and, with `replace`, those that differ, but no links. Raises OSError."""
    target.mkdir(exist_ok=True)
    for file in regular_files(source):
        copy = target / file.relative_to(source)
        if copy.exists() and not (replace and not filecmp.cmp(file, copy, shallow=False)):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        scratch = copy.with_name(f".{copy.name}.tmp")
        shutil.copyfile(file, scratch)
        os.replace(scratch, copy)


def copy_checkpoints(source: Path, target: Path) -> None:
    """Make the checkpoints in `target` those in `source`, if there are any. Raises OSError."""
    theirs = sorted(path for path in source.glob("step-*") if path.is_dir() and not path.is_symlink())
    for folder in theirs:
        copy, files = target / folder.name, [file for file in regular_files(folder) if file.parent == folder]
        _, changed, missing = filecmp.cmpfiles(folder, copy, [file.name for file in files], shallow=False)
        if changed or missing:
            write_folder(copy, {file.name: file.read_bytes() for file in files})
    if theirs:
        for folder in set(target.glob("step-*")) - {target / one.name for one in theirs}:
            remove_folder(folder)


def regular_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not Path(place, name).is_symlink()]
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path
