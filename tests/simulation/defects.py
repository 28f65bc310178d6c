"""Defects that can be built into the uploader and the journal, to show that the simulation finds them.

Each function returns patches that replace parts of pgzoo with defective ones. The last seven are defects that the
simulation has found in pgzoo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

from pgzoo.tracking import http_limits, journal, run_upload, store
from pgzoo.tracking.journal import Journal
from pgzoo.tracking.run_upload import RunUpload
from pgzoo.tracking.store import Store


def acknowledge_first() -> list[Any]:
    """The offset is saved before the server has confirmed the records."""
    real = RunUpload._upload_batch

    def upload(self: RunUpload, server: Store, batch: Any) -> None:
        before, self.ledger.offset = self.ledger.offset, batch.offset
        self.save()
        self.ledger.offset = before
        real(self, server, batch)

    return [mock.patch.object(RunUpload, "_upload_batch", upload)]


def give_up_on_503() -> list[Any]:
    """A busy server is treated as one that refuses the records."""
    real = store.is_final
    return [mock.patch.object(store, "is_final", lambda error: "error responses" in str(error) or real(error))]


def ignore_lost_answers() -> list[Any]:
    """A request without an answer counts as successful."""
    real = Store.log

    def log(self: Store, *arguments: Any) -> None:
        with suppress(Exception):
            real(self, *arguments)

    return [mock.patch.object(Store, "log", log)]


def create_without_looking() -> list[Any]:
    """Each uploader creates the run, although another may have done so."""
    return [mock.patch.object(Store, "_find_run", return_value=None)]


def upload_unflushed_records() -> list[Any]:
    """Records are uploaded before they are flushed, so that a power cut may remove them from the journal."""
    return [mock.patch.object(run_upload, "sync_journal", return_value=None)]


def keep_duplicates() -> list[Any]:
    """Empty runs that a late or repeated request has created aren't deleted."""
    return [mock.patch.object(Store, "delete_duplicates", return_value=None)]


def end_at_once() -> list[Any]:
    """A run is ended although a late request may set it to RUNNING again."""
    return [mock.patch.object(Store, "must_wait", return_value=False)]


def write_reports_once() -> list[Any]:
    """A table that can't be written because the disk is full isn't tried again."""
    return [mock.patch.object(run_upload, "DISK_TROUBLE", ())]


def believe_web_pages() -> list[Any]:
    """A sign-in page that answers an upload counts as the server's answer."""
    return [mock.patch.object(http_limits, "PAGE_STARTS", (b"\0",))]


def lose_patience_at_once() -> list[Any]:
    """A record is rejected after the first answer that can't be understood."""
    return [mock.patch.object(store, "PATIENCE", 0), mock.patch.object(store, "succeeds", return_value=False)]


def forget_names() -> list[Any]:
    """The name of a new journal isn't flushed to disk."""
    return [mock.patch.object(journal, "sync_names", return_value=True)]


def save_ahead_of_the_journal() -> list[Any]:
    """A checkpoint is saved although records before it are only in memory."""
    real = Journal.sync

    def sync(self: Journal) -> bool:
        kept, self._backlog = self._backlog, bytearray()
        real(self)
        self._backlog = kept
        return True

    return [mock.patch.object(Journal, "sync", sync)]


DEFECTS: Mapping[str, Callable[[], list[Any]]] = {
    make.__name__: make
    for make in (
        acknowledge_first,
        give_up_on_503,
        ignore_lost_answers,
        create_without_looking,
        upload_unflushed_records,
        keep_duplicates,
        end_at_once,
        write_reports_once,
        believe_web_pages,
        lose_patience_at_once,
        forget_names,
        save_ahead_of_the_journal,
    )
}


@contextmanager
def built_in(name: str | None) -> Iterator[None]:
    """Apply the patches of a defect while the body runs; None applies none."""
    patches = DEFECTS[name]() if name else []
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
