"""What has been uploaded: one small file per run, written by the uploader and read by every process."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pgzoo.files import DISK, Disk, write_file
from pgzoo.tracking.home import NO_STORE, Home, sqlite_path
from pgzoo.tracking.journal import Record, count_lines, records
from pgzoo.tracking.locks import is_locked

__all__ = [
    "DRAWN",
    "KIND",
    "MAX_AWAITED",
    "MAX_PLOTTED",
    "OMITTED",
    "PARENT",
    "PLOTS",
    "SWEEP",
    "WANTED",
    "Ledger",
    "Pending",
    "ShippingSummary",
    "count_runs",
    "format_shipping",
    "identity",
    "is_retried",
    "is_tracked",
    "journal_folders",
    "names_of",
    "pending",
    "pending_stores",
    "plural",
    "read_json",
    "retry_time",
    "start_of",
    "start_of_seed",
    "write_json",
]

DRAWN, OMITTED, WANTED = "drawn", "omitted", "wanted"
"""States of a run's plots, in its ledger. The last is also what `pgzoo sync --plots` writes into the retry file."""

PLOTS = "plots/"
"""The artifact folder of a run's plots."""
MAX_PLOTTED = 50
"""In a group of more runs, plots aren't drawn unless `pgzoo sync --plots` asks for them."""
MAX_AWAITED = 10
"""The end of a command with more runs doesn't wait until their plots are drawn."""

KIND = "pgzoo.kind"
"""Tag of MLflow runs that don't train a seed: comparisons, studies and trials. Selectors and lists skip them."""
PARENT = "pgzoo.parent"
"""Tag with the run key of a run's parent. The uploader makes the run a child of this run in MLflow."""
SWEEP = "pgzoo.config.sweep"
"""Tag with the settings that are a run's own in a sweep, such as `learning_rate=0.0003 gamma=0.9`."""


@dataclass
class Ledger:
    """The upload state of one run. `offset` counts bytes of the journal that the store has confirmed."""

    offset: int = 0
    files: list[str] = field(default_factory=list)
    """Artifacts that are still to be uploaded."""
    closed: str = ""
    """The run's end status, once the store knows it."""
    reported: bool = False
    """Whether the tables were written."""
    plots: str = ""
    """Whether the plots are `DRAWN`, `OMITTED` (the group is large) or `WANTED` all the same; empty until then."""
    model: str = ""
    """The id of the logged model, or why there is none; empty until that is known."""
    refused: str = ""
    """Why the store refuses this run for good, such as a deleted experiment; empty otherwise."""

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """Return the run's ledger, or a new one: uploading twice is harmless."""
        new = cls()
        types = {f.name: type(getattr(new, f.name)) for f in fields(cls)}
        kept = {k: v for k, v in read_json(folder / "ack.json").items() if k in types}
        fits = all(type(value) is types[key] for key, value in kept.items())
        if (
            not fits
            or not 0 <= kept.get("offset", 0) < 2**63
            or not all(isinstance(path, str) for path in kept.get("files", ()))
        ):
            return new
        return cls(**kept)

    def write(self, folder: Path, disk: Disk = DISK) -> None:
        """Write it to disk. Raises OSError."""
        write_json(folder / "ack.json", asdict(self), disk=disk)

    def done(self, size: int) -> bool:
        """Return whether nothing is left to do for a journal of `size` bytes."""
        settled = bool(self.closed and self.model) and self.reported and self.plots_settled
        return settled and self.offset >= size and not self.files

    def lacks_only_plots(self, size: int) -> bool:
        """Return whether nothing but plots is left to do for a journal of `size` bytes."""
        rest = [path for path in self.files if not path.startswith(PLOTS)]
        return replace(self, plots=DRAWN, files=rest).done(size)

    @property
    def plots_settled(self) -> bool:
        """Whether nothing is left to draw."""
        return self.plots in (DRAWN, OMITTED)


@dataclass(frozen=True)
class Pending:
    """What isn't uploaded yet: number of `runs` with something left, of `records`, and of `files` (including plots)."""

    runs: int = 0
    records: int = 0
    files: int = 0
    refused: int = 0
    """Runs that the store won't take; they aren't counted as pending."""
    lost: int = 0
    """Records that a full disk has cost."""
    dropped: int = 0
    """Metric values that weren't finite and were left out."""
    plots: int = 0
    """Runs of which only the plots are left, where these aren't waited for; they aren't counted as pending."""

    def __bool__(self) -> bool:
        return self.runs > 0

    def __str__(self) -> str:
        parts = [plural(self.records, "record")] if self.records else []
        parts += [plural(self.files, "file")] if self.files else []
        return f"{' and '.join(parts) or 'the final status'} of {plural(self.runs, 'run')}" if self else "nothing"


@dataclass(frozen=True)
class ShippingSummary(Pending):
    """`Pending` for a whole home, plus the last error of each unreachable store and the reason of each refusal."""

    errors: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)


def plural(count: int, noun: str) -> str:
    """Format a count as `1 run`, `2 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_shipping(left: Pending, *tracking_uris: str) -> str:
    """Return what the uploader is doing for the stores now, such as `Uploading to MLflow: 12 records of 1 run left`."""
    databases = filter(None, map(sqlite_path, tracking_uris))
    if any(not database.exists() for database in databases):
        return f"Uploading to MLflow: creating the database; {left} left"
    return f"Uploading to MLflow: {left} left" if left else "Uploading to MLflow"


def pending_of(folders: Iterable[Path], with_plots: bool = True) -> Pending:
    """Count what isn't uploaded yet of these runs; without plots, runs that lack only these count as `plots`."""
    runs = lines = files = refused = plots = 0
    for folder in folders:
        try:
            size = (folder / "journal.jsonl").stat().st_size
        except OSError:
            continue
        ledger = Ledger.read(folder)
        if not size or ledger.done(size):
            continue
        if is_empty(folder) or not is_tracked(folder):
            continue
        if ledger.refused:
            refused += 1
            continue
        if not with_plots and ledger.lacks_only_plots(size):
            plots += 1
            continue
        runs += 1
        files += len(ledger.files) + (0 if ledger.model and ledger.plots_settled and ledger.offset >= size else 1)
        lines += count_lines(folder, ledger.offset)
    return Pending(runs, lines, files, refused, plots=plots)


def pending(home: Home) -> ShippingSummary:
    """Return what hasn't been uploaded from this home, and why: the last error of each store."""
    # A run that is still training doesn't count as pending.
    known = journal_folders(home)
    folders = [folder for folder in known if not in_training(folder)]
    left = pending_of(folders)
    stores = read_json(home.status_file).get("stores")
    named = stores.items() if isinstance(stores, dict) else ()
    errors = {uri: str(store["error"]) for uri, store in named if isinstance(store, dict) and store.get("error")}
    if not left and len(folders) == len(known):
        errors = {}  # these errors concern runs that have been uploaded or deleted since
    refusals = {f.name: r for f in folders if (r := Ledger.read(f).refused)}
    return ShippingSummary(left.runs, left.records, left.files, left.refused, errors=errors, refusals=refusals)


def pending_stores(home: Home) -> set[str]:
    """Return the URIs of the stores to which runs of this home are still to be uploaded."""
    starts = [start_of(folder) for folder in journal_folders(home) if not Ledger.read(folder).closed]
    return {str(start.get("uri", "")) for start in starts if start}


def in_training(folder: Path) -> bool:
    lock = folder / "lock"
    if not is_locked(lock):
        return False
    time.sleep(0.005)  # the uploader briefly takes the lock for the same check
    return is_locked(lock)


def journal_folders(home: Home) -> list[Path]:
    """Return the folders of all runs, oldest key first."""
    try:
        return sorted(p for p in home.runs.iterdir() if (p / "journal.jsonl").is_file())
    except OSError:
        return []


def is_empty(folder: Path) -> bool:
    """Return whether a journal has no whole line: its trainer died while it wrote the first one."""
    return next(records(folder, limit=0), None) is None


def start_of(folder: Path) -> Record | None:
    """Return the start record of a run's journal, or None if it was never written."""
    return next((r for r, _ in records(folder, limit=0) if r and r["t"] == "start"), None)


def start_of_seed(folder: Path) -> Record | None:
    """Return the start record of a run that trains a seed; None for a study or a trial, or if it was never written."""
    start = start_of(folder)
    return None if start is None or KIND in start.get("tags", {}) else start


def names_of(name: str, seed: int, tags: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the names that select a run.

    For example: `ppo gamma=0.9 s3`, `ppo gamma=0.9` (all seeds), and `ppo` (all seeds and settings of the sweep).
    """
    title = name.removesuffix(f" s{seed}")
    return name, title, title.removesuffix(f" {tags.get(SWEEP, '')}".rstrip())


def count_runs(home: Home, group: str) -> int:
    """Return the number of runs of a group."""
    starts = map(start_of, journal_folders(home))
    return sum(start is not None and start.get("group") == group for start in starts)


def is_tracked(folder: Path) -> bool:
    """Return whether a run is uploaded to a store: all but those that were started with `--tracking-uri none`."""
    start = start_of(folder)
    return start is None or start.get("uri") != NO_STORE


def identity(folder: Path, start: Record, shipped: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that identify a run, from its journal's start record and, once uploaded, `run.json`."""
    named = {key: start.get(key, "") for key in ("name", "group", "algorithm", "env", "experiment")}
    run_id = shipped.get("run_id")
    return named | {
        "seed": start.get("seed", 0),
        "run_key": start.get("key", folder.name),
        "run_id": run_id if isinstance(run_id, str) else None,
        "started": start.get("ts", 0),
        "path": folder,
    }


def retry_time(home: Home) -> int:
    """Return when `pgzoo sync` last asked to retry everything, in nanoseconds; 0 if it never did."""
    try:
        return home.retry_file.stat().st_mtime_ns
    except OSError:
        return 0


def is_retried(home: Home) -> bool:
    """Return whether an uploader has read the last request of `pgzoo sync` to retry everything."""
    return bool(read_json(home.status_file).get("retried", 0) == retry_time(home))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, empty if there is none or it can't be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Mapping[str, Any], *, durable: bool = False, disk: Disk = DISK) -> None:
    """Replace a file atomically; it is readable only by its owner. With `durable` it survives a power cut.

    Raises OSError, also where the folder doesn't exist: the folder of a deleted run must not be recreated.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder is gone", str(path))
    write_file(path, json.dumps(value, indent=1).encode(), durable=durable, mode=0o600, disk=disk)
