"""The real program as its user runs it: processes, folders, stores and servers; nothing is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PGZOO = [sys.executable, "-m", "pgzoo"]
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
PLUGIN = Path(__file__).parent / "e2e" / "animals.py"
"""Environments and algorithms for these tests, taken in by `--import`."""


def eventually(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return the first truthy answer."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        time.sleep(0.1)
    return answer


class Folder:
    """A fresh working directory in which somebody types commands."""

    command, plugin = PGZOO, str(PLUGIN)

    def __init__(self, path: Path, **env: str) -> None:
        self.path = path
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_", "COLUMNS"))}
        self.env = {**inherited, **QUIET, **env}

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PGZOO, *args],
            cwd=self.path,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pgzoo(self, *args: str, code: int = 0, **env: str) -> tuple[str, str]:
        """Run a command to its end and return what it wrote to stdout and stderr."""
        child = self.start(*args, **env)
        out, err = child.communicate(timeout=180)
        assert child.returncode == code, f"{args}: exit code {child.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return out, err

    def run(self, *args: str, code: int = 0, **env: str) -> dict[str, Any]:
        """`pgzoo run ARGS --json`: its answer, once all is shipped."""
        answer = self.parse(self.pgzoo("run", *args, "--json", code=code, **env)[0])
        self.pgzoo("sync", **env)
        for seed in answer["seeds"]:  # on a busy machine the answer comes before the run has an id
            shipped = next(self.path.rglob(f"runs/{seed['run_key']}/run.json"))
            assert seed["run_id"] in (None, json.loads(shipped.read_text())["run_id"])
            seed["run_id"] = json.loads(shipped.read_text())["run_id"]
        return answer

    @staticmethod
    def parse(out: str) -> dict[str, Any]:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        answer: dict[str, Any] = json.loads(out.splitlines()[-1], parse_constant=refuse)
        return answer

    def ask(self, code: str, uri: str = "") -> Any:
        """Evaluate an expression over `client`, an MlflowClient, in a process of its own."""
        return ask(uri or f"sqlite:///{self.path}/mlflow.db", code)

    eventually = staticmethod(eventually)

    @property
    def created(self) -> set[str]:
        return {p.name for p in self.path.iterdir()}

    def uploaders(self) -> list[int]:
        pids = []
        for status in self.path.rglob("status.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                pids.append(int(json.loads(status.read_text())["pid"]))
        return pids

    def close(self) -> None:
        for pid in self.uploaders():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


class Server:
    """An `mlflow server` on loopback that can be killed and started again."""

    def __init__(self, path: Path, store: str = "") -> None:
        """Keep runs in the database `store`, or else in an SQLite file in the folder `path`."""
        self.path, self.database = path, path / "server.db"
        self.store = store or f"sqlite:///{self.database}"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        where = ["--backend-store-uri", self.store, "--artifacts-destination", str(self.path / "files")]
        with (self.path / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *where, "--port", str(self.port), "--workers", "1"],
                env={**os.environ, **QUIET, "PATH": path},
                stdout=log,
                stderr=log,
                cwd=self.path,
                start_new_session=True,
            )
        eventually(self.up, 90)

    def up(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
            return True
        return False

    def kill(self) -> None:
        """End the server and its workers at once, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def ask(uri: str, code: str) -> Any:
    """Evaluate an expression over `client`, an MlflowClient, in a process of its own."""
    script = (
        "import json, sys, warnings\nwarnings.simplefilter('ignore')\nfrom mlflow import MlflowClient\n"
        f"client = MlflowClient({uri!r})\n"
        "def tree(run, path=None):\n"
        "    for f in client.list_artifacts(run, path):\n"
        "        yield from tree(run, f.path) if f.is_dir else [f.path]\n"
        "def runs(name):\n"
        "    return client.search_runs([client.get_experiment_by_name(name).experiment_id])\n"
        "def look(run, *metrics):\n"
        "    got = {m: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, m)] for m in metrics}\n"
        "    return dict(name=run.info.run_name, status=run.info.status, id=run.info.run_id, tags=run.data.tags,\n"
        "        params=run.data.params, metrics=run.data.metrics, curves=got, files=sorted(tree(run.info.run_id)))\n"
        f"print(json.dumps({code}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={**os.environ, **QUIET}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
