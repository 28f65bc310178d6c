"""The storage of a study: a journal file, or a database that several machines share."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgzoo import tracking
from pgzoo.errors import StoreError
from pgzoo.quiet import without_warnings
from pgzoo.tracking.home import missing_driver, redact

__all__ = ["GRACE", "HEARTBEAT", "has_heartbeats", "lost_storage", "open_storage", "storage_errors"]

_log = logging.getLogger("pgzoo")

HEARTBEAT, GRACE = 10, 60
"""In a database, a trial has a heartbeat every HEARTBEAT seconds. After GRACE seconds without one it is abandoned."""

PATIENCE = 300
"""Longest time to wait for a database that was reachable at the start, in seconds."""


def open_storage(url: str | None, folder: Path) -> Any:
    """Return the Optuna storage of a URL, or the journal file of the study."""
    import optuna

    if url:
        with without_warnings():  # heartbeats are experimental
            storage = optuna.storages.RDBStorage(
                url, engine_kwargs={"pool_pre_ping": True}, heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
        _reconnect_patiently(storage.engine)
        return storage
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "journal.log"
    return optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(path), lock_obj=_JournalLock(path.with_suffix(".lock")))
    )


def _reconnect_patiently(engine: Any) -> None:
    """Make new connections wait for a database that is down, so that a restart of it doesn't end the search."""
    import sqlalchemy

    def connect(dialect: Any, record: Any, arguments: Any, keywords: Any) -> Any:
        deadline, warned = time.monotonic() + PATIENCE, False
        while True:
            try:
                return dialect.connect(*arguments, **keywords)
            except dialect.loaded_dbapi.OperationalError as error:
                if time.monotonic() > deadline:
                    raise
                if not warned:
                    reason = redact(str(error).partition("\n")[0])
                    _log.warning("The Optuna storage can't be reached, trying again for %d s: %s", PATIENCE, reason)
                warned = True
                time.sleep(1.0)

    sqlalchemy.event.listen(engine, "do_connect", connect)


def has_heartbeats(storage: Any) -> bool:
    """Return whether the storage takes heartbeats: a database does, a journal file doesn't."""
    import optuna

    return isinstance(storage, optuna.storages.RDBStorage)


@contextmanager
def storage_errors(url: str | None, folder: Path) -> Iterator[None]:
    """Turn errors of opening an Optuna storage, except KeyError for a study that it doesn't have, into StoreError."""
    try:
        yield
    except KeyError:
        raise
    except Exception as error:
        shown = tracking.display_uri(url or str(folder))
        reason = (url and missing_driver(url)) or f"{type(error).__name__}: {redact(str(error).partition(chr(10))[0])}"
        raise StoreError(f"The Optuna storage {shown} can't be used: {reason}") from error


@contextmanager
def lost_storage(url: str | None, study: str) -> Iterator[None]:
    """Turn the errors of a database that fails during a search into StoreError."""
    import optuna

    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        shown = tracking.display_uri(url or "")
        reason = redact(str(error.__cause__ or error).partition("\n")[0])
        raise StoreError(
            f"The Optuna storage {shown} failed: {reason}. Finished trials are in it. To continue the search, repeat "
            f"the command with --study {study}."
        ) from error


class _JournalLock:
    """The lock of a journal file, which the kernel releases when the process is killed."""

    def __init__(self, path: Path) -> None:
        from filelock import FileLock

        self._lock = FileLock(path, thread_local=False)

    def acquire(self) -> bool:
        """Wait for the lock; return True."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()
