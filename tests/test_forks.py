"""A command behaves the same in a fork and in a new process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import forks
import pytest
from program import USE_TORCH, Folder


@pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux alone")
@pytest.mark.parametrize(
    "arguments",
    [("run", "a2c", "--env", "Nowhere-v0"), ("evaluate", "nothing", "--no-progress"), ("run", "--help")],
)
def test_a_fork_has_the_same_output_and_exit_code_as_a_new_process(arguments: tuple[str, ...], tmp_path: Path) -> None:
    child = Folder(tmp_path).start(*arguments, COLUMNS="70")
    out, err = child.communicate()
    forked = Folder(tmp_path, forks=True)
    assert arguments[0] in USE_TORCH and forks.can_fork(forked.env)
    assert forks.pgzoo(arguments, tmp_path, forked.env | {"COLUMNS": "70"}) == (child.returncode, out, err)


def test_commands_with_different_startup_variables_cannot_be_forked() -> None:
    assert not forks.can_fork(os.environ | {"OMP_NUM_THREADS": "3"})
    assert not forks.can_fork(os.environ | {"PYTHONHASHSEED": "17"})
