"""The schema of an SQLite database of MLflow, and the processes that have it open.

Doesn't import mlflow, which takes seconds.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path

from pgzoo.tracking.home import redact

__all__ = ["is_outdated", "processes_with", "schema_version"]


def schema_version(path: Path) -> str | None:
    """Return the schema revision of the database, None if it has no such table."""
    with closing(sqlite3.connect(path, timeout=20)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return None
        found = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(found[0]) if found else None


def is_outdated(path: Path) -> bool:
    """Return whether the database has an older schema than that of the installed MLflow.

    Each migration of MLflow is a file that names the revision before it, so only the latest is in none of them.
    """
    spec, version = find_spec("mlflow"), schema_version(path)
    folders = spec.submodule_search_locations if spec else None
    if version is None or not folders:
        return False
    follows = re.compile(rf"^down_revision = [\"']{re.escape(version)}[\"']", re.MULTILINE)
    files = Path(folders[0], "store", "db_migrations", "versions").glob("*.py")
    return any(follows.search(file.read_text(encoding="utf-8")) for file in files)


def processes_with(path: Path) -> list[str]:
    """Return the other processes that have a file open, as "PID COMMAND".

    Empty where the system doesn't tell: without /proc, and for processes of other users.
    """
    target, found = path.stat(), []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            if any(same_file(handle, target) for handle in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{process.name} ({redact(' '.join(command.split()))[:80]})")
    return sorted(found)


def same_file(handle: Path, target: os.stat_result) -> bool:
    """Return whether an entry of /proc/PID/fd is this file."""
    try:
        return os.path.samestat(handle.stat(), target)
    except OSError:
        return False
