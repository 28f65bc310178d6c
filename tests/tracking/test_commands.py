"""`pgzoo ui` and `pgzoo sync`, as a user runs them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from program import PATIENCE

from pgzoo.cli.main import program
from pgzoo.cli.ui import deep_link, free_port, last_words, without_account
from pgzoo.errors import StoreError
from pgzoo.tracking import Home, Session, pending
from pgzoo.tracking.ledger import Ledger, journal_folders
from pgzoo.tracking.locks import is_locked, lock

if TYPE_CHECKING:
    from conftest import Place


def test_the_link_opens_the_runs_of_an_experiment() -> None:
    assert deep_link("http://h:1", None) == "http://h:1/"
    assert deep_link("http://h:1", "7").startswith("http://h:1/#/experiments/7/runs?workflowType=machine_learning&")


def test_credentials_are_removed_from_the_browser_url() -> None:
    assert without_account("https://me:p%40ss@host:8000/mlflow/") == "https://host:8000/mlflow"
    assert without_account("http://token@host") == without_account("http://host") == "http://host"


def test_a_port_in_use_is_an_error_and_a_free_one_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StoreError, match=f"Can't listen on 127.0.0.1:{port}: .*Choose another --port"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port


def test_without_a_wanted_port_the_first_free_one_from_5000_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used = {5000, 5001}

    def create_server(address: tuple[str, int], **_: object) -> contextlib.nullcontext[None]:
        if address[1] in used:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return contextlib.nullcontext()

    monkeypatch.setattr(socket, "create_server", create_server)
    assert free_port("127.0.0.1", None) == 5002
    assert capsys.readouterr().err == "Port 5000 is taken; using 5002.\n"
    used.update(range(5000, 5100))
    with pytest.raises(StoreError, match="No port from 5000 to 5099 is free"):
        free_port("127.0.0.1", None)


def test_last_words_finds_the_error_in_the_log_of_a_failed_server() -> None:
    log = (
        "INFO: starting\nsqlalchemy.exc.DatabaseError: file is not a database\n[SQL: SELECT 1]\n(Background on this)\n"
    )
    assert last_words(log) == "sqlalchemy.exc.DatabaseError: file is not a database"
    assert last_words("one\n  two  \n\n") == "two"
    assert last_words("") == "it said nothing"
    assert last_words("OperationalError: can't connect to postgresql://me:secret@h/db " + "x" * 10**6) == (
        "OperationalError: can't connect to postgresql://me:***@h/db ".ljust(300 - 3, "x")
    )


@pytest.mark.parametrize("command", ["ui", "sync"])
def test_ui_and_sync_create_no_files_in_an_empty_folder(command: str, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    run = subprocess.run(
        [sys.executable, "-m", "pgzoo", command],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if command == "ui":
        assert run.returncode == 2
        assert "First: pgzoo run reinforce --env CartPole-v1" in run.stderr
    else:
        assert (run.returncode, run.stdout) == (0, "Nothing to upload.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_run_is_reported_at_its_end_and_its_records_do_not_count_as_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(home: Home) -> None:
        """Do what an uploader does if the experiment was deleted."""
        for folder in journal_folders(home):
            Ledger(refused="the experiment was deleted").write(folder)

    def command(*words: str) -> Result:
        return CliRunner().invoke(program, [*words, "--no-progress"], prog_name="pgzoo")

    monkeypatch.setenv("PGZOO_HOME", str(tmp_path / ".pgzoo"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("pgzoo.tracking.session.ensure_uploader", refuse)
    monkeypatch.setattr("pgzoo.tracking.session.ask_to_retry", lambda home, request: None)
    ended = command("run", "random", "--env", "CartPole-v1", "--total-steps", "50", "--eval-episodes", "1", "--json")
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["refused_runs"].popitem()[1] == "the experiment was deleted"
    assert "Warning: MLflow refused 1 run, kept on this machine only: the experiment was deleted.\n" in ended.stderr
    assert "Not yet uploaded" not in ended.stderr

    (folder,) = journal_folders(Home.find())
    Ledger().write(folder)  # it is refused while `sync` waits
    synced = command("sync")
    assert synced.exit_code == 1
    assert synced.stdout == f"Uploaded 0 records, 0 runs.\nRefused: run {folder.name}: the experiment was deleted\n"


def test_sync_that_does_not_wait_leaves_a_process_that_takes_the_place_of_an_uploader_that_leaves(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, serving = place.home, f"serving {place.home.root} as process "
    with monkeypatch.context() as patched:
        patched.setattr("pgzoo.tracking.session.ensure_uploader", lambda home: None)
        opened = Session(home, "group", "http://127.0.0.1:9")
        opened.journal("kept", name="n", experiment="e", seed=0, algorithm="a", env="e").end("FINISHED")
        opened.close(0)
    leaving = lock(home.uploader_lock)  # a request of the uploader blocks for longer than `pgzoo sync` waits
    assert leaving is not None
    done = place.pgzoo("sync", "--wait", "0")
    assert done.returncode == 1 and "The upload continues in the background." in done.stdout
    place.eventually(lambda: is_locked(home.successor_lock) and home.retry_file.exists())
    assert serving not in home.uploader_log.read_text(encoding="utf-8")
    leaving.release()
    place.eventually(lambda: serving in home.uploader_log.read_text(encoding="utf-8"))
    assert is_locked(home.uploader_lock)
    os.kill(int(home.uploader_log.read_text(encoding="utf-8").partition(serving)[2].split()[0]), signal.SIGKILL)


def test_ui_without_a_store_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    shown = CliRunner().invoke(program, ["ui", "--no-browser"], prog_name="pgzoo")
    assert shown.exit_code == 2
    assert shown.stderr == "Error: The tracking store is none: name one with --tracking-uri.\n"


def test_ui_reports_an_unreachable_server_without_a_traceback(tmp_path: Path) -> None:
    env = {**os.environ, "PGZOO_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pgzoo", "ui", "--no-browser", "--tracking-uri", "http://127.0.0.1:9"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "Couldn't get the newest experiment from http://127.0.0.1:9: no server listens there" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_error_of_a_broken_store_is_reported_in_one_line(place: Place) -> None:
    place.database.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)
    child = place.train("waits", updates=2, wait=0)
    assert child.wait(timeout=PATIENCE) == 0
    [(store, error)] = place.eventually(lambda: pending(place.home).errors).items()
    assert store == place.home.default_uri
    assert "DatabaseError" in error and "\n" not in error
    checked = place.pgzoo("doctor")
    assert error in checked.stdout and checked.stdout.endswith("No problems found; see the notes on tracking.\n")
    assert checked.returncode == 0


def test_ui_serves_the_store_until_interrupted(embedded: Place) -> None:
    if embedded.run("ui") is None:
        embedded.result(embedded.train("ui", updates=3))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pgzoo", "ui", "--no-browser", "--port", str(port)]
    with subprocess.Popen(
        command,
        env=embedded.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        link = program.stdout.readline().strip()
        [(experiment,)] = embedded.ask("SELECT experiment_id FROM experiments WHERE name = 'pgzoo/Corridor-v0'")
        assert link == deep_link(f"http://127.0.0.1:{port}", str(experiment))
        run_id = embedded.run("ui")[0]  # type: ignore[index]
        base = f"http://127.0.0.1:{port}"
        where = f"{base}/get-artifact?path=episodes.csv&run_uuid={run_id}"
        with urllib.request.urlopen(where, timeout=PATIENCE) as answer:
            assert answer.read().startswith(b"episode,env_step,return,length\n1,10,1.0,10\n")
        os.kill(program.pid, signal.SIGINT)
        try:
            assert program.wait(timeout=PATIENCE) == 0
        finally:  # ends its server, too
            program.terminate()
        assert "Stopped." in program.stderr.read()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{base}/health", timeout=2)
