"""Outputs that are closed, full or no longer read don't affect training and its record."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from program import Folder

from pgzoo.cli import common
from pgzoo.cli.output import _Visible
from pgzoo.errors import visible

RUN = "run a2c --env CartPole-v1 --total-steps 100 --num-envs 2 --eval-episodes 1 --policy.hidden 4 --compile off"


def bash(folder: Folder, arguments: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run `pgzoo ARGUMENTS REDIRECTION` in bash; the exit code is that of pgzoo."""
    line = f'"{sys.executable}" -m pgzoo {arguments} {redirection}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", line], cwd=folder.path, env=folder.env, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        pytest.param(">&-", 0, "", marks=pytest.mark.slow),
        pytest.param("2>&-", 0, "", marks=pytest.mark.slow),
        (">&- 2>&-", 0, ""),
        pytest.param("2>/dev/full", 0, "", marks=pytest.mark.slow),
        (">/dev/full", 1, "Error: can't write to standard output: No space left on device.\n"),
        pytest.param("| true", 141, "", marks=pytest.mark.slow),
        ("2>&1 | true", 141, ""),
    ],
)
def test_a_run_finishes_although_its_output_is_lost(
    untracked: Folder, redirection: str, code: int, message: str
) -> None:
    done = bash(untracked, RUN, redirection)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert done.stderr.endswith(message)
    assert done.stderr.count("Error") == bool(message) and "detached" not in done.stderr
    (journal,) = untracked.path.rglob("journal.jsonl")
    assert json.loads(journal.read_text().splitlines()[-1]).get("status") == "FINISHED"


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 0), (">/dev/full", 1), ("| sleep 0", 141), ("2>&-", 0)])
def test_a_listing_without_an_output_exits_without_a_traceback(tmp_path: Path, redirection: str, code: int) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "late.py").write_text("import time; time.sleep(1)\n")  # so that the reader has exited
    done = bash(folder, "plugins --import late.py", redirection)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == (redirection == ">/dev/full")


def test_a_deleted_working_directory_gives_one_error_message(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    line = f'mkdir gone; cd gone; rmdir ../gone; "{sys.executable}" -m pgzoo envs'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=folder.env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "Error: The working directory was deleted. Change to another folder: cd\n"


HOSTILE = "a\x1b]0;owned\x07b\x9b2Jc\rd\u202ee"
SHOWN = r"a\x1b]0;owned\x07b\x9b2Jc\rd\u202ee"


def test_terminal_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("two\nlines\tand é, 日本, 🎈") == "two\nlines\tand é, 日本, 🎈"
    common.echo(HOSTILE)
    common.echo(HOSTILE, err=True)
    assert capsys.readouterr() == (f"{SHOWN}\n", f"{SHOWN}\n")
    common.print_table(("name", "x"), [(HOSTILE, f"[green]{HOSTILE}")])
    assert capsys.readouterr().out.splitlines()[1].split() == [SHOWN, SHOWN]
    record = logging.LogRecord("pgzoo", logging.WARNING, "", 0, "Run %s is gone", (HOSTILE,), None)
    assert _Visible().format(record) == f"Run {SHOWN} is gone"
