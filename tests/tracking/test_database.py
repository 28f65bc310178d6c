"""Creating and migrating the store's database, with processes that are killed while they create it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from program import eventually

from pgzoo.tracking.schema import is_outdated, processes_with, schema_version

ROOT = Path(__file__).parents[2]
PREPARE = "import sys, pathlib; import pgzoo.tracking.store; from pgzoo.tracking.database import *\n"
PREPARE += "prepare_database(pathlib.Path(sys.argv[1]))"
MIGRATE = PREPARE.replace("prepare_database(", "database.known_schema = str; prepare_database(")
MIGRATE = f"from pgzoo.tracking import database; {MIGRATE}"
"""Creates the database by MLflow's migrations, which take long enough for the process to be killed."""


def prepare(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PREPARE, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def kill_while_preparing(path: Path) -> Path:
    """Kill a process with SIGKILL while it creates a database; return the file that it left."""
    scratch = path.with_name(f".{path.name}.new")
    with subprocess.Popen(
        [sys.executable, "-c", MIGRATE, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        eventually(lambda: scratch.exists() and has_table(scratch, "alembic_version"), 240)
        child.kill()
    return scratch


def has_table(path: Path, name: str) -> bool:
    return name in tables(path)


def tables(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=600)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_an_incomplete_database_is_replaced_unless_it_contains_runs(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    scratch = kill_while_preparing(path)
    assert scratch.exists() and not path.exists()
    assert prepare(path).returncode == 0
    whole = tables(path)
    assert {"runs", "webhooks", "logged_models"} <= whole
    assert names(tmp_path) == {"mlflow.db", ".mlflow.db.lock"}
    # State after a killed in-place migration: tables of a revision that isn't recorded yet.
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


DESCRIBE = """
import json, pathlib, sqlite3, sys
import pgzoo.tracking.store
from pgzoo.tracking import database
if sys.argv[2] == "migrated":
    database.known_schema = str
path = pathlib.Path(sys.argv[1])
database.prepare_database(path)
content = sqlite3.connect(path)
def parts(sql):  # migrations write the constraints of a table in any order
    return sorted(part.strip() for part in (sql or "").strip().removesuffix(")").split(", \\n"))
rows = content.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
made = [sorted(([*names, parts(sql)] for *names, sql in rows), key=str)]
for (table,) in content.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
    columns = [name for _, name, *_ in content.execute(f'PRAGMA table_info("{table}")') if "_time" not in name]
    made.append([table, content.execute(f'SELECT {", ".join(columns)} FROM "{table}"').fetchall()])
print(json.dumps(sorted(made, key=str)))
"""


@pytest.mark.skipif(
    f"mlflow=={version('mlflow')}\n" not in (ROOT / "constraints.txt").read_text(),
    reason="schema.sql is that of the MLflow in constraints.txt",
)
def test_a_new_database_has_the_tables_and_rows_that_migrations_make(tmp_path: Path) -> None:
    made = {}
    for way in ("known", "migrated"):
        folder = tmp_path / way
        command = [sys.executable, "-c", DESCRIBE, str(folder / "mlflow.db"), way]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ("database tables" in done.stderr) == (way == "migrated"), "make schema.sql anew, as its first line says"
        assert f"{folder.as_uri()}/mlartifacts/0" in done.stdout  # of the experiment "Default"
        assert not (folder / "mlartifacts").exists()
        made[way] = json.loads(done.stdout.replace(folder.as_uri(), ""))
    assert json.dumps(made["known"]) == json.dumps(made["migrated"])


OLDER = """
import pathlib, sys, sqlalchemy
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db import utils
path = pathlib.Path(sys.argv[1])
engine = sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool)
utils.InitialBase.metadata.create_all(engine)
config = utils._get_alembic_config(str(engine.url))
script = ScriptDirectory.from_config(config)
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, script.get_revision(script.get_heads()[0]).down_revision)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system doesn't tell which files are open")
def test_an_older_database_is_copied_and_migrated_unless_a_process_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    subprocess.run([sys.executable, "-c", OLDER, str(path)], check=True, capture_output=True)
    change(path, "INSERT INTO runs (run_uuid, lifecycle_stage) VALUES ('r', 'active')")
    old = schema_version(path)
    assert is_outdated(path)
    with contextlib.closing(sqlite3.connect(path)) as used:
        used.execute("SELECT * FROM runs").fetchall()
        done = prepare(path)
        assert (
            done.returncode == 1 and schema_version(path) == old and names(tmp_path) == {path.name, ".mlflow.db.lock"}
        )
        assert f"can't be migrated while another process has it open: {os.getpid()} (" in done.stderr.splitlines()[-1]
    done = prepare(path)
    assert done.returncode == 0 and f"A copy with the old schema is mlflow.db.schema-{old}" in done.stderr
    copy = tmp_path / f"mlflow.db.schema-{old}"
    assert schema_version(copy) == old and not is_outdated(path) and schema_version(path) != old
    for file in (path, copy):
        assert change(file, "SELECT run_uuid FROM runs") == [("r",)]
    assert names(tmp_path) == {path.name, copy.name, ".mlflow.db.lock"}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system doesn't tell which files are open")
def test_the_schema_of_a_database_and_its_users_are_found_and_mlflow_is_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    change(path, "CREATE TABLE alembic_version (version_num TEXT)")
    assert schema_version(path) is None and not is_outdated(path)
    change(path, "INSERT INTO alembic_version VALUES ('bda7b8c39065')")  # MLflow 3.1
    assert schema_version(path) == "bda7b8c39065" and is_outdated(path)
    assert processes_with(path) == []
    code = "import sys; from pathlib import Path; from pgzoo.tracking.schema import *\n"
    code += "path = Path(sys.argv[1]); file = path.open(); found = is_outdated(path), processes_with(path)\n"
    code += "print(*found, 'mlflow' in sys.modules, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "True [] False\n"
        [user] = processes_with(path)
        assert user.startswith(f"{child.pid} (") and "import sys" in user
        child.communicate()
    assert processes_with(path) == []


def names(folder: Path) -> set[str]:
    """Return the names of the files in a folder, except those that SQLite keeps next to a database in use."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))}


def change(path: Path, statement: str) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(path, timeout=600)) as database, database:
        return database.execute(statement).fetchall()
