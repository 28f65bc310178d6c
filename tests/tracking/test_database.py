"""The store's database, with real processes that are killed while they make it."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

from program import eventually

PREPARE = "import sys, pathlib; import pgzoo.tracking.store; from pgzoo.tracking.database import *\n"
PREPARE += "prepare_database(pathlib.Path(sys.argv[1]))"


def prepare(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PREPARE, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def kill_while_preparing(path: Path) -> Path:
    """Start to make a database, kill the process with SIGKILL in the midst; return the file that it left."""
    scratch = path.with_name(f".{path.name}.new")
    with subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        eventually(lambda: scratch.exists() and has_table(scratch, "alembic_version"), 240)
        child.kill()
    return scratch


def has_table(path: Path, name: str) -> bool:
    return name in tables(path)


def tables(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=600)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_a_killed_process_leaves_no_half_made_database(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    scratch = kill_while_preparing(path)
    assert scratch.exists() and not path.exists()
    assert prepare(path).returncode == 0
    whole = tables(path)
    assert {"runs", "webhooks", "logged_models"} <= whole
    assert names(tmp_path) == {"mlflow.db", ".mlflow.db.lock"}
    # What a migration in place leaves when it is killed: tables of a revision that isn't noted yet.
    change(path, "DELETE FROM alembic_version")
    change(path, "INSERT INTO runs (run_uuid, lifecycle_stage) VALUES ('r', 'active')")
    done = prepare(path)
    assert done.returncode == 1
    assert f"StoreError: The database {path} is damaged" in done.stderr.splitlines()[-1]
    assert change(path, "SELECT run_uuid FROM runs") == [("r",)]
    change(path, "DELETE FROM runs")
    done = prepare(path)
    assert done.returncode == 0, done.stderr
    assert "half-made" in done.stderr
    assert tables(path) == whole
    [aside] = [p for p in tmp_path.glob("mlflow.db.broken-*") if p.name in names(tmp_path)]
    assert change(aside, "SELECT * FROM alembic_version") == []
    assert names(tmp_path) == {"mlflow.db", ".mlflow.db.lock", aside.name}


def names(folder: Path) -> set[str]:
    """The files in a folder, without those that SQLite keeps beside a database in use."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))}


def change(path: Path, statement: str) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(path, timeout=600)) as database, database:
        return database.execute(statement).fetchall()
