"""A broken or hostile tracking server causes no unbounded use of memory or time, and no loss of runs."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from program import Folder, eventually

from pgzoo.tracking import Home, pending

Answer = Callable[[BaseHTTPRequestHandler], None]
EXPERIMENTS = {"experiments": [{"experiment_id": "1", "name": "e", "lifecycle_stage": "active"}]}
COUNTER = itertools.count()


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Run an HTTP server on loopback that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with contextlib.suppress(OSError):
                answer(self)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 (the names are http.server's)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, value: object, status: int = 200) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def endless_body(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b'{"experiments": [' * 4096)


def endless_pages(handler: BaseHTTPRequestHandler) -> None:
    say(handler, {"next_page_token": f"page-{next(COUNTER)}"} | EXPERIMENTS)


def strange_ids(handler: BaseHTTPRequestHandler) -> None:
    if "experiments" in handler.path:
        return say(handler, EXPERIMENTS)
    info = {"run_id": "../../etc/passwd", "experiment_id": "1", "lifecycle_stage": "active", "run_name": "r"}
    if "runs/search" in handler.path:
        return say(handler, {"runs": [{"info": info, "data": {}}]})
    return say(handler, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}, 404)


def endless_artifact(handler: BaseHTTPRequestHandler) -> None:
    run = "0" * 32
    where = {"artifact_uri": f"mlflow-artifacts:/1/{run}/artifacts", "lifecycle_stage": "active", "run_name": "r"}
    info = {"run_id": run, "run_uuid": run, "experiment_id": "1", "status": "FINISHED", "start_time": 1} | where
    tags = [{"key": "pgzoo.run_key", "value": "g-s0"}, {"key": "pgzoo.group", "value": "g"}]
    found = {"info": info, "data": {"tags": tags, "params": [{"key": "seed", "value": "0"}]}}
    if "mlflow-artifacts/artifacts?" in handler.path:
        return say(handler, {"files": [{"path": "config.yaml", "is_dir": False, "file_size": 10}]})
    if "mlflow-artifacts/artifacts/" in handler.path:
        return endless_body(handler)
    if "experiments" in handler.path:
        return say(handler, EXPERIMENTS)
    return say(handler, {"runs": [found]} if "runs/search" in handler.path else {"run": found})


@pytest.mark.parametrize(
    ("answer", "arguments", "message"),
    [
        (endless_body, ("compare", "a", "b"), "the server's response is too long"),
        # test_hostile_answers.py tests endless pages without the program
        pytest.param(endless_pages, ("compare", "a", "b"), "the server's list is too long", marks=pytest.mark.slow),
        (endless_artifact, ("evaluate", "r"), "the server's file is too long: stopped reading after 512 MiB"),
        pytest.param(strange_ids, ("compare", "r"), "which isn't valid", marks=pytest.mark.slow),
        pytest.param(strange_ids, ("evaluate", "r"), "which isn't valid", marks=pytest.mark.slow),
        (lambda handler: say(handler, b"who are you?", 401), ("evaluate", "r"), "MLFLOW_TRACKING_USERNAME"),
        pytest.param(
            lambda handler: say(handler, b"not you", 403), ("evaluate", "r"), "refuses access", marks=pytest.mark.slow
        ),
        pytest.param(
            lambda handler: say(handler, b"nothing here", 404),
            ("evaluate", "r"),
            "check the tracking URI",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["endless-body", "endless-pages", "endless-artifact", "ids-compare", "ids-evaluate", "401", "403", "404"],
)
def test_a_command_ends_with_one_error_message_and_bounded_memory(
    tmp_path: Path, answer: Answer, arguments: tuple[str, ...], message: str
) -> None:
    with serving(answer) as uri:
        _, err = Folder(tmp_path).pgzoo(*arguments, "--tracking-uri", uri, code=2)
    [error] = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert message in error and err.count(message) == 1
    assert "Downloading" not in err  # the progress bar of mlflow
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # KiB


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(endless_body, "the server's response is too long", marks=pytest.mark.slow),
        (lambda handler: say(handler, {}), "Is it an MLflow server?"),
        pytest.param(
            lambda handler: say(handler, b"who are you?", 401), "asks for credentials", marks=pytest.mark.slow
        ),
    ],
    ids=["endless-body", "empty-answers", "401"],
)
def test_a_run_stays_pending_while_the_server_is_broken(tmp_path: Path, answer: Answer, message: str) -> None:
    code = (
        "import sys\nfrom pgzoo import tracking\nhome = tracking.Home.find()\n"
        "session = tracking.Session(home, 'g', sys.argv[1])\n"
        "journal = session.journal('k', name='n', experiment='e', seed=0, algorithm='a', env='CartPole-v1')\n"
        "journal.record([1], {'m': 1.0})\njournal.end('FINISHED')\nsession.close(0)\n"
    )
    folder, home = Folder(tmp_path), Home.find({}, tmp_path)
    try:
        with serving(answer) as uri:
            subprocess.run([sys.executable, "-c", code, uri], cwd=tmp_path, env=folder.env, check=True, timeout=60)
            [error] = eventually(lambda: list(pending(home).errors.values()), 120)
            assert message in error
            left = pending(home)
            assert (left.runs, left.refused) == (1, 0)
            [pid] = folder.uploaders()
            status = Path(f"/proc/{pid}/status")
            if status.exists():
                [peak] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
                assert int(peak.split()[1]) < 2 * 2**20
    finally:
        folder.close()
