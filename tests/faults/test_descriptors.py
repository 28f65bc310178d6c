"""Too few file descriptors: the limit is raised if that is allowed; otherwise, the run doesn't start."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from program import PATIENCE, PGZOO, Folder

from pgzoo.tracking import Home
from pgzoo.tracking.ledger import journal_folders, start_of

RUN = ("run", "reinforce", "--env", "CartPole-v1", "--num-envs", "1", "--total-episodes", "1", "--eval-episodes", "1")


def run_limited(folder: Folder, limit: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = f"ulimit {limit} && exec {shlex.join([*PGZOO, *RUN, *arguments])}"
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder.path,
        env=folder.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(("limit", "seeds"), [(256, 140), (40, 40)])
def test_a_run_does_not_start_if_the_descriptor_limit_is_too_low(tmp_path: Path, limit: int, seeds: int) -> None:
    done = run_limited(Folder(tmp_path), f"-n {limit}", "--seeds", str(seeds))
    assert done.returncode == 2, done.stderr
    assert f"{seeds} runs need " in done.stderr
    assert f"the system's limit for this process is {limit}" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX limits")
def test_a_soft_descriptor_limit_is_raised(untracked: Folder) -> None:
    done = run_limited(untracked, "-S -n 256", "--seeds", "140")
    assert done.returncode == 0, done.stderr
    assert "detached" not in done.stderr
    starts = [start_of(run) for run in journal_folders(Home.find({}, untracked.path))]
    assert sorted(start["seed"] for start in starts if start) == list(range(140))
