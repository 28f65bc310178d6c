"""Outputs that are closed, full or no longer read don't affect training and its record."""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from program import Folder
from rich.console import Console
from rich.text import Text

import pgzoo
from pgzoo.cli import common, tables
from pgzoo.cli.main import program
from pgzoo.cli.output import _Output, _text, _Visible
from pgzoo.errors import visible
from pgzoo.export.bundle import LoadedPolicy

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
    tables.print_table(("name", "x"), [(HOSTILE, f"[green]{HOSTILE}")])
    assert capsys.readouterr().out.splitlines()[1].split() == [SHOWN, SHOWN]
    record = logging.LogRecord("pgzoo", logging.WARNING, "", 0, "Run %s is gone", (HOSTILE,), None)
    assert _Visible().format(record) == f"Run {SHOWN} is gone"


class Terminal(io.StringIO):
    """An output that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def printed(columns: int | str, monkeypatch: pytest.MonkeyPatch, show: Callable[[], None]) -> list[str]:
    """Return the lines that `show` prints in a terminal of this width, without colors."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    show()
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_table_never_cuts_a_number(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"20261130-201923-715a80-learning_rate-0.0001-estimator.lam-0.95-s{seed}" for seed in (0, 1)]
    rows = [(key, f"ppo s{seed}", "CartPole-v1", "20,291", "499.5", "") for seed, key in enumerate(keys)]
    headings = ("Run key", "Name", "Env", "Steps", "Return", "Age")
    lines = printed(columns, monkeypatch, lambda: tables.print_table(headings, rows))
    for heading in headings:
        assert any(heading in line for line in lines[:3])
    for seed in (0, 1):
        (line,) = [line for line in lines if f" ppo s{seed} " in line]
        assert re.search(r" CartPole-v1 +20,291 +499\.5 ", line)
    folded = "".join(re.sub(r" .*", "", line.strip()) for line in lines if line[1:2].strip())
    assert all(key in folded for key in keys)
    assert columns == 40 or max(map(len, lines)) <= columns


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_comparison_shows_whole_numbers_and_verdicts(columns: int) -> None:
    names = [f"ppo learning_rate={rate} estimator.lam=0.95 gamma=0.999 clip=0.2" for rate in (0.0001, 0.001)]
    rows = [
        [" > ".join(names), "25% [0, 71]", "0.5 of 20", "−208.5 [−400.1, −17.0]", "undecided: needs 3 seeds per side"]
    ]
    headings = ("", "P(first higher)", "higher with same seed", "difference of means", "")
    table = tables.plain_table(headings, [list(map(Text, row)) for row in rows], columns, numbers=(1, 2, 3))
    out = Console(file=io.StringIO(), width=columns)
    out.print(table, crop=False)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"25% \[0, 71\] +0\.5 of 20 +−208\.5 \[−400\.1, −17\.0\] +undecided:", text) and "…" not in text
    assert columns < 80 or max(map(len, text.splitlines())) <= columns
    words = set(text.split())
    assert {"needs", "seeds", "side"} <= words


@pytest.mark.parametrize("columns", ["abc", "1e3", "0", "-5"])
def test_a_width_in_the_environment_that_is_no_width_is_ignored(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def show() -> None:
        tables.print_lines(("Name", "Summary"), [("a2c", "synchronous advantage actor-critic")])

    monkeypatch.delenv("COLUMNS", raising=False)
    unset = printed("", monkeypatch, show)
    assert printed(columns, monkeypatch, show) == unset
    monkeypatch.setattr(sys, "stdout", plain := io.StringIO())
    show()
    assert plain.getvalue().split("\n")[1] == "a2c   synchronous advantage actor-critic"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_an_encoding_does_not_have_are_replaced(encoding: str, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    stream = _text(_Output(descriptor, "w", closefd=True), io.TextIOWrapper(io.BytesIO(), encoding, "surrogateescape"))
    print("−1.5 ± 2 … 日 \udce9", file=stream, flush=True)
    stream.close()
    expected = {"ascii": b"-1.5 +/- 2 ... \\u65e5 \xe9\n", "latin-1": b"-1.5 \xb1 2 ... \\u65e5 \xe9\n"}
    utf8 = "−1.5 ± 2 … 日 ".encode() + b"\xe9\n"
    assert (tmp_path / "out").read_bytes() == expected.get(encoding, utf8)


LOUD = """
import pgzoo
from torch import nn

class Net(nn.Linear):
    def __init__(self, inputs, outputs):
        print("from the network")
        super().__init__(inputs, outputs)

def value(*, rewards, valid):
    print("from the estimator")
    return rewards * valid

@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("late", "late:Late")
    registry.estimator("loud", value)
"""
LATE = "print('from the import')\nfrom pgzoo.algorithms.reinforce import Reinforce as Late"


def test_text_that_a_plugin_prints_does_not_mix_with_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "loud.py").write_text(LOUD)
    (tmp_path / "late.py").write_text(LATE)
    loud = importlib.import_module("loud")
    plan = pgzoo.plan("reinforce", env="CartPole-v1", policy=loud.Net, imports=["loud"])
    params = {name: value[None] for name, value in plan.policy.init(np.random.default_rng(0)).items()}
    LoadedPolicy(plan.config.policy, plan.spec, plan.policy, params).save(tmp_path / "policy")
    for command, said in (
        (("export", "./policy", "--to", "exported", "--no-progress"), "from the network"),
        (("algorithms", "late"), "from the import"),
        (("plugins", "check", "loud"), "from the estimator"),
    ):
        result = CliRunner().invoke(program, [*command, "--import", "loud", "--json"], prog_name="pgzoo")
        assert json.loads(result.stdout) and said in result.stderr, command
    for name in ("loud", "late"):
        sys.modules.pop(name)
