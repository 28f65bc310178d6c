"""The trainer's side of tracking: journals, and a thread that syncs them and restarts a missing uploader."""

from __future__ import annotations

import atexit
import contextlib
import getpass
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from pgzoo.errors import StoreError
from pgzoo.files import make_folder
from pgzoo.tracking.home import NO_STORE, Home, sqlite_path
from pgzoo.tracking.journal import (
    MAX_PARAM,
    MAX_TAG,
    EndStatus,
    Journal,
    Record,
    check_run_key,
    clean_items,
    records,
)
from pgzoo.tracking.ledger import MAX_AWAITED, MAX_PLOTTED, Pending, pending_of
from pgzoo.tracking.secrets import hide_secrets
from pgzoo.tracking.system import SYSTEM, Process, System

__all__ = ["Session", "ask_to_retry", "ensure_uploader", "prepare_uploader"]

SYNC_EVERY, CHECK_EVERY = 1.0, 3.0
LOG_LIMIT = 2**20
RETRY = "--retry="
"""Begins the argument of an uploader that is started by a request to retry; the request follows."""
logger = logging.getLogger("pgzoo.tracking")
children: list[tuple[Path, Process]] = []
"""The uploaders that this process started, each with the root of its home."""
prepared: list[tuple[Path, subprocess.Popen[bytes]]] = []
"""Processes that become an uploader when they are asked to, each with the root of its home."""


class Session:
    """The journals of one command. Starts the uploader, which outlives it; a context manager."""

    def __init__(self, home: Home, group: str, tracking_uri: str, warn: Callable[[str], None] = logger.warning) -> None:
        """Open a session of the runs of `group`, uploaded to `tracking_uri`; with "none" they stay on this machine.

        `warn` receives one sentence per problem, such as a full disk. Raises StoreError if the home can't be written.
        """
        self.home, self.group, self.tracking_uri = home, group, tracking_uri
        self.journals: dict[str, Journal] = {}
        """The journals opened here, by run key."""
        self._elsewhere: dict[str, Pending] = {}
        self._warn_user, self._warned = warn, set[str]()
        try:
            make_folder(home.runs, 0o700)
            self._public_uri = hide_secrets(tracking_uri, home)
        except OSError as error:
            raise StoreError(f"Can't write to pgzoo's folder {home.root}: {error.strerror}.") from error
        if tracking_uri == NO_STORE:
            dismiss_prepared()
        self._closing = threading.Event()
        self._sync_thread = threading.Thread(target=self._sync_journals, name="pgzoo-tracking", daemon=True)
        self._sync_thread.start()

    def journal(
        self,
        run_key: str,
        *,
        name: str,
        experiment: str,
        seed: int | None,
        algorithm: str,
        env: str,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Journal:
        """Open the journal of a run; an existing one is continued, in the same MLflow run.

        `seed` is None for a run that doesn't train a seed, such as a study; its tags must include `pgzoo.kind`.

        Raises StoreError if it can't be written or another process writes it, ValueError for an unfit key.
        """
        identity = {"algorithm": algorithm, "env": env} | ({} if seed is None else {"seed": str(seed)})
        labels = {
            "mlflow.user": user(),
            "mlflow.note.content": run_description(run_key, self.group, identity, dict(tags or {})),
            **(tags or {}),
            "pgzoo.run_key": run_key,
            "pgzoo.group": self.group,
        }
        start: Record = {"t": "start", "ts": SYSTEM.now(), "key": run_key, "name": name, "group": self.group}
        start |= {
            "experiment": experiment,
            "uri": self._public_uri,
            "algorithm": algorithm,
        }
        start |= {} if seed is None else {"seed": int(seed)}
        start |= {"env": env, "params": clean_items({**identity, **(params or {})}, MAX_PARAM)}
        start |= {"tags": clean_items(labels, MAX_TAG)}
        if sqlite_path(self.tracking_uri) is not None:
            start["artifacts"] = self.home.artifacts.as_uri()
        journal = Journal(self.home.runs / check_run_key(run_key), start, self._warn)
        self.journals[run_key] = journal
        return journal

    def sync(self, run_key: str) -> bool:
        """Flush the records of a run to disk, if this session has its journal; False if a crash would lose some."""
        journal = self.journals.get(run_key)
        return journal is None or journal.sync()

    def watch(self, run_key: str, *, lost: int = 0, dropped: int = 0) -> None:
        """Also wait, at the end, for a run that another process writes.

        `lost` records and `dropped` metric values of that process are added to the counts of this session.
        """
        self._elsewhere[run_key] = Pending(lost=lost, dropped=dropped)

    def close_dead_run(self, run_key: str, status: EndStatus, reason: str, tags: Mapping[str, str]) -> None:
        """Write the end of a run whose trainer process died; do nothing if the run had not started.

        If another process still holds the journal's lock, the uploader closes the run once that process ends.
        """
        folder = self.home.runs / check_run_key(run_key)
        starts = [record for record, _ in records(folder) if record and record["t"] == "start"]
        if not starts:
            return
        try:
            journal = Journal(folder, {**starts[-1], "ts": SYSTEM.now()}, self._warn)
        except StoreError as error:
            self._warn(str(error))
            return
        journal.tags(tags)
        journal.end(status, reason)

    def tag_closed_run(self, run_key: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run that another process has written and closed; do nothing for any other run."""
        folder = self.home.runs / check_run_key(run_key)
        marks = [record for record, _ in records(folder) if record and record["t"] in ("start", "end")]
        if not marks or marks[-1]["t"] != "end":
            return
        start = next(record for record in reversed(marks) if record["t"] == "start")
        try:
            journal = Journal(folder, {**start, "ts": SYSTEM.now()}, self._warn)
        except StoreError as error:
            self._warn(str(error))
            return
        journal.tags(tags)
        journal.end(marks[-1]["status"], marks[-1]["reason"])

    def close(self, wait: float = 10.0) -> Pending:
        """Release all journals and wait at most `wait` seconds until they are uploaded.

        Returns what is still pending (falsy when nothing is); the uploader continues with it in the background.
        """
        for journal in self.journals.values():
            journal.release()
        self._closing.set()
        self._sync_thread.join()
        counted: list[Journal | Pending] = [*self.journals.values(), *self._elsewhere.values()]
        lost, dropped = sum(run.lost for run in counted), sum(run.dropped for run in counted)
        begun = time.monotonic()
        deadline, checked = begun + wait, -CHECK_EVERY
        while (left := self.pending()) and (moment := time.monotonic()) < deadline:
            if moment - checked >= CHECK_EVERY:
                ensure_uploader(self.home)
                checked = moment
            pause = max(0.05, 4 * (moment - begun))  # counting thousands of runs takes a while
            time.sleep(min(pause, max(0.0, deadline - moment)))
            begun = time.monotonic()
        return replace(left, lost=lost, dropped=dropped)

    def _warn(self, text: str) -> None:
        """Warn the user once per problem, even if it affects several runs."""
        if text not in self._warned:
            self._warned.add(text)
            self._warn_user(text)

    def pending(self) -> Pending:
        """Count what isn't uploaded yet of this session's runs; the plots of more than a few come later."""
        keys = self.journals.keys() | self._elsewhere.keys()
        with_plots = not MAX_AWAITED < len(keys) <= MAX_PLOTTED  # those of a larger group are omitted at once
        return pending_of((self.home.runs / key for key in keys), with_plots)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for journal in self.journals.values():
            if kind is not None and journal.open:
                journal.end("FAILED" if issubclass(kind, Exception) else "KILLED", f"{kind.__name__}: {error}"[:500])
        if not self._closing.is_set():
            self.close()

    def _sync_journals(self) -> None:
        checked = -CHECK_EVERY
        while True:
            for journal in list(self.journals.values()):
                journal.sync()
            # An uploader may crash, or leave just as this trainer comes: only looking again covers both.
            if self.tracking_uri != NO_STORE and time.monotonic() - checked >= CHECK_EVERY:
                with contextlib.suppress(OSError):
                    ensure_uploader(self.home)
                checked = time.monotonic()
            if self._closing.wait(SYNC_EVERY):
                return


def ensure_uploader(home: Home, system: System = SYSTEM) -> None:
    """Start the home's uploader process unless one is running, or waits to be the next one.

    Raises OSError if it can't be started.
    """
    children[:] = [(root, child) for root, child in children if child.poll() is None]
    running = any(map(system.is_locked, (home.uploader_lock, home.successor_lock)))
    if running or any(root == home.root for root, _ in children):
        dismiss_prepared()
        return
    limit_log(home, system)
    if child := take_prepared(home):
        children.append((home.root, child))
        return
    start_uploader(home, system, uploader_command(home))


def ask_to_retry(home: Home, request: str, system: System = SYSTEM) -> None:
    """Start a process that asks the home's uploader to retry everything; without an uploader, it becomes the uploader.

    An uploader that has failed leaves, and that process takes its place: it has the environment of this process, which
    may have other credentials. It outlives this process, so that an uploader runs even if this process ends at once.
    `request` is written into the retry file. Raises OSError if the process can't be started.
    """
    limit_log(home, system)
    start_uploader(home, system, [*uploader_command(home), f"{RETRY}{request}"])


def limit_log(home: Home, system: System) -> None:
    """Begin a new log of the uploader if it is long. Raises OSError."""
    if home.uploader_log.exists() and home.uploader_log.stat().st_size > LOG_LIMIT:
        system.disk.replace(home.uploader_log, home.uploader_log.with_suffix(".log.1"))


def start_uploader(home: Home, system: System, command: Sequence[str]) -> None:
    """Start a process that writes into the uploader's log. Raises OSError."""
    with open(os.open(home.uploader_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        children.append((home.root, system.start_process(command, home.root, uploader_variables(), log)))


def prepare_uploader(home: Home, tracking_uri: str) -> None:
    """Start a process that loads mlflow, and becomes the uploader when the first session of this process needs one.

    So mlflow is loaded while this process loads torch. Until it is asked, that process writes nothing but a lock, and
    only in a home that exists; it ends with this one. Does nothing if the home has an uploader already, or such a
    process of another command.
    """
    if tracking_uri == NO_STORE or prepared or any(map(SYSTEM.is_locked, (home.uploader_lock, home.prepared_lock))):
        return
    with contextlib.suppress(OSError):  # the session reports what is wrong
        child = subprocess.Popen(
            [*uploader_command(home), "--when-asked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=home.root.anchor,  # the home may not exist yet
            env={**os.environ, **uploader_variables()},
        )
        prepared.append((home.root, child))


def take_prepared(home: Home) -> subprocess.Popen[bytes] | None:
    """Ask the prepared process to be the home's uploader, and return it; None if there is none that answers."""
    for root, child in prepared:
        if root == home.root and child.stdin is not None and child.poll() is None:
            prepared.remove((root, child))
            try:
                child.stdin.write(b"\n")
                child.stdin.close()
            except OSError:
                break
            return child
    dismiss_prepared()
    return None


def dismiss_prepared() -> None:
    """End the prepared process, which isn't needed."""
    while prepared:
        _, child = prepared.pop()
        child.kill()
        child.communicate()


def uploader_command(home: Home) -> list[str]:
    """Return the command of a home's uploader."""
    return [sys.executable, "-m", "pgzoo.tracking.uploader", str(home.root)]


def uploader_variables() -> dict[str, str]:
    """Return the environment variables that an uploader gets beside those of this process."""
    # A `mlflow.py` lying in the working directory must not be imported instead of the real one.
    search = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(search)}


@atexit.register
def silence_popen_warnings() -> None:
    """Keep Popen from warning about uploader processes, which outlive this process on purpose."""
    for _, child in [*children, *prepared]:
        if child.poll() is None and isinstance(child, subprocess.Popen):
            child.returncode = 0


def user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def run_description(run_key: str, group: str, identity: Mapping[str, str], tags: Mapping[str, str]) -> str:
    command = f"\n\n    {tags['mlflow.source.name']}" if tags.get("mlflow.source.name") else ""
    seed = f", seed {identity['seed']}" if "seed" in identity else ""
    title = f"**{identity['algorithm']}** on **{identity['env']}**{seed}."
    return f"{title}{command}\n\nRun key `{run_key}`, group `{group}`."
