"""Measure trainers that log to one MLflow server at the same time; writes a table into docs/team-server.md.

    python benchmarks/team.py [--trainers 1 10] [--total-steps 40000]

Starts PostgreSQL and an MLflow server with basic authentication, which stores the artifacts, on this machine. Then it
starts N trainers at once, each in its own folder with its own uploader, as on N machines, and compares the store with
their journals. It needs `apt-get install postgresql` and `pip install psycopg2-binary Flask-WTF`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from faults.scenarios import Postgres, ask  # noqa: E402
from page import put, table  # noqa: E402
from program import QUIET, Folder, Server, eventually  # noqa: E402

from pgzoo.tracking.journal import records  # noqa: E402
from pgzoo.tracking.run_upload import metric_rows  # noqa: E402

ADMIN, USER = ("admin", "admin-secret-123"), ("trainer", "trainer-secret-1")
WORKERS = 2
LOG_EVERY = 200
HEAD = (
    "trainers", "points", "points lost", "points stored twice", "files lost", "seconds until all trainers ended",
    "seconds until all was uploaded", "points per second", "longest time on tracking and checkpoints, s",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What the store has of the runs of some trainers, and how long it took."""

    trainers: int
    points: int
    lost: int
    twice: int
    files_lost: int
    trained: float
    """Seconds from the first start to the end of the last trainer, which waits up to ten seconds for its upload."""
    total: float
    """Seconds from the first start until everything was uploaded."""
    tracking: float
    """Longest time that a training loop spent on tracking."""

    def cells(self) -> tuple[str, ...]:
        """Return a row of the table."""
        return (
            str(self.trainers), f"{self.points:,}", str(self.lost), str(self.twice), str(self.files_lost),
            f"{self.trained:.0f}", f"{self.total:.0f}", f"{self.points / self.total:,.0f}", f"{self.tracking:.2f}",
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure trainers that log to one MLflow server at the same time.")
    parser.add_argument("--trainers", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--total-steps", type=int, default=40_000)
    options = parser.parse_args()
    if reason := Postgres.missing() or missing():
        raise SystemExit(reason)
    rows = []
    for count in options.trainers:
        rows.append(measure(count, options.total_steps).cells())
        print(dict(zip(HEAD, rows[-1], strict=True)), flush=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("pgzoo", "mlflow"))
    made = f"*Made by `python benchmarks/team.py` on {time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores, {versions}.*"
    put(ROOT / "docs" / "team-server.md", "ten-trainers", f"{table(HEAD, rows)}\n\n{made}")


def missing() -> str:
    """Return what MLflow's basic authentication lacks on this machine, or an empty string."""
    return "" if find_spec("flask_wtf") else "what MLflow's sign-in needs isn't installed: pip install Flask-WTF"


def measure(trainers: int, total_steps: int) -> Measured:
    """Start trainers at once on a fresh server, wait until everything is uploaded, and compare."""
    words = ["run", "reinforce", "--env", "CartPole-v1", "--preset", "none", "--log-every", str(LOG_EVERY)]
    words += ["--total-steps", str(total_steps), "--eval-episodes", "10", "--json", "--seed"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path, serving(Path(path)) as (server, database):
        folders = []
        for number in range(trainers):
            (place := Path(path) / f"trainer-{number}").mkdir()
            folder = Folder(place, MLFLOW_TRACKING_URI=server.uri)
            folder.env |= {"MLFLOW_TRACKING_USERNAME": USER[0], "MLFLOW_TRACKING_PASSWORD": USER[1]}
            folders.append(folder)
        try:
            begin = time.perf_counter()
            children = [folder.start(*words, str(number)) for number, folder in enumerate(folders)]
            answers = []
            for folder, child in zip(folders, children, strict=True):
                out, err = child.communicate()
                if child.returncode:
                    raise SystemExit(f"a trainer failed:\n{err}")
                answers.append(folder.parse(out))
            trained = time.perf_counter() - begin
            for folder in folders:
                folder.pgzoo("sync", "--wait", "600")
            total = time.perf_counter() - begin
        finally:
            for folder in folders:
                folder.close()
        points = lost = twice = files_lost = 0
        for folder in folders:
            counts = compare(folder, database, server.path / "files")
            points, lost, twice, files_lost = (
                a + b for a, b in zip((points, lost, twice, files_lost), counts, strict=True)
            )
        tracking = max(answer["timing"]["track"] for answer in answers)
        return Measured(trainers, points, lost, twice, files_lost, trained, total, tracking)


def compare(folder: Folder, database: str, files: Path) -> tuple[int, int, int, int]:
    """Return the points of a trainer's run, those that the store lacks or has twice, and the files that it lacks."""
    [run] = (folder.path / ".pgzoo" / "runs").iterdir()
    run_id = folder.run_id(run.name)
    shipped = ask(database, "SELECT key, value, timestamp, step FROM metrics WHERE run_uuid = ?", run_id)
    written = {row for record, _ in records(run) if record and "m" in record for row in metric_rows(record)}
    [stored] = files.glob(f"*/{run_id}/artifacts")
    local = {file.relative_to(run / "artifacts") for file in (run / "artifacts").rglob("*") if file.is_file()}
    missing = [file for file in local if not (stored / file).is_file()]
    twice = len(shipped) - len({(name, step) for name, _, _, step in shipped})
    return len(written), len(written - set(shipped)), twice, len(missing)


@contextmanager
def serving(path: Path) -> Iterator[tuple[Server, str]]:
    """Start PostgreSQL, an MLflow server with basic authentication and its user; yield it and its database's URI."""
    postgres = Postgres()
    try:
        postgres.start()
        users = postgres.uri.removesuffix("/postgres") + "/template1"
        (path / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = EDIT\ndatabase_uri = {users}\nadmin_username = {ADMIN[0]}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "auth_cache_ttl_seconds = 60\n",
            encoding="utf-8",
        )
        server = Server(path, postgres.uri)
        environ = {
            "MLFLOW_AUTH_CONFIG_PATH": str(path / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-for-this-benchmark",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--port", str(server.port)]
        command += ["--workers", str(WORKERS), "--backend-store-uri", postgres.uri]
        command += ["--artifacts-destination", str(path / "files")]
        with (path / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **QUIET, **environ},
                cwd=path,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            eventually(lambda: server.up() or process.poll() is not None)
            if process.poll() is not None:
                raise SystemExit((path / "server.log").read_text())
            add_user(server.uri)
            yield server, postgres.uri
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    finally:
        postgres.close()


def add_user(uri: str) -> None:
    """Add the user of the trainers."""
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/users/create",
        json.dumps({"username": USER[0], "password": USER[1]}).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(':'.join(ADMIN).encode()).decode()}",
        },
    )
    with urllib.request.urlopen(request, timeout=60):
        pass


if __name__ == "__main__":
    main()
