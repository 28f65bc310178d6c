"""The progress display of a command; only results are written to stdout."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from program import PATIENCE, Folder, read_until

import pgzoo
from pgzoo.listeners import progress
from pgzoo.listeners.progress import Watch
from pgzoo.runs.context import RunContext
from pgzoo.tracking import Session
from pgzoo.training.activity import Activity
from pgzoo.training.events import EpisodesFinished

ENVS = str(Path(__file__).parent / "endless.py")
A2C = ("run", "a2c", "--import", ENVS, "--num-envs", "1", "--eval-episodes", "2", "--preset", "none")
SHORT = ("--eval-max-steps", "10")
TIMES = (
    r"Time +([\d.]+) s = imports ([\d.]+) \+ compile ([\d.]+) \+ train ([\d.]+) \+ evaluate ([\d.]+) \+ upload ([\d.]+)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path, forks=True, MLFLOW_TRACKING_URI="none")
    yield made
    made.close()


def test_a_resumed_run_shows_no_steps_before_it_knows_those_of_the_interrupted_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgzoo.listeners.progress.note_on_evaluation", lambda plan: "")
    config = SimpleNamespace(algorithm="a2c", env="CartPole-v1", seeds=(0,), total_steps=1000, total_episodes=None)
    plan = SimpleNamespace(config=config, members=[SimpleNamespace(overrides={})])
    activity = Activity()
    for resumed, begun in (((), 7), (({},), 0)):
        context: Any = SimpleNamespace(plan=plan, activity=activity, resumed=resumed)
        watch = Watch(context)
        activity.collecting.steps, activity.reported = 7, (0, 0)
        assert watch.done == begun
        activity.report()
        watch.add(EpisodesFinished(0, np.array([900]), (np.array([20.0]),), (np.array([20]),)))
        activity.collecting.steps += 5
        assert watch.done == 905


def in_terminal(folder: Folder, *args: str) -> str:
    """Run a command in a pseudo-terminal and return all that it wrote."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        os.chdir(folder.path)
        os.environ.update(folder.env, TERM="xterm-256color", COLUMNS="100", LINES="40")
        os.execv(sys.executable, [*folder.command, *args])
    seen = b""
    while select.select([terminal], [], [], PATIENCE)[0]:
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())


def test_output_of_an_environment_goes_to_stderr_instead_of_stdout(folder: Folder) -> None:
    out, err = folder.pgzoo(*A2C, "--env", "endless/Loud-v0", "--total-steps", "20", "--json", "--no-progress")
    (line,) = out.splitlines()
    answer = folder.parse(line)
    assert answer["status"] == "finished"
    for said in ("from the constructor", "from print", "from os.write", "from puts"):
        assert said in err
    for command in (("evaluate", answer["group"]), ("video", answer["group"]), ("envs", "endless/Loud-v0")):
        out, err = folder.pgzoo(*command, "--import", ENVS, "--json", "--no-progress")
        assert json.loads(out), command
        assert "from the constructor" in err and "from puts" in err, command


def test_the_progress_bar_advances_during_a_rollout_and_the_times_add_up(folder: Folder) -> None:
    slow = ("--env", "endless/Slow-v0", "--total-steps", "60", "--rollout-steps", "60", "--eval-max-steps", "30")
    seen = in_terminal(folder, *A2C, *slow)
    note = "endless/Slow-v0 declares no time limit: evaluation episodes are cut after 30 steps"
    assert note in " ".join(seen.split())
    shares = [int(share) for share in re.findall(r"(\d+)%", seen)]
    assert {share for share in shares if 0 < share < 100}, seen  # there is only one update
    assert shares == sorted(shares)
    assert "evaluating: 0 of 2 episodes" in seen
    assert "2 of 2 evaluation episodes with greedy actions were cut at 30 steps (--eval-max-steps)." in seen
    found = re.search(TIMES, seen)
    assert found, seen
    total, *parts = map(float, found.groups())
    assert sum(parts) == pytest.approx(total, abs=0.051 * len(parts)) and parts[2] > 2.9 and parts[3] > 1.4


def test_a_log_gets_progress_lines_during_a_rollout_and_none_if_disabled(folder: Folder) -> None:
    long = (*A2C, "--env", "endless/Slow-v0", "--total-steps", "400", "--rollout-steps", "400")
    child = folder.start(*long)
    said = read_until(child.stderr, "/400 steps")
    assert "mean return" in said and "\x1b" not in said
    child.terminate()
    out, err = folder.pgzoo(*A2C, "--env", "CartPole-v1", "--total-steps", "20", "--no-progress")
    assert err == "" and "finished" in out


def test_evaluate_and_video_show_their_progress(folder: Folder) -> None:
    run = folder.parse(folder.pgzoo(*A2C, "--env", "endless/Slow-v0", "--total-steps", "5", *SHORT, "--json")[0])
    short = ("--import", ENVS, "--episodes", "2", "--max-steps", "30")
    seen = in_terminal(folder, "evaluate", run["group"], *short)
    assert re.search(r"Playing a2c s0: 0 of 2 episodes, \d+ steps \(\d+ s\)", seen), seen
    assert "2 of 2 evaluation episodes had not ended after 30 steps" in " ".join(seen.split())
    seen = in_terminal(folder, "video", run["group"], *short)
    assert re.search(r"Recording a2c-s0\.mp4: episode [12] of 2, \d+ frames \(\d+ s\)", seen), seen


@pytest.mark.parametrize(
    ("phase", "said"),
    [("update", ': algorithm "reinforce" is computing'), ("collect", ""), ("compile", None), ("", None)],
)
def test_an_algorithm_that_takes_no_step_for_a_minute_is_named(
    phase: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    plan = pgzoo.plan("reinforce", env="CartPole-v1", total_steps=100)
    context = RunContext(plan, cast("Session", None), "", {}, "plain")
    watch = progress.Watch(context)
    context.activity.phase = phase
    context.activity.collecting.steps = 30
    assert "no step" not in watch.text
    now = 59.0
    assert "no step" not in watch.text
    now = 75.0
    assert ("no step" in watch.text) == (said is not None)
    assert said is None or watch.text == f"no step for 75 s{said}"
    context.activity.collecting.steps = 31
    assert "no step" not in watch.text
