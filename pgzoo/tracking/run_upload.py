"""The upload of one run's journal, files, plots and model to its tracking store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.files import Disk, identity_of
from pgzoo.tracking.diagnoses import diagnose
from pgzoo.tracking.home import Home, display_uri, redact
from pgzoo.tracking.journal import Record, artifact_path, records, records_of, sync_journal, trim
from pgzoo.tracking.ledger import DRAWN, OMITTED, PARENT, WANTED, Ledger, is_tracked, read_json, write_json
from pgzoo.tracking.report import LEARNING_CURVE, describe_run, read_history, write_plots, write_tables
from pgzoo.tracking.secrets import reveal_secrets
from pgzoo.tracking.system import SYSTEM, System

if TYPE_CHECKING:
    from pgzoo.tracking.store import Store

__all__ = ["RunUpload", "metric_rows"]

MAX_SECONDS_PER_RUN = 2.0
READ = 2**18
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""Errors of a disk that may pass."""
DESCRIPTION = "mlflow.note.content"
log = logging.getLogger("pgzoo.uploader")


@dataclass
class Batch:
    """Consecutive records of a journal that are uploaded together."""

    offset: int
    """Where the next record begins, in bytes."""
    start: Record | None = None
    rows: list[tuple[str, float, int, int]] = field(default_factory=list)
    """Metrics, as (name, value, timestamp, step)."""
    tags: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    end: Record | None = None
    last: int = 0
    """The latest timestamp."""

    def add(self, record: Record) -> None:
        """Add a record. Raises AttributeError, KeyError, TypeError or ValueError if it is malformed."""
        kind, ts = record["t"], record["ts"]
        self.last = max(self.last, ts)
        if kind == "start":
            self.start = {**record, "uri": str(record["uri"])}
        elif kind in ("update", "evaluation"):
            self.rows += metric_rows(record)
        elif kind == "tags":
            self.tags |= record["tags"].items()
        elif kind == "artifact":
            self.files.append(record["path"])
        elif kind == "end":
            if record["reason"]:
                self.tags["pgzoo.end_reason"] = record["reason"][:8000]
            self.end = {"status": record["status"], "ts": ts}
        else:
            raise ValueError(f"unknown kind of record {kind!r}")


class RunUpload:
    """The upload of one run. All state that must survive a restart is in the run's ledger on disk."""

    def __init__(self, folder: Path, home: Home, system: System = SYSTEM) -> None:
        from pgzoo.tracking.store import Backoff

        self.folder, self._system = folder, system
        self._journal = identity_of(folder / "journal.jsonl")
        self.ledger = Ledger.read(folder)
        starts = list(records_of(folder, "start"))
        self.home = home
        self._set_store(starts[-1].get("uri", "") if starts else "")
        self.group = str(starts[-1].get("group", "")) if starts else ""
        self.parent = str(starts[-1].get("tags", {}).get(PARENT, "")) if starts else ""
        self.created = False
        """Whether this process created the run in the store and has not yet tried to log its model."""
        known = read_json(folder / "run.json")
        # A run that was resumed with another store is uploaded there from the beginning.
        same = display_uri(str(known.get("tracking_uri", ""))) == self.uri
        self.run_id = str(known.get("run_id", "")) if same else ""
        # A disk that didn't flush what it should have leaves a journal that is shorter than what was uploaded.
        if (known and not self.run_id) or self.ledger.offset > self.size:
            self.ledger = Ledger()
        self.last = self._vain_attempts = 0
        self.backoff = Backoff(system.monotonic)
        self.successes_elsewhere = 0
        """The store's count of successful attempts at this run's first consecutive failure."""
        self.alive = True
        self._rejected: list[Record] = []
        self._too_large: set[str] = set()
        """Artifacts that were too large for the server."""

    def _set_store(self, uri: str) -> None:
        """Set the public URI and the real URI (with password) from a start record."""
        self.uri, self.address = display_uri(uri), reveal_secrets(uri, self.home)

    @property
    def size(self) -> int:
        """The size of the journal, in bytes."""
        return (self.folder / "journal.jsonl").stat().st_size

    @property
    def replaced(self) -> bool:
        """Whether the journal was replaced since this object was made, as when `pgzoo sync FOLDER` moves a run."""
        return identity_of(self.folder / "journal.jsonl") != self._journal

    @property
    def nothing_to_do(self) -> bool:
        """Whether the trainer has ended, and everything is uploaded or the run is refused."""
        return not self.alive and (bool(self.ledger.refused) or self.ledger.done(self.size))

    def save(self) -> None:
        """Write the rejected records to `rejected.jsonl`, then the ledger; nothing if the journal was replaced."""
        if identity_of(self.folder / "journal.jsonl") not in (self._journal, None):
            return
        if self._rejected:
            append(self.folder / "rejected.jsonl", self._rejected, self._system.disk)
            self._rejected.clear()
        self.ledger.write(self.folder, self._system.disk)

    def refuse_run(self, reason: str) -> None:
        """Give the run up: the store refuses it for good. The next uploader does so again if this can't be written."""
        log.error("%s: %s", self.folder.name, reason)
        self.ledger.refused = redact(reason)
        with contextlib.suppress(OSError):  # no space, or the user deleted the run
            self.save()

    def forget_run(self) -> None:
        """Forget what was uploaded, because the store has lost the run; the next attempt starts from its beginning."""
        self.run_id, self.ledger = "", Ledger()
        with contextlib.suppress(OSError):
            (self.folder / "run.json").unlink(missing_ok=True)

    def reject_record(self, item: Any, reason: str) -> None:
        """Set aside one record that the store refuses; `save` writes it to `rejected.jsonl`."""
        log.warning("%s: rejected %s: %s", self.folder.name, str(item)[:200], reason)
        self._rejected.append({"ts": self._system.now(), "reason": redact(reason), "record": item})

    def upload_records(self, store: Store) -> bool:
        """Upload new records of the journal, for a few seconds at most; return whether anything was uploaded."""
        # Check the lock before reading, so that the last records of a dying trainer aren't missed.
        self.alive = self._system.is_locked(self.folder / "lock")
        if not self.run_id and self._parent_comes_first():
            return False
        begin, before = self._system.monotonic(), self.ledger.offset
        while self._system.monotonic() - begin < MAX_SECONDS_PER_RUN:
            self._rejected.clear()  # discard rejections of the failed attempt; this attempt finds them again
            batch = self._read_batch()
            if batch.offset == self.ledger.offset:
                break
            if batch.start is not None and not self._accept_store(batch.start):
                return True
            if batch.end is not None and store.must_wait(self.folder.name):
                break
            # Otherwise a power cut could take records from the journal that are uploaded. The resumed run writes them
            # again: with other timestamps, which MLflow takes for other points, and before the offset in the ledger.
            sync_journal(self.folder, self._system.disk, names=batch.start is not None)
            if self._upload_batch(store, batch):
                self.ledger.offset = batch.offset
            self.save()
        else:
            return True
        if not self.alive and self._remove_incomplete_line() and not self.ledger.closed:
            self._close_dead(store)
        return self.ledger.offset > before

    def _parent_comes_first(self) -> bool:
        """Return whether this home has the run's parent, and hasn't created it in the store yet."""
        folder = self.folder.parent / (self.parent or self.folder.name)
        if not self.parent or not (folder / "journal.jsonl").exists():
            return False
        return not (folder / "run.json").exists() and not Ledger.read(folder).refused and is_tracked(folder)

    def _read_batch(self) -> Batch:
        """Read the records that can be uploaded together: up to the next start or end, or 1000 points of curves."""
        batch = Batch(self.ledger.offset)
        for record, behind in records(self.folder, batch.offset, READ):
            if record is not None and record["t"] == "start" and batch.offset > self.ledger.offset:
                break  # it may change the store
            try:
                if record is None:
                    self.reject_record(None, "a line that isn't a record")
                else:
                    batch.add(record)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                self.reject_record(record, f"not a record: {error!r}")
            batch.offset = behind
            if batch.end is not None or len(batch.rows) >= 1000:
                break
        return batch

    def _upload_batch(self, store: Store, batch: Batch) -> bool:
        """Upload a batch; return False if the store has nothing of the run, so that it begins again."""
        params: Mapping[str, str] = {}
        tags: Mapping[str, str] = {}
        ledger = self.ledger
        if batch.start is not None:
            try:
                params, tags = self._open(store, batch.start)
            except (KeyError, TypeError, AttributeError) as error:
                self.reject_record(batch.start, f"not a record: {error!r}")
            self.ledger.closed, self.ledger.reported, self.ledger.model, self.ledger.plots = "", False, "", ""
        elif not self.run_id:
            params, tags = self._open(store, next(records_of(self.folder, "start")))
        if self.ledger is not ledger:
            return False
        if self.parent and (batch.start is not None or batch.end is not None):
            # again at the end, because a parent that another machine uploads may not have been there at the start
            experiment = str(read_json(self.folder / "run.json").get("experiment_id"))
            if parent := store.parent(self.parent, experiment):
                tags = {**tags, "mlflow.parentRunId": parent}
        store.failures = self._vain_attempts
        self._vain_attempts += 1
        store.log(self.run_id, batch.rows, params, {**tags, **batch.tags}, self.reject_record)
        self._vain_attempts = 0
        self.ledger.files += [path for path in batch.files if path not in self.ledger.files]
        self.last = max(self.last, batch.last)
        if batch.end is not None:
            self._delete_duplicates(store)
            store.close_run(self.run_id, batch.end["status"], batch.end["ts"])
            self.ledger.closed = batch.end["status"]
        return True

    def _accept_store(self, start: Record) -> bool:
        """Return whether the run stays in its store; False if `start` moves it to another, from the beginning."""
        if display_uri(start["uri"]) == self.uri:
            return True
        # Either an earlier store, which the last start record has replaced, or a new one.
        later = [r["uri"] for r in records_of(self.folder, "start")]
        if display_uri(later[-1]) == self.uri:
            return True
        self._set_store(later[-1])
        self.run_id, self.ledger = "", Ledger()
        return False

    def _run(self, store: Store) -> str:
        """Return the run id; where run.json was lost, look the run up by its key."""
        if not self.run_id:
            start = next(records_of(self.folder, "start"))
            params, tags = self._open(store, start)
            store.log(self.run_id, [], params, tags, self.reject_record)
        return self.run_id

    def _open(self, store: Store, start: Record) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Find or create the run; return the params and tags that the store doesn't have yet.

        If the store has lost what it had confirmed, the ledger is a new one: the run is uploaded from its beginning.
        """
        run = store.open_run(start, self.reject_record)
        if self.ledger.offset and (run.created or self.run_id not in ("", run.run_id)):
            self.ledger = Ledger()
        self.run_id, self.created = run.run_id, run.created
        identity = {"run_id": run.run_id, "experiment_id": run.experiment, "tracking_uri": store.uri}
        write_json(self.folder / "run.json", identity, disk=self._system.disk)
        return run.params, run.tags

    def _close(self, store: Store, status: str, ended: int, reason: str) -> None:
        store.log(self._run(store), [], {}, {"pgzoo.end_reason": reason[:8000]}, self.reject_record)
        self._delete_duplicates(store)
        store.close_run(self._run(store), status, ended)
        self.ledger.closed = status

    def _delete_duplicates(self, store: Store) -> None:
        experiment = str(read_json(self.folder / "run.json").get("experiment_id"))
        store.delete_duplicates(self.run_id, experiment, self.folder.name)

    def _remove_incomplete_line(self) -> bool:
        """Remove the last line of a trainer that died while it wrote it; return whether the rest is uploaded."""
        if self.ledger.offset < self.size:
            mine = self._system.lock(self.folder / "lock", 0.0)
            if mine is None:  # resumed meanwhile
                return False
            try:
                trim(self.folder / "journal.jsonl", self._system.disk)
            finally:
                mine.release()
        return self.ledger.offset >= self.size

    def _close_dead(self, store: Store) -> None:
        """Close a run whose trainer died, with status KILLED, once all of its records are uploaded."""
        if self._system.is_locked(self.folder / "lock") or store.must_wait(self.folder.name):
            return
        last = self.last or max((r.get("ts", 0) for r, _ in records(self.folder) if r), default=self._system.now())
        self._close(store, "KILLED", last, "the training process died")
        self.save()

    @property
    def is_complete(self) -> bool:
        """Whether the store has all records of the run, its end included."""
        return bool(self.ledger.closed) and self.ledger.offset >= self.size

    @property
    def has_no_new_records(self) -> bool:
        """Whether the run has ended and everything in its journal is uploaded."""
        try:
            return self.is_complete
        except OSError:  # the user deleted the run
            return False

    def write_tables(self) -> bool:
        """Write the tables of a run that has ended; return whether there was something to do."""
        if self.ledger.reported or not self.is_complete:
            return False
        self._add_report(write_tables)
        self.ledger.reported = True
        self.save()
        return True

    def draw_plots(self, omit: Callable[[str], bool]) -> bool:
        """Draw the plots of a run that has ended, unless `omit(group)`; return whether there was something to do."""
        if self.ledger.plots_settled or not self.ledger.reported or not self.is_complete:
            return False
        if self.ledger.plots != WANTED and omit(self.group):
            self.ledger.plots = OMITTED
        else:
            self._add_report(write_plots)
            self.ledger.plots = DRAWN
        self.save()
        return True

    def _add_report(self, write: Callable[[Path, Disk], list[str]]) -> None:
        try:
            made = write(self.folder, self._system.disk)
        except OSError as error:
            if error.errno in DISK_TROUBLE:  # the uploader tries again
                raise
            log.exception("%s: the report failed", self.folder.name)
            made = []
        except Exception:  # a failed report is logged and doesn't keep the run pending
            log.exception("%s: the report failed", self.folder.name)
            made = []
        self.ledger.files += [path for path in made if path not in self.ledger.files]

    def upload_files(self, store: Store) -> bool:
        """Upload the waiting artifacts; return whether there were any.

        One that is too large for the server doesn't keep back the others; at the end it raises TooLargeError.
        """
        from pgzoo.tracking.store import TooLargeError

        if not self.ledger.files or (not self.ledger.plots_settled and self._too_large.issuperset(self.ledger.files)):
            return False  # draw the plots before one that was too large is tried again
        run, refused = self._run(store), None
        try:
            for name in list(self.ledger.files):
                try:
                    store.upload(run, artifact_path(self.folder, name), name)
                    if name == LEARNING_CURVE and self.ledger.plots_settled:
                        self._describe(store)
                except TooLargeError as error:
                    refused = error
                    self._too_large.add(name)
                    continue
                except (FileNotFoundError, IsADirectoryError, ValueError) as error:
                    self.reject_record({"artifact": name}, str(error))
                except Exception as error:
                    from pgzoo.tracking.store import is_final

                    if not is_final(error):
                        raise
                    store.check_run(run)
                    self.reject_record({"artifact": name}, str(error))
                self.ledger.files.remove(name)
        finally:
            self.save()
        if refused:
            raise refused
        return True

    def _describe(self, store: Store) -> None:
        """Add the learning curve to the run's description, unless a user has edited the description."""
        starts = list(records_of(self.folder, "start"))
        history, before = read_history(self.folder), starts[-1]["tags"].get(DESCRIPTION)
        if history.returns and before:
            run, experiment = self._run(store), read_json(self.folder / "run.json").get("experiment_id")
            page = f"#/experiments/{experiment}/runs/{run}"
            text = describe_run(history, before, page, [str(diagnosis) for diagnosis in diagnose(history)])
            store.replace_tag(run, DESCRIPTION, before, text)

    def upload_model(self, store: Store) -> bool:
        """Log the policy of an uploaded run as an MLflow model; return whether there was something to do."""
        ledger = self.ledger
        if ledger.model or not ledger.reported or ledger.files or not self.is_complete:
            return False
        ledger.model = self._log_model(store)
        self.save()
        return True

    def _log_model(self, store: Store) -> str:
        """Return the model's id, or why there is none. Raises errors that may be temporary."""
        from pgzoo.tracking.store import is_final, knows_no_models

        bundle = self.folder / "artifacts" / "policy"
        try:
            digest = hashlib.sha256()
            for name in ("policy.json", "policy.safetensors"):
                digest.update((bundle / name).read_bytes())
        except FileNotFoundError:
            return "the run kept no policy"
        evaluations = [r for r in records_of(self.folder, "evaluation") if r.get("final")]
        rows = [row for r in evaluations for row in metric_rows(r)]
        try:
            from pgzoo.export.mlflow_model import write_model

            run = self._run(store)
            start = next(records_of(self.folder, "start"))
            first, self.created = self.created, False  # if this attempt fails, the next one searches for what it left

            def write(model_id: str, folder: Path) -> Path:
                return write_model(bundle, folder, model_id=model_id, run_id=run)

            return store.log_model(run, start, digest.hexdigest(), write, rows, first)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # an unknown policy format, or an old mlflow
            reason = f"the policy can't be logged as a model: {error!r}"
        except Exception as error:
            if not (is_final(error) or knows_no_models(error)):
                raise
            if is_final(error):
                store.check_run(self.run_id)
            reason = f"the store takes no models: {error}".splitlines()[0]
        log.warning("%s: %s", self.folder.name, reason)
        return reason[:500]


def append(path: Path, items: Iterable[Mapping[str, Any]], disk: Disk) -> None:
    """Append lines of JSON to a file. Raises OSError."""
    handle = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        rest = memoryview("".join(json.dumps(item) + "\n" for item in items).encode())
        while rest:
            rest = rest[disk.write(handle, rest) :]
    finally:
        disk.close(handle)


def metric_rows(record: Record) -> list[tuple[str, float, int, int]]:
    """Return an update's or evaluation's metrics as (name, value, timestamp, step)."""
    steps = record.get("steps", ()) if record["t"] == "update" else (record["step"],)
    ts, metrics = int(record["ts"]), [(str(k), float(v)) for k, v in record.get("m", {}).items()]
    return [(name, value, ts, int(step)) for step in steps for name, value in metrics]
