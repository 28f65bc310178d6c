"""Names that users of other libraries type lead to pgzoo's."""

from __future__ import annotations

import pytest

from pgzoo.cli.aliases import COMMANDS, command_hint, option_hint
from pgzoo.cli.run import _command_for
from pgzoo.cli.run import command as run_command
from pgzoo.config.aliases import OPTIONS, REMARKS
from pgzoo.registry import PluginCatalog


def test_every_name_in_the_table_leads_to_an_option_of_ppo(catalog: PluginCatalog) -> None:
    command = _command_for("ppo", catalog, [], run_command.body)
    known = {flag for param in command.params for flag in param.opts}
    for typed, name in OPTIONS.items():
        assert f"--{name}" in known, name
        assert f"--{typed}" not in known, typed
        assert option_hint(f"--{typed}", known, "pgzoo run ppo").startswith(f"Did you mean --{name}")
    assert set(REMARKS) <= set(OPTIONS)


@pytest.mark.parametrize("typed", ["--n_envs", "--n-envs", "--N-Envs"])
def test_hyphens_and_capitals_make_no_difference(typed: str) -> None:
    assert option_hint(typed, {"--num-envs"}, "x") == "Did you mean --num-envs?"


def test_a_name_that_nobody_uses_has_no_hint() -> None:
    assert option_hint("--frobnicate", {"--num-envs"}, "x") == "" and command_hint("frobnicate") == ""


def test_every_command_in_the_table_names_one_that_exists(catalog: PluginCatalog) -> None:
    known = set(catalog.names("command"))
    for typed, hint in COMMANDS.items():
        assert typed not in known
        assert hint.split()[1] in known or hint.split()[1].startswith("--") or hint.split()[1].rstrip(",") in known
