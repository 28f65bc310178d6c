"""The process that uploads a home's journals to MLflow: one per home, `python -m pgzoo.tracking.uploader HOME`.

It outlives the trainers, retries forever, and exits when everything is uploaded and no trainer is running.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.files import identity_of
from pgzoo.process import collect_garbage_rarely, lower_priority
from pgzoo.tracking.home import Home, redact
from pgzoo.tracking.ledger import (
    MAX_PLOTTED,
    OMITTED,
    WANTED,
    Ledger,
    count_runs,
    is_empty,
    is_retried,
    is_tracked,
    journal_folders,
    read_json,
    retry_time,
    write_json,
)
from pgzoo.tracking.lookup import garbage_collection_paused
from pgzoo.tracking.run_upload import RunUpload
from pgzoo.tracking.session import RETRY, ensure_uploader
from pgzoo.tracking.system import SYSTEM, Lock, System

if TYPE_CHECKING:
    from pgzoo.tracking.store import Store

__all__ = ["Uploader", "main"]

EXIT_AFTER_IDLE = 8.0
POLL_INTERVAL, MAX_POLL_INTERVAL = 0.1, 0.3
log = logging.getLogger("pgzoo.uploader")


class Uploader:
    """Uploads every journal of a home; `run` returns when there has been nothing to do for a while."""

    def __init__(self, home: Home, system: System = SYSTEM, max_plotted: int = MAX_PLOTTED) -> None:
        """Upload the runs of `home`. In a group of more than `max_plotted` runs, plots are drawn on request only."""
        self.home, self._system, self._max_plotted = home, system, max_plotted
        self.uploads: dict[Path, RunUpload] = {}
        self._settled: dict[Path, int] = {}
        self._stores: dict[str, Store] = {}
        self._group_sizes: dict[str, int] = {}
        self._live_due = self._find_due = 0.0
        self._retried: int = read_json(home.status_file).get("retried", 0)  # by the uploader before this one
        self._status: dict[str, Any] = {}

    def run(self) -> bool:
        """Upload until there has been nothing to upload for `EXIT_AFTER_IDLE` seconds.

        Returns True if the next uploader must be started, because only a new process can continue.
        """
        needed = self._system.monotonic()
        lock_file = identity_of(self.home.uploader_lock)
        # stop if the home was removed: another uploader may run in its place
        while lock_file and identity_of(self.home.uploader_lock) == lock_file:
            begin = self._system.monotonic()
            if self._must_leave:
                log.info("asked to retry: a new uploader does, with the credentials of the command that asked")
                return False
            busy = self.round()
            self._write_status()
            if any(store.vanished for store in self._stores.values()):
                log.warning("a database was deleted or replaced; a new uploader will open it afresh")
                return True
            if self.uploads:
                needed = self._system.monotonic()
            elif self._system.monotonic() - needed > EXIT_AFTER_IDLE:
                return False
            if not busy:
                training = next((upload for upload in self.uploads.values() if upload.alive), None)
                if training:
                    import_for_the_end()
                took = self._system.monotonic() - begin  # long, if there are hundreds of runs
                self._rest(min(MAX_POLL_INTERVAL, max(POLL_INTERVAL, 10 * took)), training)
        return False

    @property
    def _must_leave(self) -> bool:
        """Whether this uploader has failed, and the process that asks to retry waits to take its place.

        If that process was killed, this uploader retries itself, because no other would be started.
        """
        asked = retry_time(self.home) != self._retried
        return asked and self._has_failed and self._system.is_locked(self.home.successor_lock)

    @property
    def _has_failed(self) -> bool:
        """Whether the last attempt at something failed. The cause may be an environment variable of this process."""
        return any(upload.backoff.error for upload in self.uploads.values()) or any(
            store.records.error or store.files.error or store.models.error for store in self._stores.values()
        )

    def _rest(self, seconds: float, training: RunUpload | None) -> None:
        """Sleep, at most until this run ends: its command then waits for the upload."""
        if training is None or not (training.folder / "lock").exists():
            self._system.sleep(seconds)
            return
        with contextlib.suppress(OSError):  # the user deletes the run
            if ended := self._system.lock(training.folder / "lock", seconds):
                ended.release()

    def round(self) -> bool:
        """Process every run once and return whether anything was done.

        Records of all runs come first, then the files, models and plots of some runs, for a second or so.
        """
        self._heed_request()
        self._find()
        begin = self._system.monotonic()
        live_turn, busy = begin >= self._live_due, False
        for upload in list(self.uploads.values()):
            if not upload.alive and upload.has_no_new_records:
                continue
            was_alive = upload.alive = self._system.is_locked(upload.folder / "lock")
            if upload.ledger.refused or (was_alive and not live_turn and upload.run_id):
                continue
            if not upload.uri:
                # Its start record may be on the way, or its trainer died before it wrote anything.
                del self.uploads[upload.folder]
                if not was_alive:
                    with contextlib.suppress(FileNotFoundError):  # the user deleted the run
                        self._settled[upload.folder] = upload.size
                    if not is_empty(upload.folder):
                        upload.refuse_run("its journal has no start record")
                continue
            busy |= self._attempt(upload, "records") and not was_alive
        if live_turn:
            # While a run trains, sleep four fifths of the time to leave the CPU to training.
            took = self._system.monotonic() - begin
            self._live_due = self._system.monotonic() + min(30.0, max(1.0, 4 * took))
        if not busy:
            # Plots last: they are the slowest. New records are looked for every second, and come first again.
            waiting = [s for s in self.uploads.values() if not s.ledger.refused]
            for stage, upload in itertools.product(("files", "model", "plots"), waiting):
                busy = self._attempt(upload, stage) or busy
                if busy and self._system.monotonic() - begin > 1.0:
                    break
        for folder, upload in list(self.uploads.items()):
            with contextlib.suppress(FileNotFoundError):
                if upload.nothing_to_do:
                    self._settled[folder] = upload.size
                    del self.uploads[folder]
        return busy

    def _attempt(self, upload: RunUpload, stage: str) -> bool:
        from pgzoo.tracking.store import LostRunError, RefusedError, TooLargeError, not_encodable, one_line

        if upload.replaced:
            self.uploads.pop(upload.folder, None)
            self._find_due = 0.0  # look at it again
            return False
        store = self._store(upload)
        backoff = {"records": store.records, "model": store.models}.get(stage, store.files)
        if not (backoff.ready and upload.backoff.ready) or store.vanished:
            return False
        try:
            if stage == "records":
                did = upload.upload_records(store)
            elif stage == "model":
                did = upload.upload_model(store)
            else:
                did = upload.write_tables() if stage == "files" else upload.draw_plots(self._omit_plots)
                did = upload.upload_files(store) or did
            if did:
                backoff.succeeded()
                upload.backoff.succeeded()
                store.successes += 1
            return did
        except RefusedError as error:
            upload.refuse_run(str(error))
        except LostRunError as error:
            upload.forget_run()
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
            if store.successes == upload.successes_elsewhere and not isinstance(error, TooLargeError):
                backoff.failed(error)
            self.uploads[upload.folder] = self.uploads.pop(upload.folder)  # move it to the end of the queue
            failures = upload.backoff.failures
            if failures in (1, 10) or failures % 100 == 0:
                log.warning("%s: %s: attempt %d: %s", store.uri, upload.folder.name, failures, one_line(error))
        return False

    def _heed_request(self) -> None:
        """If `pgzoo sync` has asked for it, retry everything, refused runs too, and omitted plots if it wants them."""
        asked = retry_time(self.home)
        if asked == self._retried or self._must_leave:
            return
        self._retried = asked
        self._settled.clear()
        for store in self._stores.values():
            store.retry_now()
        for upload in self.uploads.values():
            upload.backoff.retry_now()
        plots = self._plots_requested()
        for folder in journal_folders(self.home):
            ledger = Ledger.read(folder)
            if ledger.refused or (plots and ledger.plots == OMITTED):
                ledger.refused = ""
                ledger.plots = WANTED if plots else ledger.plots
                ledger.write(folder, self._system.disk)
                self.uploads.pop(folder, None)

    def _find(self) -> None:
        """Add the runs that have something to upload, and remember those that have nothing by their size."""
        begin = self._system.monotonic()
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
                upload = RunUpload(folder, self.home, self._system)
                upload.alive = self._system.is_locked(folder / "lock")
                if upload.nothing_to_do:
                    self._settled[folder] = size
                else:
                    self.uploads[folder] = upload
                    self._group_sizes.pop(upload.group, None)
        # Looking through thousands of old runs must not take most of the uploader's time.
        self._find_due = self._system.monotonic() + 20 * (self._system.monotonic() - begin)

    def _omit_plots(self, group: str) -> bool:
        """Return whether the group has too many runs for drawing the plots of each."""
        if group not in self._group_sizes:
            self._group_sizes[group] = count_runs(self.home, group)
        return self._group_sizes[group] > self._max_plotted

    def _plots_requested(self) -> bool:
        """Return whether the last `pgzoo sync` asked for the plots that were omitted."""
        try:
            return self.home.retry_file.read_text() == WANTED
        except OSError:
            return False

    def _store(self, upload: RunUpload) -> Store:
        if upload.address not in self._stores:
            from pgzoo.tracking.store import Store

            self._stores[upload.address] = Store(upload.uri, upload.address, self._system)
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
                write_json(self.home.status_file, status, disk=self._system.disk)


def import_for_the_end() -> None:
    """Import what only the end of a run needs, while its training leaves nothing to do."""
    with contextlib.suppress(Exception):  # where it is needed, the error is reported
        import pgzoo.export.mlflow_model
        import pgzoo.tracking.plots  # noqa: F401


class RedactingFormatter(logging.Formatter):
    """Writes log lines and tracebacks without the secrets of the URIs in them."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def main() -> None:
    """Run the uploader of the home given on the command line, unless one is running.

    With `--when-asked` it is run when a line comes from standard input, and not at all when that is closed; with
    `--retry=REQUEST` it asks the running one to retry, and is run if that one leaves.
    """
    root = Path(sys.argv[1]).resolve()
    home = Home(root, root / "mlflow.db", root / "mlartifacts")
    collect_garbage_rarely()
    lower_priority()
    if "--when-asked" in sys.argv[2:]:
        stand_by(home)
    request = next((word.removeprefix(RETRY) for word in sys.argv[2:] if word.startswith(RETRY)), None)
    with locked(home, SYSTEM, request) as mine:
        unfinished = mine and serve(home)
    if unfinished:
        with contextlib.suppress(OSError):  # the home was removed
            ensure_uploader(home)


def stand_by(home: Home) -> None:
    """Load mlflow; return when this process is asked to be the uploader, end it when nobody can ask any more.

    Of several commands that start in a home at the same time, one has such a process.
    """
    mine = None
    if home.root.is_dir():
        mine = SYSTEM.lock(home.prepared_lock, 0.0)
        if mine is None:
            sys.exit()
    asked = threading.Event()

    def listen() -> None:
        if not sys.stdin.buffer.read(1):
            os._exit(0)
        asked.set()

    threading.Thread(target=listen, daemon=True).start()
    with contextlib.suppress(Exception):  # `serve` tries again, and reports it
        load_mlflow()
    asked.wait()
    os.chdir(home.root)
    log_file = os.open(home.uploader_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log_file, stream)
    os.close(log_file)
    if mine is not None:
        mine.release()


def load_mlflow() -> None:
    """Import mlflow. Raises whatever it raises."""
    with garbage_collection_paused():
        import pgzoo.tracking.store  # noqa: F401


@contextlib.contextmanager
def locked(home: Home, system: System, request: str | None = None) -> Iterator[bool]:
    """Hold the lock of the home's uploader while the body runs; yield False if another process holds it.

    With a `request` to retry, that process is asked to, and this one waits until that one leaves or retries.
    """
    mine = system.lock(home.uploader_lock, 2.0) if request is None else replace_uploader(home, system, request)
    try:
        yield mine is not None
    finally:
        if mine is not None:
            mine.release()


def replace_uploader(home: Home, system: System, request: str) -> Lock | None:
    """Ask the uploader to retry everything; return its lock when it has left, None if it retries.

    It leaves only if it has failed. While this process holds the successor's lock, trainers start no other uploader,
    which would have their credentials.
    """
    while (successor := system.lock(home.successor_lock, 1.0)) is None:  # another command has asked
        if not home.root.is_dir():
            return None
    try:
        home.retry_file.write_text(request)
        lock_file = identity_of(home.successor_lock)
        while lock_file and identity_of(home.successor_lock) == lock_file and not is_retried(home):
            if mine := system.lock(home.uploader_lock, 1.0):
                return mine
        return None
    finally:
        successor.release()


def serve(home: Home) -> bool:
    """Upload the runs of a home, as this process's only task. Returns True if the next uploader must be started."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(logging.INFO)
    log.info("serving %s as process %d", home.root, os.getpid())
    try:
        load_mlflow()
        gc.freeze()
    except Exception as error:
        log.exception("mlflow can't be imported; nothing is uploaded")
        stores = {"mlflow": {"error": f"mlflow can't be imported: {error}"}}
        write_json(home.status_file, {"pid": os.getpid(), "stores": stores})
        SYSTEM.sleep(60.0)  # while this process holds the lock, the trainers start no other
        return False
    return Uploader(home).run()


if __name__ == "__main__":
    main()
