"""`pgzoo compile`: runs that compile nothing, and invalid arguments. tests/runs/test_kill.py compiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgzoo.cli import main
from pgzoo.config import RunConfig
from pgzoo.runs.precompile import _shards
from pgzoo.training.plan import Plan


@pytest.fixture
def compile_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return `compile_(*arguments)`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main.program, ["compile", *arguments], prog_name="pgzoo")


def test_a_run_that_compiles_nothing_is_not_trained(
    compile_: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Plan] = []
    monkeypatch.setattr("pgzoo.runs.precompile.train", trained.append)
    done = compile_("a2c", "--env", "CartPole-v1", "--compile", "off", "--no-progress")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "a2c on CartPole-v1 compiles nothing: compile is off, and the backend is native.\n"
    assert not trained and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ppo",), "env is missing: give --env ID. See: pgzoo envs"),
        (("ppo", "--env", "CartPole-v1", "--gama", "1"), "No such option '--gama'."),
        (
            ("ppo", "--env", "CartPole-v1", "--launcher", "processes"),
            "--launcher processes: what is compiled depends on",
        ),
    ],
)
def test_invalid_arguments_are_errors_and_leave_no_files(
    arguments: tuple[str, ...], message: str, compile_: Callable[..., Result], tmp_path: Path
) -> None:
    done = compile_(*arguments, "--no-progress")
    assert done.exit_code == 2 and message in done.stderr
    assert not list(tmp_path.iterdir())


def test_one_shard_of_each_size_is_compiled(configure: Callable[..., RunConfig]) -> None:
    config = configure("ppo", seeds=(5, 6, 7), launcher="processes", workers=2)
    assert [[member.seed for member in shard] for shard in _shards(config)] == [[5, 6], [7]]
    config = configure("ppo", seeds=(5, 6, 7, 8), launcher="processes", workers=2)
    assert [len(shard) for shard in _shards(config)] == [2]
    assert [len(shard) for shard in _shards(configure("ppo", seeds=(5, 6, 7)))] == [3]
