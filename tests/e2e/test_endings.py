"""Runs that end early: by NaN, an exception, a signal or a kill."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from program import PATIENCE

if TYPE_CHECKING:
    from program import Folder

CARTPOLE = ("--env", "CartPole-v1")


def test_a_nan_loss_ends_the_run_as_failed(shared: Folder) -> None:
    arguments = ("--import", shared.plugin, *CARTPOLE, "--experiment", "nan", "--json")
    out, err = shared.pgzoo("run", "nan", *arguments, code=1)
    answer = shared.parse(out)
    (seed,) = answer["seeds"]
    assert (answer["status"], seed["status"], seed["return_mean"], seed["episodes"]) == ("failed", "failed", None, 0)
    assert seed["reason"] == "loss: NaN" and "Seed 0 failed after" in err and "loss: NaN" in err
    shared.sync()
    (run,) = shared.ask("[look(r) for r in runs('nan')]")
    assert run["status"] == "FAILED" and "policy/policy.safetensors" in run["files"] and "episodes.csv" in run["files"]


def test_an_exception_in_an_algorithm_ends_the_run_with_one_error_line(untracked: Folder) -> None:
    arguments = ("run", "raising", "--import", untracked.plugin, "--env", "CartPole-v1", "--json")
    out, err = untracked.pgzoo(*arguments, code=1)
    assert untracked.parse(out)["status"] == "failed"
    (error,) = [line for line in err.splitlines() if line.startswith("Error:")]
    assert error.startswith('Error: algorithm "raising" raised ValueError: what a pity')
    child = untracked.start(*arguments, PGZOO_DEBUG="1")
    _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 1 and "Traceback" in err and "animals.py" in err


@pytest.mark.parametrize(
    ("how", "env"),
    [(signal.SIGINT, "CartPole-v1"), pytest.param(signal.SIGTERM, "Slow-v0", marks=pytest.mark.slow)],
)
def test_an_interrupted_run_keeps_its_metrics_checkpoint_and_policy(
    how: signal.Signals, env: str, shared: Folder
) -> None:
    before = set(shared.path.glob(".pgzoo/runs/*/journal.jsonl"))
    child = shared.start(
        "run",
        "reinforce",
        "--experiment",
        how.name,
        "--import",
        shared.plugin,
        "--env",
        env,
        "--total-steps",
        "1e9",
        "--log-every",
        "100",
    )
    journal = shared.eventually(lambda: set(shared.path.glob(".pgzoo/runs/*/journal.jsonl")) - before).pop()
    (shared.path / "slow-step").unlink(missing_ok=True)
    slow = env == "Slow-v0"  # its episodes don't end, so it has no update
    shared.eventually(lambda: (shared.path / "slow-step").exists() if slow else b'"update"' in journal.read_bytes())
    child.send_signal(how)
    out, err = child.communicate(timeout=PATIENCE)
    assert b'"t":"end"' in journal.read_bytes().replace(b" ", b"")
    assert child.returncode == 130 and "Traceback" not in err
    assert "Stopping and saving checkpoints. Press Ctrl-C again to quit immediately." in err
    assert f"interrupted by {how.name}" in err and "Metrics and policies so far are saved." in err
    assert "interrupted" in out and list(journal.parent.glob("checkpoints/step-*/state.safetensors"))
    shared.sync()
    (run,) = shared.ask(f"[look(r, 'train/return_mean') for r in runs('{how.name}')]")
    assert run["status"] == "KILLED" and "policy/policy.safetensors" in run["files"]
    assert slow or (run["curves"]["train/return_mean"] and "eval/return_mean" in run["metrics"])


@pytest.mark.slow  # tests/tracking/test_shipping.py tests this with a minimal trainer
def test_no_point_of_a_killed_trainer_is_lost(folder: Folder) -> None:
    child = folder.start("run", "reinforce", *CARTPOLE, "--total-steps", "1e9", "--log-every", "100")
    journal = folder.eventually(lambda: next(folder.path.glob(".pgzoo/runs/*/journal.jsonl"), None))
    folder.eventually(lambda: journal.stat().st_size > 20_000)
    child.kill()
    child.communicate()
    written = sorted(
        step
        for line in journal.read_text().splitlines()
        if (record := json.loads(line))["t"] == "update" and "train/return_mean" in record.get("m", {})
        for step in record["steps"]
    )
    folder.sync()
    (run,) = folder.ask("[look(r, 'train/return_mean') for r in runs('pgzoo/CartPole-v1')]")
    assert run["status"] == "KILLED"
    assert sorted(step for step, _ in run["curves"]["train/return_mean"]) == written != []
