"""Deletes a study: its folder on this machine, and its trials in an Optuna storage."""

from __future__ import annotations

import shutil

from pgzoo import tracking
from pgzoo.errors import StoreError, UsageError
from pgzoo.quiet import without_warnings
from pgzoo.search.storage import open_storage, storage_errors
from pgzoo.tracking.locks import is_locked

__all__ = ["delete_study", "refuse_while_training"]


def refuse_while_training(name: str, home: tracking.Home, storage: str | None) -> None:
    """Raise UsageError if a study can't be deleted now.

    Processes train its trials, or its trials are in a database and `storage` isn't given.
    """
    folder = home.root / "studies" / name
    if any(is_locked(file) for file in (folder / "workers").glob("*.lock")):
        raise UsageError(f"Processes train trials of the study {name}. Wait for them to end, or interrupt them.")
    if storage:
        running = _running(name, home, storage)
        if running:
            numbers = ", ".join(map(str, running))
            raise UsageError(
                f"Other processes train the trials {numbers} of the study {name}. Interrupt them. A process that was "
                "killed is noticed after a minute."
            )
    elif folder.exists() and not (folder / "journal.log").exists():
        raise UsageError(
            f"The trials of the study {name} are in a database. To delete them there, too, give its URL with --storage "
            "or PGZOO_STORAGE."
        )


def delete_study(name: str, home: tracking.Home, storage: str | None) -> None:
    """Delete a study from its Optuna storage, if it is there, and its folder on this machine. Raises StoreError."""
    folder = home.root / "studies" / name
    if storage:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with storage_errors(storage, folder):
                optuna.delete_study(study_name=name, storage=open_storage(storage, folder))
        except KeyError:
            pass  # it has been deleted before
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StoreError(f"Can't delete the folder of the study {name}, {folder}: {error.strerror}.") from error


def _running(name: str, home: tracking.Home, storage: str) -> list[int]:
    """Return the numbers of the trials that are being trained, after those without heartbeats have been ended."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = home.root / "studies" / name
    try:
        with storage_errors(storage, folder), without_warnings():  # ending stale trials is experimental
            study = optuna.load_study(study_name=name, storage=open_storage(storage, folder))
            optuna.storages.fail_stale_trials(study)
            return [trial.number for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,))]
    except KeyError:
        return []
