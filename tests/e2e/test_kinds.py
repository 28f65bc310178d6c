"""Runs with videos, with various spaces and backends, from Python and with an inline plugin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from program import PATIENCE

if TYPE_CHECKING:
    from program import Folder

SHORT = ("--env", "CartPole-v1", "--total-steps", "1000", "--eval-episodes", "8")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio leaves a pipe open
def test_the_video_of_a_run_can_be_decoded(shared: Folder) -> None:
    imageio = pytest.importorskip("imageio.v2")
    out, err = shared.pgzoo("run", "reinforce", *SHORT, "--video", "--json")
    assert err.startswith("Preset    reinforce-cartpole; without it: --preset none\nreinforce on")
    assert "error" not in err
    key = shared.parse(out)["seeds"][0]["run_key"]
    video = shared.path / ".pgzoo" / "runs" / key / "artifacts" / "videos" / "evaluation.mp4"
    with imageio.get_reader(video) as reader:
        frames = [frame.shape for frame in reader]
    assert len(frames) > 8 and {(height % 2, width % 2) for height, width, _ in frames} == {(0, 0)}


SLOW_SPACES = [pytest.param(env, marks=pytest.mark.slow) for env in ("Pendulum-v1", "Blackjack-v1", "Bits-v0")]
"""Slow, as tests/policies/test_matrix.py tests every pair of spaces without the program."""


@pytest.mark.parametrize("env", ["Mixed-v0", *SLOW_SPACES])
def test_environments_with_various_spaces_are_trained_and_evaluated(env: str, untracked: Folder) -> None:
    limit = ("--max-episode-steps", "40", "--eval-episodes", "3")
    child = untracked.start(
        "run", "reinforce", "--import", untracked.plugin, "--env", env, "--total-steps", "300", *limit, "--json"
    )
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, err
    assert untracked.parse(out)["seeds"][0]["episodes"] == 3


@pytest.mark.slow  # tests/envs tests this without the program
def test_async_and_sync_backends_take_the_same_number_of_steps(shared: Folder) -> None:
    arguments = ("reinforce", "--import", shared.plugin, "--env", "Mixed-v0", "--total-steps", "50", "--seed", "5")
    few = ("--num-envs", "2", "--eval-episodes", "1")
    apart, here = (
        shared.parse(shared.pgzoo("run", *arguments, *few, "--backend", backend, "--json")[0])
        for backend in ("async", "sync")
    )
    assert apart["seeds"][0]["env_steps"] == here["seeds"][0]["env_steps"] >= 50


def test_the_python_api_trains_and_prints_nothing(shared: Folder) -> None:
    (shared.path / "script.py").write_text(
        "import pgzoo\n"
        "result = pgzoo.run('reinforce', env='CartPole-v1', seeds=2, total_steps=1000, eval_episodes=5)\n"
        "assert result.status == 'finished' and [run.seed for run in result.runs] == [0, 1]\n"
        "assert result.to_frame().return_mean.tolist() == [run.returns.mean() for run in result.runs]\n"
        "assert result.policy(1).act([0.0, 0.0, 0.0, 0.0]) in (0, 1)\n"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-W", "error::DeprecationWarning:pgzoo", "script.py"]
    done = subprocess.run(command, cwd=shared.path, env=shared.env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_inline_plugin_is_printed_and_recorded_in_the_journal(untracked: Folder) -> None:
    (untracked.path / "pgzoo_plugin.py").write_text(Path(untracked.plugin).read_text())
    _, err = untracked.pgzoo("run", "reinforce", *SHORT)
    assert err.startswith('Loaded ./pgzoo_plugin.py (inline plugin "local")\n')
    (journal,) = untracked.path.rglob("journal.jsonl")
    start = json.loads(journal.read_text().splitlines()[0])
    assert start["tags"]["plugin.local"].startswith("./pgzoo_plugin.py")
