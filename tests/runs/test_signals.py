"""Signals to the real program: the first stops it cleanly, a second one immediately; the journal has the reason."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from program import PATIENCE, PGZOO, Folder, eventually

from pgzoo.tracking import records

LONG = ("run", "a2c", "--env", "CartPole-v1", "--total-steps", "1e9", "--log-every", "100", "--compile", "off")
WORKERS = ("--seeds", "2", "--launcher", "processes", "--workers", "2")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return `start(*arguments, prefix=())`, which starts the program and waits until it trains."""
    folder, children = Folder(tmp_path, MLFLOW_TRACKING_URI="none"), []

    def run(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [*prefix, *PGZOO, *LONG, *arguments],
            cwd=tmp_path,
            env=folder.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        children.append(child)
        eventually(lambda: any(b'"t":"update"' in f.read_bytes() for f in tmp_path.rglob("journal.jsonl")))
        return child

    yield run
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    folder.close()


def ends(folder: Path) -> list[dict[str, Any]]:
    return [r for f in folder.glob(".pgzoo/runs/*") for r, _ in records(f) if r and r["t"] == "end"]


@pytest.mark.parametrize("workers", [pytest.param((), marks=pytest.mark.slow), WORKERS])
def test_a_closed_terminal_stops_a_run_cleanly(start: Start, tmp_path: Path, workers: tuple[str, ...]) -> None:
    child = start(*workers)
    os.killpg(child.pid, signal.SIGHUP)  # the kernel and the shell may each send one
    os.killpg(child.pid, signal.SIGHUP)
    _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130 and "Traceback" not in err
    assert {(end["status"], end["reason"]) for end in ends(tmp_path)} == {("KILLED", "interrupted by SIGHUP")}
    assert list(tmp_path.glob(".pgzoo/runs/*/checkpoints/step-*/state.safetensors"))


def test_nohup_keeps_a_run_alive(start: Start, tmp_path: Path) -> None:
    child = start(prefix=("nohup",))
    child.send_signal(signal.SIGHUP)
    (journal,) = tmp_path.rglob("journal.jsonl")
    size = journal.stat().st_size
    eventually(lambda: journal.stat().st_size > size)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=PATIENCE)
    assert [end["reason"] for end in ends(tmp_path)] == ["interrupted by SIGTERM"]


@pytest.mark.parametrize("workers", [(), pytest.param(WORKERS, marks=pytest.mark.slow)])
def test_a_second_ctrl_c_quits_immediately(start: Start, tmp_path: Path, workers: tuple[str, ...]) -> None:
    child = start("--eval-episodes", "1000000", *workers)
    child.send_signal(signal.SIGINT)
    assert child.stderr is not None
    eventually(lambda: "Stopping" in child.stderr.readline())
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130 and err.endswith("Interrupted.\n") and "Traceback" not in err
    assert len(ends(tmp_path)) == len(list(tmp_path.glob(".pgzoo/runs/*")))
    for end in ends(tmp_path):
        assert end["status"] == "KILLED" and "SIGINT" in end["reason"]
