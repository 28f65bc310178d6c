"""Runs the real program as a user does, with real processes, folders, stores and servers; nothing is mocked.

Some commands run in forks of a process that has imported torch; they don't differ from others otherwise (see forks.py).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import forks

from pgzoo.tracking.ledger import Ledger

PGZOO = [sys.executable, "-m", "pgzoo"]
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
PLUGIN = Path(__file__).parent / "e2e" / "animals.py"
"""Environments and algorithms for these tests, loaded with `--import`."""
USE_TORCH = ("run", "resume", "evaluate", "export", "repro", "sweep", "video")

PATIENCE = 600.0
"""Seconds that a test waits for something that must happen: far more than it takes on a busy machine."""


def eventually(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Call `what` until its answer is truthy, and return that answer; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        time.sleep(0.1)
    return answer


def patient(args: tuple[str, ...]) -> tuple[str, ...]:
    """Return the arguments of a command, with a long `--wait` for `sync` unless they have one."""
    return (*args, "--wait", str(PATIENCE)) if args[0] == "sync" and "--wait" not in args else args


def read_until(stream: IO[str] | None, text: str) -> str:
    """Read the lines of a process's output up to the first one that contains `text`, and return them all."""
    assert stream is not None
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"the output ended without {text!r}:\n{''.join(lines)}")


class Folder:
    """A fresh working directory in which commands are run. `close` ends every process that was started there."""

    command, plugin = PGZOO, str(PLUGIN)

    def __init__(self, path: Path, database: Path | None = None, forks: bool = False, **env: str) -> None:
        """Let the first run begin with a copy of `database`, which has no runs: creating one takes a second per test.

        With `forks`, the method `pgzoo` runs commands that need torch in forks (see forks.py).
        """
        self.path, self.database, self.forks = path, database, forks
        self.children: list[subprocess.Popen[str]] = []
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_", "COLUMNS"))}
        self.env = {**inherited, **QUIET, **env}

    def start(self, *args: str, new_session: bool = False, **env: Any) -> subprocess.Popen[str]:
        """Start `pgzoo ARGS` with these environment variables, in a process group of its own if `new_session`."""
        child = subprocess.Popen(
            [*PGZOO, *args],
            cwd=self.path,
            env=self.prepare(args, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=new_session,
        )
        self.children.append(child)
        return child

    def prepare(self, args: tuple[str, ...], env: dict[str, str]) -> dict[str, str]:
        """Copy the database here if this command would create one; return the command's environment variables."""
        environ = {**self.env, **env}
        elsewhere = "--tracking-uri" in args or environ.keys() & {"MLFLOW_TRACKING_URI", "PGZOO_HOME"}
        if self.database and args[0] == "run" and not elsewhere and not (self.path / ".pgzoo").exists():
            shutil.copyfile(self.database, self.path / "mlflow.db")
        return environ

    def pgzoo(self, *args: str, code: int = 0, **env: Any) -> tuple[str, str]:
        """Run a command to its end and return what it wrote to stdout and stderr.

        Some commands report progress only on a busy machine: these get `--no-progress`. `sync` gets a long `--wait`.
        """
        quiet = ["--no-progress"] if args[0] in ("evaluate", "export", "repro", "video") else []
        args = (*patient(args), *(option for option in quiet if option not in args))
        environ = self.prepare(args, env)
        if self.forks and args[0] in USE_TORCH and forks.can_fork(environ):
            ended, out, err = forks.pgzoo(args, self.path, environ)
        else:
            child = self.start(*args, **env)
            out, err = child.communicate(timeout=PATIENCE)
            ended = child.returncode
        assert ended == code, f"{args}: exit code {ended}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return out, err

    def run(self, *args: str, code: int = 0, **env: Any) -> dict[str, Any]:
        """Run `pgzoo run ARGS --json`; return its result when everything has been uploaded."""
        answer = self.parse(self.pgzoo("run", *args, "--json", code=code, **env)[0])
        self.sync(**env)
        for seed in answer["seeds"]:  # on a busy machine, `answer` may not have the id yet
            run_id = self.run_id(seed["run_key"])
            assert seed["run_id"] in (None, run_id)
            seed["run_id"] = run_id
        return answer

    def sync(self, **env: Any) -> None:
        """Run `pgzoo sync` if any journal hasn't been uploaded completely."""
        for journal in self.path.rglob("runs/*/journal.jsonl"):
            ledger = Ledger.read(journal.parent)
            if not ledger.closed or ledger.offset < journal.stat().st_size:
                return self.sync_all(**env)
        return None

    def sync_all(self, **env: Any) -> None:
        """Wait until everything is in the store, including the plots, which come last."""
        self.pgzoo("sync", **env)

    def run_id(self, run_key: str) -> str:
        """Return the id that the tracking store gave to an uploaded run."""
        shipped = next(self.path.rglob(f"runs/{run_key}/run.json"))
        return str(json.loads(shipped.read_text())["run_id"])

    @staticmethod
    def parse(out: str) -> dict[str, Any]:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        answer: dict[str, Any] = json.loads(out.splitlines()[-1], parse_constant=refuse)
        return answer

    def ask(self, code: str, uri: str = "") -> Any:
        """Evaluate an expression that uses `client`, an MlflowClient, in another process."""
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
        for child in self.children:
            child.kill()
            child.wait()
            for pipe in (child.stdout, child.stderr):
                assert pipe is not None
                pipe.close()
        for pid in self.uploaders():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


class Server:
    """An `mlflow server` on loopback that can be killed and started again."""

    def __init__(self, path: Path, store: str = "", database: Path | None = None) -> None:
        """Keep runs in the database `store`, or else in an SQLite file in the folder `path`.

        That file begins as a copy of `database`, which has no runs: a server takes a second to create one.
        """
        self.path, self.database = path, path / "server.db"
        if database is not None:
            shutil.copyfile(database, self.database)
        self.store = store or f"sqlite:///{self.database}"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server unless it is running; return when it answers."""
        if self.process is not None:
            return
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
        eventually(self.up)

    def up(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=10):
            return True
        return False

    def kill(self) -> None:
        """Kill the server and its workers immediately, as a power failure would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


SESSION = """
import json, sys, traceback, warnings
warnings.simplefilter("ignore")
from mlflow import MlflowClient

def tree(run, path=None):
    for f in client.list_artifacts(run, path):
        yield from tree(run, f.path) if f.is_dir else [f.path]

def runs(name):
    return client.search_runs([client.get_experiment_by_name(name).experiment_id])

def look(run, *metrics):
    curves = {m: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, m)] for m in metrics}
    return dict(name=run.info.run_name, status=run.info.status, id=run.info.run_id, tags=run.data.tags,
        params=run.data.params, metrics=run.data.metrics, curves=curves, files=sorted(tree(run.info.run_id)))

for line in sys.stdin:
    uri, code = json.loads(line)
    try:
        client = MlflowClient(uri)
        answer = [eval(code), None]
    except Exception:
        answer = [None, traceback.format_exc()]
    print("answer", json.dumps(answer), flush=True)
"""


@functools.cache
def mlflow_session() -> subprocess.Popen[str]:
    """Start the process that queries tracking stores; there is only one, because importing mlflow takes seconds."""
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **QUIET},
    )
    assert session.stdin is not None and session.stdout is not None
    atexit.register(session.wait)
    atexit.register(session.stdout.close)
    atexit.register(session.stdin.close)  # the first of the three to be called
    return session


def ask(uri: str, code: str) -> Any:
    """Evaluate an expression that uses `client`, an MlflowClient of this store, in another process."""
    session = mlflow_session()
    assert session.stdin is not None
    session.stdin.write(json.dumps([uri, code]) + "\n")
    session.stdin.flush()
    line = read_until(session.stdout, "answer").splitlines()[-1]
    answer, error = json.loads(line.removeprefix("answer "))
    assert error is None, error
    return answer
