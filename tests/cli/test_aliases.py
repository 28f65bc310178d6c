"""Options and commands of other libraries: the error suggests pgzoo's name."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pgzoo.cli.aliases import COMMANDS, PLAYING, command_hint, option_hint
from pgzoo.cli.main import program
from pgzoo.cli.run import _command_for
from pgzoo.cli.run import command as run_command
from pgzoo.config.aliases import OPTIONS, REMARKS
from pgzoo.registry import PluginCatalog


def test_every_option_alias_suggests_an_existing_option_of_ppo(catalog: PluginCatalog) -> None:
    command = _command_for("ppo", catalog, [], run_command.body)
    known = {flag for param in command.params for flag in param.opts}
    for typed, name in OPTIONS.items():
        assert f"--{name}" in known, name
        assert f"--{typed}" not in known, typed
        assert option_hint(f"--{typed}", known, "pgzoo run ppo").startswith(f"Did you mean --{name}")
    assert set(REMARKS) <= set(OPTIONS)


@pytest.mark.parametrize("typed", ["--n_envs", "--n-envs", "--N-Envs"])
def test_option_hints_ignore_case_and_treat_underscores_as_hyphens(typed: str) -> None:
    assert option_hint(typed, {"--num-envs"}, "x") == "Did you mean --num-envs?"


@pytest.mark.parametrize("name", ["evaluate", "video"])
def test_evaluate_and_video_have_common_options_and_suggest_them_for_aliases(name: str, catalog: PluginCatalog) -> None:
    command = catalog.get("command", name).load()
    known = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    assert {"--deterministic", "--stochastic", "--episodes", "--max-steps", "--env"} <= known
    for typed, meant in PLAYING.items():
        if meant != "--out" or "--out" in known:
            assert option_hint(f"--{typed}", known, f"pgzoo {name}") == f"Did you mean {meant}?"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("evaluate x --greedy", "Did you mean --deterministic?"),
        ("video x --sampled", "Did you mean --stochastic?"),
        ("run ppo --greedy", "Again: pgzoo evaluate RUN_ID --deterministic"),
        ("sweep ppo --deterministic", "Again: pgzoo evaluate RUN_ID --deterministic"),
        ("compare x --greedy", "Did you mean --metric eval/greedy_return_mean?"),
        ("evaluate x --n-stepz", "Did you mean '--max-steps'?"),
        ("--greedy", "No such option '--greedy'."),
        ("plugins --jsn", "Did you mean '--json'?"),
    ],
)
def test_the_hint_for_an_unknown_option_fits_the_command(words: str, hint: str) -> None:
    done = CliRunner().invoke(program, words.split(), prog_name="pgzoo")
    assert done.exit_code == 2 and done.stderr.rstrip().endswith(hint), done.stderr


def test_a_name_that_is_no_alias_gets_no_hint() -> None:
    assert option_hint("--frobnicate", {"--num-envs"}, "x") == "" and command_hint("frobnicate") == ""


def test_every_command_alias_suggests_an_existing_command_or_option(catalog: PluginCatalog) -> None:
    known = set(catalog.names("command"))
    for typed, hint in COMMANDS.items():
        assert typed not in known
        assert hint.split()[1] in known or hint.split()[1].startswith("--") or hint.split()[1].rstrip(",") in known
