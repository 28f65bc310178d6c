"""The process that uploads a home's journals to MLflow: one per home, `python -m pgzoo.tracking.uploader HOME`.

It outlives the trainers, retries forever, and exits when everything is uploaded and no trainer is running.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.tracking.home import Home, display_uri, redact
from pgzoo.tracking.journal import Record, artifact_path, now, records, trim
from pgzoo.tracking.ledger import Ledger, is_tracked, journal_folders, read_json, write_json
from pgzoo.tracking.locks import is_locked, lock
from pgzoo.tracking.report import LEARNING_CURVE, describe_run, read_history, write_report
from pgzoo.tracking.secrets import reveal_secrets

if TYPE_CHECKING:
    from pgzoo.tracking.store import Store

__all__ = ["Uploader", "main"]

EXIT_AFTER_IDLE, POLL_INTERVAL, MAX_SECONDS_PER_RUN = 8.0, 0.3, 2.0
READ = 2**18
DESCRIPTION = "mlflow.note.content"
log = logging.getLogger("pgzoo.uploader")


class RunUpload:
    """The upload of one run. All state that must survive a restart is in the run's ledger on disk."""

    def __init__(self, folder: Path, home: Home) -> None:
        from pgzoo.tracking.store import Backoff

        self.folder = folder
        self.ledger = Ledger.read(folder)
        starts = [r for r, _ in records(folder) if r and r["t"] == "start"]
        self.home = home
        self._set_store(starts[-1]["uri"] if starts else "")
        known = read_json(folder / "run.json")
        # A run that was resumed with another store is uploaded there from the beginning.
        same = display_uri(str(known.get("tracking_uri", ""))) == self.uri
        self.run_id: str = known.get("run_id", "") if same else ""
        if known and not self.run_id:
            self.ledger = Ledger()
        self.last = 0
        self.backoff = Backoff()
        self.successes_elsewhere = 0
        """The store's count of successful attempts at this run's first consecutive failure."""
        self.alive = True
        self._rejected: list[Record] = []

    def _set_store(self, uri: str) -> None:
        """Set the public URI and the real URI (with password) from a start record."""
        self.uri, self.address = display_uri(uri), reveal_secrets(uri, self.home)

    @property
    def size(self) -> int:
        return (self.folder / "journal.jsonl").stat().st_size

    @property
    def nothing_to_do(self) -> bool:
        return not self.alive and (bool(self.ledger.refused) or self.ledger.done(self.size))

    def save(self) -> None:
        """Write the rejected records to `rejected.jsonl`, then the ledger."""
        if self._rejected:
            with (self.folder / "rejected.jsonl").open("a") as file:
                file.writelines(json.dumps(item) + "\n" for item in self._rejected)
            self._rejected.clear()
        self.ledger.write(self.folder)

    def refuse_run(self, reason: str) -> None:
        log.error("%s: %s", self.folder.name, reason)
        self.ledger.refused = redact(reason)
        self.save()

    def reject_record(self, item: Any, reason: str) -> None:
        """Set aside one record that the store refuses; `save` writes it to `rejected.jsonl`."""
        log.warning("%s: rejected %s: %s", self.folder.name, str(item)[:200], reason)
        self._rejected.append({"ts": now(), "reason": redact(reason), "record": item})

    def upload_records(self, store: Store) -> bool:
        """Upload new records of the journal, for a few seconds at most; return whether anything was uploaded."""
        # Check the lock before reading, so that the last records of a dying trainer aren't missed.
        self.alive = is_locked(self.folder / "lock")
        begin, before = time.monotonic(), self.ledger.offset
        while time.monotonic() - begin < MAX_SECONDS_PER_RUN:
            self._rejected.clear()  # discard rejections of the failed attempt; this attempt finds them again
            rows: list[tuple[str, float, int, int]] = []
            offset, other = self.ledger.offset, None
            for record, behind in records(self.folder, offset, READ):
                if record is None or record["t"] not in ("update", "evaluation"):
                    if not rows:
                        other, offset = (record,), behind
                    break
                try:
                    rows += metric_rows(record)
                    self.last = max(self.last, record["ts"])
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    self.reject_record(record, f"not a record: {error!r}")
                offset = behind
                if len(rows) >= 1000:
                    break
            if offset == self.ledger.offset:
                break
            if rows:
                store.metrics(self._run(store), rows, self.reject_record)
            if other is not None:
                try:
                    self._ship_other(store, other[0])
                except (KeyError, TypeError, AttributeError) as error:
                    self.reject_record(other[0], f"not a record: {error!r}")
            if self.uri != store.uri:
                return True
            self.ledger.offset = offset
            self.save()
        else:
            return True
        if not self.alive and not self.ledger.closed:
            self._close_dead(store)
        return self.ledger.offset > before

    def _run(self, store: Store) -> str:
        """Return the run id; where run.json was lost, look the run up by its key."""
        if not self.run_id:
            start = next(r for r, _ in records(self.folder) if r and r["t"] == "start")
            self._open(store, start)
        return self.run_id

    def _open(self, store: Store, start: Record) -> None:
        self.run_id, experiment = store.open_run(start, self.reject_record)
        identity = {"run_id": self.run_id, "experiment_id": experiment, "tracking_uri": store.uri}
        write_json(self.folder / "run.json", identity)

    def _ship_other(self, store: Store, record: Record | None) -> None:
        kind = record["t"] if record else ""
        if record is None:
            self.reject_record(None, "a line that isn't JSON")
        elif kind == "start":
            if display_uri(record["uri"]) != self.uri:
                # Either an earlier store, which the last start record has replaced, or a new one.
                later = [r["uri"] for r, _ in records(self.folder) if r and r["t"] == "start"]
                if display_uri(later[-1]) != self.uri:
                    self._set_store(later[-1])
                    self.run_id, self.ledger = "", Ledger()
                    return
            self._open(store, record)
            self.ledger.closed, self.ledger.reported, self.ledger.model = "", False, ""
        elif kind == "tags":
            store.tags(self._run(store), record["tags"], self.reject_record)
        elif kind == "artifact":
            if record["path"] not in self.ledger.files:
                self.ledger.files.append(record["path"])
        elif kind == "end":
            self._close(store, record["status"], record["ts"], record["reason"])
        else:
            self.reject_record(record, f"unknown kind of record {kind!r}")
        if record is not None:
            self.last = max(self.last, record.get("ts", 0))

    def _close(self, store: Store, status: str, ended: int, reason: str) -> None:
        if reason:
            store.tags(self._run(store), {"pgzoo.end_reason": reason[:8000]}, self.reject_record)
        store.close_run(self._run(store), status, ended)
        self.ledger.closed = status

    def _close_dead(self, store: Store) -> None:
        """Close a run whose trainer died, with status KILLED, once all of its records are uploaded."""
        if self.ledger.offset < self.size:
            mine = lock(self.folder / "lock")
            if mine is None:  # resumed meanwhile
                return
            try:
                trim(self.folder / "journal.jsonl")
            finally:
                mine.release()
            if self.ledger.offset < self.size:
                return
        if is_locked(self.folder / "lock"):
            return
        last = self.last or max((r["ts"] for r, _ in records(self.folder) if r), default=now())
        self._close(store, "KILLED", last, "the training process died")
        self.save()

    def draw(self) -> bool:
        """Draw the plots and tables of a run that has ended; return whether there was something to do."""
        if not self.ledger.closed or self.ledger.reported or self.ledger.offset < self.size:
            return False
        try:
            made = write_report(self.folder)
        except Exception:  # a failed report is logged and doesn't keep the run pending
            log.exception("%s: the report failed", self.folder.name)
            made = []
        self.ledger.files += [path for path in made if path not in self.ledger.files]
        self.ledger.reported = True
        self.save()
        return True

    def upload_files(self, store: Store) -> bool:
        """Upload the waiting artifacts; return whether there were any."""
        if not self.ledger.files:
            return False
        while self.ledger.files:
            name = self.ledger.files[0]
            try:
                store.upload(self._run(store), artifact_path(self.folder, name), name)
                if name == LEARNING_CURVE and self.ledger.reported:
                    self._describe(store)
            except (FileNotFoundError, IsADirectoryError, ValueError) as error:
                self.reject_record({"artifact": name}, str(error))
            except Exception as error:
                from pgzoo.tracking.store import is_final

                if not is_final(error):
                    raise
                self.reject_record({"artifact": name}, str(error))
            del self.ledger.files[0]
            self.save()
        return True

    def _describe(self, store: Store) -> None:
        """Add the learning curve to the run's description, unless a user has edited the description."""
        starts = [r for r, _ in records(self.folder) if r and r["t"] == "start"]
        history, before = read_history(self.folder), starts[-1]["tags"].get(DESCRIPTION)
        if history.returns and before:
            run, experiment = self._run(store), read_json(self.folder / "run.json").get("experiment_id")
            page = f"#/experiments/{experiment}/runs/{run}"
            store.replace_tag(run, DESCRIPTION, before, describe_run(history, before, page))

    def upload_model(self, store: Store) -> bool:
        """Log the policy of an uploaded run as an MLflow model; return whether there was something to do."""
        ledger = self.ledger
        if not (ledger.closed and ledger.reported) or ledger.files or ledger.model or ledger.offset < self.size:
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
        evaluations = [r for r, _ in records(self.folder) if r and r["t"] == "evaluation" and r.get("final")]
        rows = [row for r in evaluations for row in metric_rows(r)]
        try:
            with tempfile.TemporaryDirectory() as scratch:
                from pgzoo.export.mlflow_model import write_model

                run, folder = self._run(store), Path(scratch) / "model"
                start = next(r for r, _ in records(self.folder) if r and r["t"] == "start")
                write = partial(write_model, bundle, folder, run_id=run)
                return store.log_model(run, start, digest.hexdigest(), lambda it: write(model_id=it), rows)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # an unknown policy format, or an old mlflow
            reason = f"the policy can't be logged as a model: {error!r}"
        except Exception as error:
            if not (is_final(error) or knows_no_models(error)):
                raise
            reason = f"the store takes no models: {error}".splitlines()[0]
        log.warning("%s: %s", self.folder.name, reason)
        return reason[:500]


class Uploader:
    """Uploads every journal of a home; `run` returns when there has been nothing to do for a while."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.uploads: dict[Path, RunUpload] = {}
        self._settled: dict[Path, int] = {}
        self._stores: dict[str, Store] = {}
        self._live_due = self._find_due = 0.0
        self._retried: int = read_json(home.status_file).get("retried", 0)  # by the uploader before this one
        self._status: dict[str, Any] = {}

    def run(self) -> None:
        """Upload until there has been nothing to upload for `EXIT_AFTER_IDLE` seconds."""
        needed = time.monotonic()
        lock_file = self._lock_file()
        # stop if the home was removed: another uploader may run in its place
        while lock_file and self._lock_file() == lock_file:
            busy = self.round()
            self._write_status()
            if any(store.vanished for store in self._stores.values()):
                log.warning("a database was deleted or replaced; a new uploader will open it afresh")
                return
            if self.uploads:
                needed = time.monotonic()
            elif time.monotonic() - needed > EXIT_AFTER_IDLE:
                return
            if not busy:
                time.sleep(POLL_INTERVAL)

    def round(self) -> bool:
        """Process every run once and return whether anything was done.

        Records of all runs come first, then the files or the report of one run.
        """
        self._find()
        begin = time.monotonic()
        live_turn, busy = begin >= self._live_due, False
        for upload in list(self.uploads.values()):
            was_alive = upload.alive = is_locked(upload.folder / "lock")
            if upload.ledger.refused or (was_alive and not live_turn and upload.run_id):
                continue
            if not upload.uri:
                # Its start record may be on the way, or its trainer died before it wrote anything.
                del self.uploads[upload.folder]
                if not was_alive:
                    self._settled[upload.folder] = upload.size
                    if upload.size:
                        upload.refuse_run("its journal has no start record")
                continue
            busy |= self._attempt(upload, "records") and not was_alive
        if live_turn:
            # While a run trains, sleep four fifths of the time to leave the CPU to training.
            took = time.monotonic() - begin
            self._live_due = time.monotonic() + min(30.0, max(1.0, 4 * took))
        if not busy:
            # models last: they are the slowest, and everything else is complete without them
            waiting = [s for s in self.uploads.values() if not s.ledger.refused]
            busy = any(self._attempt(s, stage) for stage in ("files", "model") for s in waiting)
        for folder, upload in list(self.uploads.items()):
            with contextlib.suppress(FileNotFoundError):
                if upload.nothing_to_do:
                    self._settled[folder] = upload.size
                    del self.uploads[folder]
        return busy

    def _attempt(self, upload: RunUpload, stage: str) -> bool:
        from pgzoo.tracking.store import RefusedError, not_encodable, one_line

        store = self._store(upload)
        backoff = {"records": store.records, "files": store.files, "model": store.models}[stage]
        if not (backoff.ready and upload.backoff.ready) or store.vanished:
            return False
        store.failures = upload.backoff.failures
        try:
            if stage == "records":
                did = upload.upload_records(store)
            elif stage == "model":
                did = upload.upload_model(store)
            else:
                did = upload.draw()
                did = upload.upload_files(store) or did
            if did:
                backoff.succeeded()
                upload.backoff.succeeded()
                store.successes += 1
            return did
        except RefusedError as error:
            upload.refuse_run(str(error))
        except Exception as error:  # mlflow doesn't wrap exceptions of its database and HTTP libraries
            if not (upload.folder / "journal.jsonl").exists():  # the user deleted the run
                self.uploads.pop(upload.folder, None)
                return False
            if not_encodable(error):
                upload.refuse_run(f"it has a text that isn't valid UTF-8, or too large a number: {one_line(error)}")
                return False
            if not upload.backoff.failures:
                upload.successes_elsewhere = store.successes
            upload.backoff.failed(error)
            # If other runs are uploaded meanwhile, only this run fails, and it must not delay the others.
            if store.successes == upload.successes_elsewhere:
                backoff.failed(error)
            self.uploads[upload.folder] = self.uploads.pop(upload.folder)  # move it to the end of the queue
            failures = upload.backoff.failures
            if failures in (1, 10) or failures % 100 == 0:
                log.warning("%s: %s: attempt %d: %s", store.uri, upload.folder.name, failures, one_line(error))
        return False

    def _find(self) -> None:
        if self._retry_time() != self._retried:
            self._retried = self._retry_time()
            self._settled.clear()
            for store in self._stores.values():
                store.retry_now()
            for upload in self.uploads.values():
                upload.backoff.retry_now()
            for folder in journal_folders(self.home):
                ledger = Ledger.read(folder)
                if ledger.refused:
                    ledger.refused = ""
                    ledger.write(folder)
                    self.uploads.pop(folder, None)
        begin = time.monotonic()
        if begin < self._find_due:
            return
        for folder in journal_folders(self.home):
            if folder in self.uploads:
                continue
            with contextlib.suppress(OSError):
                size = (folder / "journal.jsonl").stat().st_size
                if self._settled.get(folder) == size:
                    continue
                if not is_tracked(folder):
                    self._settled[folder] = size
                    continue
                upload = RunUpload(folder, self.home)
                upload.alive = is_locked(folder / "lock")
                if upload.nothing_to_do:
                    self._settled[folder] = size
                else:
                    self.uploads[folder] = upload
        # Looking through thousands of old runs must not take most of the uploader's time.
        self._find_due = time.monotonic() + 20 * (time.monotonic() - begin)

    def _lock_file(self) -> tuple[int, int] | None:
        """Return the device and inode of the home's lock file, None if there is none."""
        try:
            found = self.home.uploader_lock.stat()
        except OSError:
            return None
        return found.st_ino, found.st_dev

    def _retry_time(self) -> int:
        """Return when `pgzoo sync` last asked to retry everything, 0 if it never did."""
        try:
            return self.home.retry_file.stat().st_mtime_ns
        except OSError:
            return 0

    def _store(self, upload: RunUpload) -> Store:
        if upload.address not in self._stores:
            from pgzoo.tracking.store import Store

            self._stores[upload.address] = Store(upload.uri, upload.address)
        return self._stores[upload.address]

    def _write_status(self) -> None:
        errors = {
            store.uri: {"error": store.records.error or store.files.error or store.models.error}
            for store in self._stores.values()
            if store.uri
        }
        for upload in self.uploads.values():
            if upload.backoff.error and not errors[upload.uri]["error"]:
                errors[upload.uri]["error"] = f"run {upload.folder.name}: {upload.backoff.error}"
        status = {"pid": os.getpid(), "retried": self._retried, "stores": errors}
        if status != self._status:
            self._status = status
            with contextlib.suppress(OSError):
                write_json(self.home.status_file, status)


class RedactingFormatter(logging.Formatter):
    """Writes log lines and tracebacks without the secrets of the URIs in them."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def metric_rows(record: Record) -> list[tuple[str, float, int, int]]:
    """Return an update's or evaluation's metrics as (name, value, timestamp, step)."""
    steps = record.get("steps", ()) if record["t"] == "update" else (record["step"],)
    ts, metrics = int(record["ts"]), [(str(k), float(v)) for k, v in record.get("m", {}).items()]
    return [(name, value, ts, int(step)) for step in steps for name, value in metrics]


def main() -> None:
    """Run the uploader of the home given on the command line, unless one is running."""
    root = Path(sys.argv[1]).resolve()
    home = Home(root, root / "mlflow.db", root / "mlartifacts")
    mine = lock(home.uploader_lock, timeout=2.0)
    if mine is None:
        return
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(10)
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(logging.INFO)
    log.info("serving %s as process %d", root, os.getpid())
    try:
        try:
            import pgzoo.tracking.store  # noqa: F401
        except Exception as error:
            log.exception("mlflow can't be imported; nothing is uploaded")
            stores = {"mlflow": {"error": f"mlflow can't be imported: {error}"}}
            write_json(home.status_file, {"pid": os.getpid(), "stores": stores})
            time.sleep(60.0)  # while this process holds the lock, the trainers start no other
            return
        Uploader(home).run()
    finally:
        mine.release()


if __name__ == "__main__":
    main()
