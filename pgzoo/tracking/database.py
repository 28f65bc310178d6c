"""The SQLite database of a store: created and migrated under another name, so that no interruption breaks it.

`python -m pgzoo.tracking.database > schema.sql` prints what MLflow's migrations make of an empty database. Executing
that takes a hundredth of the time. It is used where the installed MLflow has the same revision.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import mlflow
import sqlalchemy
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import FileLock
from mlflow.store.db import utils as _utils
from mlflow.store.tracking import sqlalchemy_store as _sqlalchemy_store

from pgzoo.errors import StoreError
from pgzoo.tracking.home import BROKEN_MARK, sqlite_uri
from pgzoo.tracking.schema import processes_with, schema_version

__all__ = ["prepare_database"]

logger = logging.getLogger("pgzoo.tracking")
utils: Any = _utils  # parts of it have no types
sqlalchemy_store: Any = _sqlalchemy_store

SCHEMA = Path(__file__).with_name("schema.sql")
COMPANIONS = ("", "-journal", "-wal", "-shm")
"""What SQLite appends to the name of a database for the files that belong to it."""
INTERRUPTED_MIGRATION = ("already exists", "duplicate column", "no such table", "no such column", "no such index")
"""Parts of the errors that a migration raises on a database whose creation was interrupted."""


def prepare_database(path: Path) -> None:
    """Make sure that the database at `path` exists and has the schema of the installed MLflow.

    A new database is built beside `path` and renamed when it is complete. An older one is migrated as a copy, which
    then replaces its content in one transaction; another copy is kept as `NAME.schema-REVISION`. An incomplete one
    without runs, left behind by an interrupted program, is renamed to `NAME.broken-TIME` and created again. Processes
    that call this at the same time wait for each other.

    Raises:
        StoreError: the database was made by a newer MLflow; it is older and another process has it open, such as the
            server of the older MLflow; or it is damaged and has runs.
        OSError, sqlalchemy.exc.OperationalError: it can't be read or written now (a full disk, a lock).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=120):
        scratch = path.with_name(f".{path.name}.new")
        remove(scratch)
        try:
            if not path.exists() or not path.stat().st_size:
                create(path, scratch)
            elif schema_version(path) != latest_version():
                migrate(path, scratch)
        finally:
            remove(scratch)
        with closing(sqlite3.connect(path, timeout=20)) as database:
            database.execute("PRAGMA journal_mode=WAL")


def create(path: Path, scratch: Path) -> None:
    """Build a database as `scratch` and rename it to `path`."""
    build(scratch)
    # A log that belonged to an earlier database of this name would be replayed into the new one.
    set_aside([file for file in database_files(path)[1:] if file.exists()], path)
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(scratch, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def migrate(path: Path, scratch: Path) -> None:
    """Bring an existing database to the latest schema, or replace it if it is half-made and has no runs."""
    check_not_newer(path)
    if users := processes_with(path):
        raise StoreError(
            f"The database {path} has the schema of an older MLflow, and can't be migrated while another process has "
            f"it open: {', '.join(users)}. Stop this process."
        )
    with closing(sqlite3.connect(path, timeout=20)) as original:
        before = original.execute("PRAGMA data_version").fetchone()
        with closing(sqlite3.connect(scratch)) as copy:
            original.backup(copy)
        try:
            build(scratch)
        except sqlalchemy.exc.OperationalError as error:
            if not any(part in str(error).lower() for part in INTERRUPTED_MIGRATION):
                raise
            if count_runs(original):
                raise StoreError(
                    f"The database {path} is damaged: a migration of its schema was interrupted ({error.orig}). "
                    "Restore it from a backup; or move it away and run `pgzoo sync`, which creates a new one."
                ) from error
            original.close()
            aside = set_aside([file for file in database_files(path) if file.exists()], path)
            logger.warning(
                "the database %s was half-made, because a program that created it was interrupted. It had no runs. "
                "It is now called %s, and a new one is made",
                *(path, aside.name),
            )
            remove(scratch)
            create(path, scratch)
            return
        if original.execute("PRAGMA data_version").fetchone() != before:
            raise OSError(f"{path} was written while it was being migrated; the migration is tried again")
        kept = keep_copy(original, path)
        with closing(sqlite3.connect(scratch)) as copy:
            copy.backup(original)
        logger.warning(
            "the database %s was migrated to the schema of MLflow %s. A copy with the old schema is %s; delete it when "
            "you don't need it",
            *(path, mlflow.__version__, kept.name),
        )


def keep_copy(original: sqlite3.Connection, path: Path) -> Path:
    """Copy a database that is about to be migrated; return the copy. A later attempt replaces it."""
    kept = path.with_name(f"{path.name}.schema-{schema_version(path)}")
    part = path.with_name(f".{kept.name}.part")
    remove(part)
    try:
        with closing(sqlite3.connect(part)) as copy:
            original.backup(copy)
        shutil.copymode(path, part)
        os.replace(part, kept)
    finally:
        remove(part)
    return kept


def build(file: Path) -> None:
    """Create or migrate MLflow's tables in a file that no other process uses, and close it."""
    if file.exists() or not (schema := known_schema()):
        migrate_tables(file)
    else:
        with closing(sqlite3.connect(file)) as database:
            database.executescript(schema)
    artifacts = file.absolute().parent / "mlartifacts"
    # adds the experiment "Default", whose artifacts go there
    sqlalchemy_store.SqlAlchemyStore(sqlite_uri(file), artifacts.as_uri()).engine.dispose()
    with suppress(OSError):  # MLflow has made the folder, which nobody may need
        artifacts.rmdir()


def migrate_tables(file: Path) -> None:
    """Create or migrate MLflow's tables by its own migrations, which take a second even where there is nothing yet."""
    url = sqlalchemy.URL.create("sqlite", database=str(file))
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    if file.exists():
        utils._upgrade_db(engine)
    else:
        utils._initialize_tables(engine)
    engine.dispose()


def known_schema() -> str:
    """Return the statements that make the schema of the installed MLflow, empty if they aren't known."""
    text = SCHEMA.read_text(encoding="utf-8")
    return text if f"INSERT INTO \"alembic_version\" VALUES('{latest_version()}');" in text else ""


def migrated_schema() -> str:
    """Return the statements that make what the migrations of the installed MLflow make."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "made.db")
        migrate_tables(file)
        with closing(sqlite3.connect(file)) as database:
            return "\n".join(["-- Made by `python -m pgzoo.tracking.database`.", *database.iterdump(), ""])


def latest_version() -> str:
    """Return the revision of the installed MLflow's schema."""
    return str(utils._get_latest_schema_revision())


def check_not_newer(path: Path) -> None:
    """Raise StoreError if the installed MLflow doesn't know the database's schema revision."""
    version = schema_version(path)
    if version is None:
        return
    try:
        ScriptDirectory.from_config(utils._get_alembic_config("")).get_revision(version)
    except CommandError as error:
        raise StoreError(
            f"The database {path} was made by a newer MLflow (schema revision {version}). Upgrade mlflow here, or "
            "choose another --tracking-uri."
        ) from error


def count_runs(database: sqlite3.Connection) -> int:
    """Return how many runs a database has, 0 if it has no table of runs."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
        return 0
    return int(database.execute("SELECT COUNT(*) FROM runs").fetchone()[0])


def database_files(path: Path) -> list[Path]:
    """Return the database's path and those of the files that SQLite keeps beside it."""
    return [path.with_name(path.name + suffix) for suffix in COMPANIONS]


def set_aside(files: list[Path], path: Path) -> Path:
    """Rename files of the database `path` so that they are no longer used; return the new name of the database."""
    aside = path.with_name(f"{path.name}{BROKEN_MARK}{time.strftime('%Y%m%d-%H%M%S')}")
    for file in files:
        os.replace(file, aside.with_name(aside.name + file.name.removeprefix(path.name)))
    return aside


def remove(path: Path) -> None:
    """Delete a scratch database, if there is one."""
    for file in database_files(path):
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    print(migrated_schema(), end="")
