"""Deletes runs: their folders on this machine, and, as far as it can be reached, their entries in the store."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.errors import StoreError, UsageError
from pgzoo.tracking.home import NO_STORE, Home
from pgzoo.tracking.ledger import in_training
from pgzoo.tracking.locks import lock
from pgzoo.tracking.lookup import Found, query_store

__all__ = ["Deleted", "delete_runs"]

MAX_NAMED = 5


@dataclass(frozen=True)
class Deleted:
    """Number of `folders` deleted on this machine and of runs `marked` as deleted in a store; what went wrong."""

    folders: int
    marked: int
    warnings: tuple[str, ...]


def delete_runs(runs: Sequence[Found], home: Home, progress: Callable[[int], None]) -> Deleted:
    """Delete the folders of runs that aren't in training, then mark the runs as deleted in their stores.

    MLflow keeps a run that is marked as deleted until `mlflow gc`. A store that can't be reached is a warning.
    `progress` is called with the number of folders and entries deleted so far.

    Raises UsageError, before anything is deleted, if one of the runs is being written; StoreError if a folder can't
    be deleted.
    """
    refuse_in_training(runs)
    folders = [run.path for run in runs if run.path is not None]
    for count, folder in enumerate(folders, 1):
        delete_folder(folder)
        progress(count)
    by_store: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        has_store = run.tracking_uri != NO_STORE and (run.tracking_uri != home.default_uri or home.database.exists())
        if run.run_id is not None and has_store:
            by_store[run.tracking_uri].append(run.run_id)
    marked, warnings = 0, []
    for uri, run_ids in by_store.items():

        def mark(client: Any, run_ids: Sequence[str] = run_ids) -> None:
            from pgzoo.tracking.store import is_final

            nonlocal marked
            for run_id in run_ids:
                try:
                    client.delete_run(run_id)
                except Exception as error:
                    if not is_final(error):
                        raise
                    continue  # it has been deleted there before
                marked += 1
                progress(len(folders) + marked)
                shutil.rmtree(home.root / "downloads" / run_id, ignore_errors=True)

        try:
            query_store(uri, mark, "the deletion of runs")
        except StoreError as error:
            warnings.append(f"Runs weren't marked as deleted in MLflow; delete them in its interface. {error}")
    return Deleted(len(folders), marked, tuple(warnings))


def refuse_in_training(runs: Sequence[Found]) -> None:
    """Raise UsageError if one of the runs is being written by a process of this machine."""
    written = [run.run_key for run in runs if run.path is not None and in_training(run.path)]
    if written:
        names = ", ".join(written[:MAX_NAMED]) + (", ..." if len(written) > MAX_NAMED else "")
        raise UsageError(f"These runs are being written by a process: {names}. Wait for it to end, or interrupt it.")


def delete_folder(folder: Path) -> None:
    """Delete the folder of a run while holding its lock. Raises UsageError if a process holds it, StoreError."""
    mine = None
    try:
        mine = lock(folder / "lock", timeout=1.0)
        if mine is None:
            raise UsageError(f"Run {folder.name} is being written by a process. Wait for it to end, or interrupt it.")
        # The journal goes first: without it, the uploader and the listing consider the run deleted.
        (folder / "journal.jsonl").unlink(missing_ok=True)
        shutil.rmtree(folder)
    except OSError as error:
        raise StoreError(f"Can't delete the folder of run {folder.name}, {folder}: {error.strerror}.") from error
    finally:
        if mine is not None:
            mine.release()
