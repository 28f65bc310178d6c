"""The program itself: few imports, and an error message with the right exit code for each mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from pgzoo.cli import common, main
from pgzoo.errors import RunFailed, StoreError

HEAVY = {"torch", "mlflow", "gymnasium", "numpy", "pydantic", "rich", "matplotlib", "pgzoo.types"}


def pgzoo(*arguments: str) -> Result:
    return CliRunner().invoke(main.program, arguments, prog_name="pgzoo")


def test_help_lists_all_commands_and_imports_no_heavy_modules() -> None:
    code = "import sys; from pgzoo.cli.main import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())
    commands = "run sweep resume compile repro evaluate video compare runs export ui sync".split()
    commands += "algorithms policies estimators diagnostics presets plugins envs doctor".split()
    listed = done.stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == commands


def test_python_m_pgzoo_prints_the_version() -> None:
    done = subprocess.run([sys.executable, "-m", "pgzoo", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"pgzoo {metadata.version('pgzoo')}\n"


def test_objects_are_frozen_for_the_garbage_collector_before_the_exit() -> None:
    code = "import gc, sys; from pgzoo.cli.main import main\ntry: main()\nfinally: print(gc.get_freeze_count() > 0)"
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], 'Error: No command "rnu". Did you mean "run"? See: pgzoo --help'),
        (["plugins", "--jsn"], "No such option '--jsn'. Did you mean '--json'?"),
        (["plugins", "--no-plugin", "nothing"], 'Error: No plugin "nothing" to block.'),
        (["plugins", "--import", "not_there"], "Error: --import not_there failed."),
        (["algorithms", "reinfroce"], 'No algorithm "reinfroce". Did you mean "reinforce"?'),
        (["algorithms", "ppo", "surplus"], "unexpected extra argument"),
        (["presets", "notebok"], 'No preset or algorithm "notebok". Did you mean "notebook"?'),
        (["presets", "random"], 'There is no preset for algorithm "random".'),
        (["train"], 'Error: No command "train". Use: pgzoo run ALGO --env ID'),
        (["enjoy", "x"], 'Error: No command "enjoy". Use: pgzoo video RUN_ID (watch a policy)'),
        (["plot"], 'Error: No command "plot". Use: pgzoo compare RUN_ID'),
        (["list"], 'Error: No command "list". Use: pgzoo algorithms, policies'),
        (["help"], 'Error: No command "help". Use: pgzoo --help'),
        (["evaluate", "x", "--seed", "1", "--seed=2"], "--seed is given twice; give one value."),
        (["presets", "show"], "Missing argument"),
        (
            ["presets", "show", "a", "b", "c"],
            "Give the name of a preset, or an algorithm and an environment.",
        ),
        (["presets", "show", "notebok"], 'Did you mean "notebook"?'),
        (
            ["presets", "show", "reinforce", "Taxi-v4"],
            'No preset is applied automatically to "reinforce" on Taxi-v4',
        ),
    ],
)
def test_invalid_input_gets_one_error_message_and_no_traceback(arguments: list[str], message: str) -> None:
    result = pgzoo(*arguments)
    assert result.exit_code == 2
    (error,) = re.findall("^Error: .*", result.stderr, re.MULTILINE)
    assert message in error and "Traceback" not in result.stderr and not result.stdout


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StoreError("It is full."), 2, "Error: It is full.\n"),
        (RunFailed("NaN in policy.w"), 1, "Error: NaN in policy.w\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (click.Abort(), 130, "Interrupted.\n"),
    ],
)
def test_pgzoo_errors_and_interrupts_have_their_own_exit_codes(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr("pgzoo.cli.doctor.command", command)
    result = pgzoo("doctor")
    assert (result.exit_code, result.stderr) == (code, message)


def test_pgzoo_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGZOO_DEBUG", "1")
    result = pgzoo("plugins", "--import", "not_there")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_a_closed_stdout_pipe_causes_no_message_and_the_exit_code_of_sigpipe(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "pgzoo", "plugins"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait(timeout=600) == 141


def test_option_values_can_be_read_from_unparsed_arguments() -> None:
    args = ["reinforce", "--import", "a", "--no-plugin=b", "--import=c.py", "--import"]
    assert common.unparsed_values(args, "--import") == ["a", "c.py"]
    assert common.unparsed_values(args, "--no-plugin") == ["b"]


def test_completion_offers_matching_commands_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pgzoo.cli.listing", raising=False)
    context = click.Context(main.program, info_name="pgzoo")
    assert [item.value for item in main.program.shell_complete(context, "po")] == ["policies"]
    assert "pgzoo.cli.listing" not in sys.modules
