"""Homes, trainers and a tracking server, all real; the store is read with sqlite3, so that no test imports mlflow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from program import PATIENCE, Server, eventually, patient

from pgzoo.tracking import Home
from pgzoo.tracking.ledger import read_json

TRAINER = Path(__file__).with_name("trainer.py")


class Place:
    """A home, with methods that train in it and read its store."""

    def __init__(self, root: Path, database: Path | None = None, uri: str | None = None) -> None:
        self.home = Home.find({"PGZOO_HOME": str(root)})
        self.database = database or self.home.database
        self.uri = uri
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {"PGZOO_HOME": str(root)}
        self.children: list[subprocess.Popen[str]] = []

    def train(self, key: str, **options: Any) -> subprocess.Popen[str]:
        """Start a trainer; the last line of its output is JSON."""
        text = json.dumps({"key": key, "uri": self.uri, **options})
        child = subprocess.Popen(
            [sys.executable, str(TRAINER), text],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def result(self, child: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, err
        assert err == ""
        answer: dict[str, Any] = json.loads(out.splitlines()[-1])
        return answer

    def pgzoo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command; `sync` waits as long as it takes unless the test says how long."""
        command = [sys.executable, "-m", "pgzoo", *patient(arguments)]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Query the store's database."""
        if not self.database.exists():
            return []
        with contextlib.closing(sqlite3.connect(self.database, timeout=PATIENCE)) as database:
            try:
                return database.execute(query, values).fetchall()
            except sqlite3.OperationalError:  # no table yet
                return []

    def run(self, key: str) -> tuple[str, str, int | None] | None:
        """Return (id, status, end time) of the one run with this key."""
        rows = self.ask(
            "SELECT r.run_uuid, r.status, r.end_time FROM runs r JOIN tags t ON r.run_uuid = t.run_uuid "
            "WHERE t.key = 'pgzoo.run_key' AND t.value = ?",
            key,
        )
        assert len(rows) <= 1, f"run {key} is there {len(rows)} times"
        return rows[0] if rows else None

    def metrics(self, key: str, name: str) -> list[tuple[int, float]]:
        """Return the sorted (step, value) rows of a metric."""
        found = self.run(key)
        rows = self.ask("SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ?", found and found[0], name)
        return sorted(rows)

    def uploader(self) -> int:
        return int(read_json(self.home.status_file)["pid"])

    @staticmethod
    def eventually(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """Call `what` until its answer is truthy, and return that answer."""
        return eventually(what, seconds)

    def close(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(self.uploader(), signal.SIGKILL)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A home with the default SQLite store."""
    place = Place(tmp_path_factory.mktemp("embedded"))
    yield place
    place.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    """A tracking server, not started yet."""
    server = Server(tmp_path_factory.mktemp("server"), database=empty_database)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def remote(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Place]:
    """A home whose runs are uploaded to the server."""
    place = Place(tmp_path_factory.mktemp("remote"), server.database, server.uri)
    yield place
    place.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A separate home for each test."""
    place = Place(tmp_path)
    yield place
    place.close()
