"""`pgzoo ui`: open MLflow's web interface at the learning curves of the newest experiment."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import click

from pgzoo.cli import common
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    import subprocess

    from pgzoo.tracking import Home

__all__ = ["command", "deep_link"]

STARTING = 120.0
"""Seconds to wait for a server's first answer."""
EXPERIMENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@click.command("ui")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; default: 5000, or the next free one.")
@click.option("--no-browser", is_flag=True, help="Print the link and don't open a browser.")
@click.option("--tracking-uri", metavar="URI", help="MLflow store; default: MLFLOW_TRACKING_URI or ./mlflow.db")
@common.json_option
@common.progress_mode_option
def command(
    host: str, port: int | None, no_browser: bool, tracking_uri: str | None, as_json: bool, progress: ProgressMode
) -> None:
    """Open the runs in MLflow's web interface.

    Starts a small server for the store and stops it on Ctrl-C.
    """
    from pgzoo import tracking
    from pgzoo.errors import StoreError, UsageError

    home = tracking.Home.find()
    uri = tracking.resolve_uri(tracking_uri, home)
    if uri == tracking.NO_STORE:
        raise UsageError("The tracking store is none: name one with --tracking-uri.")
    tracking.check_store(uri, home)
    if uri.startswith(("http://", "https://")):
        show(without_account(uri), newest_experiment(uri), no_browser, as_json)
        return
    check_not_empty(uri, home)
    migrate(uri, progress)
    port = free_port(host, port)
    for number in (signal.SIGTERM, signal.SIGHUP):  # these must stop the server, too
        signal.signal(number, signal.default_int_handler)
    server = start_server(uri, home, host, port)
    try:
        base = f"http://{host}:{port}"
        wait_until_up(base, server, home, progress)
        show(base, newest_experiment(base), no_browser, as_json)
        common.echo("Press Ctrl-C to stop.", err=True)
        server.wait()
        raise StoreError(f"The MLflow server ended unexpectedly; see {home.root / 'ui.log'}.")
    except KeyboardInterrupt:
        common.echo("Stopped.", err=True)
    finally:
        stop(server)


def deep_link(base: str, experiment: str | None) -> str:
    """Return the page that charts an experiment's runs, one mean curve per algorithm; the start page without one."""
    if experiment is None:
        return f"{base}/"
    view = "workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=pgzoo"
    return f"{base}/#/experiments/{experiment}/runs?{view}"


def without_account(uri: str) -> str:
    """Return an address without user name and password: other users may see what a browser is started with."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def check_not_empty(uri: str, home: Home) -> None:
    """Raise StoreError if the default store doesn't exist yet; the message says what to do first."""
    from pgzoo import tracking
    from pgzoo.errors import StoreError
    from pgzoo.tracking.home import sqlite_path

    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    waiting = tracking.pending(home)
    first = "pgzoo sync" if waiting else "pgzoo run reinforce --env CartPole-v1"
    raise StoreError(f"There are no runs in {path} yet. First: {first}")


def migrate(uri: str, progress: ProgressMode) -> None:
    """Migrate the database of an older MLflow, and keep a copy; the server would migrate it without a copy."""
    from pgzoo.tracking.home import sqlite_path
    from pgzoo.tracking.schema import is_outdated

    path = sqlite_path(uri)
    if path is not None and path.exists() and is_outdated(path):
        with Waiting("Migrating the database to the installed MLflow", progress):
            from pgzoo.tracking.database import prepare_database

            prepare_database(path)


def free_port(host: str, wanted: int | None) -> int:
    """Return the wanted port, or the first free one from 5000. Raises StoreError if there is none."""
    from pgzoo.errors import StoreError

    candidates = [wanted] if wanted else range(5000, 5100)
    for port in candidates:
        try:
            with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
                pass
        except OSError as error:
            if wanted:
                raise StoreError(
                    f"Can't listen on {host}:{port}: {error.strerror}. Choose another --port, or leave it out."
                ) from error
        else:
            if port != candidates[0]:
                common.echo(f"Port {candidates[0]} is taken; using {port}.", err=True)
            return port
    raise StoreError(f"No port from 5000 to 5099 is free on {host}. Choose one with --port.")


def start_server(uri: str, home: Home, host: str, port: int) -> subprocess.Popen[bytes]:
    """Start a server of one worker, without the job runner and telemetry, in a separate process group."""
    import os
    import subprocess
    import sys

    options = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # mlflow starts its web server by name, from the environment it was installed into.
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
    }
    home.root.mkdir(parents=True, exist_ok=True)
    # In the environment, as every user of the machine can read a command line and its passwords.
    where = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_REGISTRY_STORE_URI": uri}
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--workers",
        "1",
        "--host",
        host,
        "--port",
        str(port),
    ]
    with open(os.open(home.root / "ui.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
        return subprocess.Popen(
            [*command, "--artifacts-destination", home.artifacts.as_uri()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home.root,
            start_new_session=True,
            env={**os.environ, **options, **where},
        )


def wait_until_up(base: str, server: subprocess.Popen[bytes], home: Home, progress: ProgressMode) -> None:
    """Show the time until the server answers. Raises StoreError if it ends, or doesn't answer in time."""
    import time

    from pgzoo.errors import StoreError

    log = home.root / "ui.log"
    deadline = time.monotonic() + STARTING
    with Waiting("Starting MLflow's web interface", progress):
        while time.monotonic() < deadline:
            if server.poll() is not None:
                why = last_words(log.read_text(errors="replace"))
                raise StoreError(f"The MLflow server didn't start: {why} (full log: {log})")
            try:
                with urllib.request.urlopen(f"{base}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
    raise StoreError(f"The MLflow server doesn't answer after {STARTING:.0f} s; see {log}.")


def last_words(log: str) -> str:
    """Return the last exception in a log, or else its last line; at most 300 characters, without passwords."""
    from pgzoo.tracking.home import redact

    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it said nothing"]
    said = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception): ", line)), lines[-1])
    return redact(said[:300])


def newest_experiment(uri: str) -> str | None:
    """Return the id of the experiment with the newest run, or None. Raises StoreError."""
    import os

    from pgzoo.errors import StoreError
    from pgzoo.tracking.lookup import query_store

    found: list[str] = []

    def search(client: Any) -> None:
        experiments = client.search_experiments(max_results=1000, order_by=["last_update_time DESC"])
        ids = [experiment.experiment_id for experiment in experiments]
        newest = client.search_runs(ids, max_results=1, order_by=["attributes.start_time DESC"]) if ids else []
        found.extend(run.info.experiment_id for run in newest)
        if found and not EXPERIMENT_ID.fullmatch(str(found[0])):  # it becomes a part of a link
            raise StoreError(
                f"the id of an experiment is {found[0][:80]!r}, which isn't valid. Is it an MLflow server?"
            )

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # the first answer about a large store takes a while
    query_store(uri, search, "the newest experiment")
    return found[0] if found else None


def show(base: str, experiment: str | None, no_browser: bool, as_json: bool) -> None:
    """Print the link on stdout and open it. An empty store gets a hint instead of a chart."""
    import webbrowser

    link = deep_link(base, experiment)
    if experiment is None:
        common.echo("There are no runs in this store yet. First: pgzoo run reinforce --env CartPole-v1", err=True)
    common.echo(json.dumps({"url": link, "experiment_id": experiment}) if as_json else link)
    if not no_browser:
        webbrowser.open(link)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and all its children."""
    import contextlib
    import os
    import subprocess

    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=5)
            return
