"""`pgzoo plugins check`: a line for each check, and an exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgzoo.cli.main import program

BROKEN = '''
import torch
import pgzoo

def leaky(*, rewards, valid, gamma):
    """All rewards that are still to come, whoever gets them."""
    return torch.where(valid, gamma * rewards.flip(-2).cumsum(-2).flip(-2), 0.0)


def immediate(*, rewards, valid):
    """The reward of a step, for bandits."""
    return torch.where(valid, rewards, 0.0)


immediate.known_exceptions = {"gamma": "a bandit has one step"}

@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.estimator("leaky", leaky)
    registry.estimator("immediate", immediate)
'''


def check(*arguments: str) -> Result:
    words = ["plugins", "check", *arguments]
    return CliRunner().invoke(program, words, prog_name="pgzoo", catch_exceptions=False)


def test_a_correct_component_passes_its_checks() -> None:
    result = check("gae")
    assert result.exit_code == 0
    assert "estimator gae     episodes-independent  ok" in result.stdout
    assert result.stderr.endswith("checks, none failed\n")


def test_kinds_are_written_in_words() -> None:
    assert check("toy-text").stdout.splitlines()[-1].startswith("environment state toy-text ")


def test_a_class_in_a_file_is_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("named_gamma.py").write_text(
        "import pgzoo\n\nclass Config(pgzoo.AlgorithmConfig):\n    gamma: float = 1.0\n\n"
        "class Algo:\n    config = Config\n    estimator = 'reward-to-go'\n"
        "    def loss(self, policy, params, batch, hyper): ...\n"
    )
    result = CliRunner().invoke(program, ["run", "named_gamma.py:Algo", "--env", "CartPole-v1"], prog_name="pgzoo")
    assert result.exit_code == 2
    assert 'Algorithm "named_gamma:Algo" of named_gamma.py has a setting named gamma, which' in result.stderr
    assert "Rename it in Config." in result.stderr


def test_the_plugin_of_a_component_is_checked_and_skipped_checks_say_why() -> None:
    result = check("notebook", "--json")
    found = {(f["component"], f["check"]): f for f in json.loads(result.stdout)}
    assert found["pgzoo.estimators", "light"]["ok"]
    assert found["estimator notebook", "bootstrap"] == {
        "check": "bootstrap",
        "component": "estimator notebook",
        "ok": True,
        "result": "ok",
        "message": "nothing to check: it takes no next_values",
    }


@pytest.mark.parametrize("name", ["local", "leaky"])
def test_a_failed_check_is_reported_for_the_plugin_and_for_the_component(name: str) -> None:
    Path("pgzoo_plugin.py").write_text(BROKEN)
    result = check(name, "--json")
    assert result.exit_code == 1
    failed = [f for f in json.loads(result.stdout) if not f["ok"]]
    assert [(f["component"], f["check"]) for f in failed] == [("estimator leaky", "episodes-independent")]
    assert (
        'Estimator "leaky" of plugin "local" (./pgzoo_plugin.py) lets the next episode change' in failed[0]["message"]
    )
    assert re.search(r"failed +Estimator", check(name).stdout)


def test_a_known_exception_is_reported_with_its_reason() -> None:
    Path("pgzoo_plugin.py").write_text(BROKEN)
    result = check("immediate", "--json")
    assert result.exit_code == 0
    (excepted,) = [f for f in json.loads(result.stdout) if f["result"] == "exception"]
    assert (excepted["check"], excepted["ok"]) == ("gamma", True)
    assert excepted["message"].startswith('a bandit has one step [Estimator "immediate" of plugin "local"')
    assert check("immediate").stderr.endswith("checks, none failed, 1 known exceptions\n")


def test_the_error_for_an_unknown_name_suggests_the_right_one() -> None:
    result = check("positiv-reinforce")
    assert (result.exit_code, result.stdout) == (2, "")
    assert 'No plugin or component "positiv-reinforce". Did you mean "positive-reinforce"?' in result.stderr


def test_the_plugins_command_lists_the_plugins_by_default() -> None:
    def plugins(*words: str) -> str:
        return CliRunner().invoke(program, ["plugins", *words], prog_name="pgzoo", catch_exceptions=False).stdout

    assert plugins() == plugins("list") and plugins("--json") != plugins()
    assert [p["name"] for p in json.loads(plugins("list", "--json"))] == [
        p["name"] for p in json.loads(plugins("--json"))
    ]


def test_a_function_in_a_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaks.py").write_text(BROKEN)
    result = check("./leaks.py:leaky", "--json")
    assert result.exit_code == 1
    found = {row["check"]: row for row in json.loads(result.stdout)}
    assert {row["component"] for row in found.values()} == {"estimator leaks:leaky"}
    assert not found["episodes-independent"]["ok"] and found["shape"]["ok"]


POSITIONAL = """
def two(rewards, valid):
    return rewards * valid

def three(rewards, valid, gamma):
    return rewards * valid * gamma

def build(inputs, outputs):
    from math import prod
    from torch import nn
    size = inputs if isinstance(inputs, int) else prod(inputs)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, outputs))
"""


@pytest.mark.parametrize(("name", "listed"), [("two", "rewards, valid"), ("three", "rewards, valid, gamma")])
def test_an_estimator_with_positional_arguments_is_not_checked_as_a_policy(
    name: str, listed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loose.py").write_text(POSITIONAL)
    result = check(f"./loose.py:{name}", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert {row["component"] for row in found} == {f"estimator loose:{name}"}
    (message,) = [row["message"] for row in found if row["check"] == "keywords"]
    assert message.endswith(f"takes {listed} as positional arguments. Begin the signature with `*`.")


def test_a_function_that_builds_a_network_is_checked_as_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loose.py").write_text(POSITIONAL)
    found = json.loads(check("./loose.py:build", "--json").stdout)
    assert {row["component"] for row in found} == {"policy loose:build"}
    assert {row["check"]: row["ok"] for row in found}["draws"]


BAD = '''
"""An algorithm that fails with every kind of action."""
import pgzoo

class Bad:
    """A broken algorithm.

    Source: Author (2026), Title,
    section 3.
    """
    estimator = "reward-to-go"
    collect = pgzoo.Steps(8)

    def update(self, ctx, state, trajectory):
        raise ValueError("broken")

@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("bad", Bad)
'''


def test_a_check_reports_a_failure_with_both_discrete_and_box_actions() -> None:
    Path("pgzoo_plugin.py").write_text(BAD)
    failed = {f["check"]: f["message"] for f in json.loads(check("bad", "--json").stdout) if not f["ok"]}
    for name in ("trains-discrete", "trains-box"):
        assert failed[name].endswith("It fails on Discrete and on Box actions.") and "broken" in failed[name]
    shown = CliRunner().invoke(program, ["algorithms", "bad"], prog_name="pgzoo", catch_exceptions=False).stdout
    assert "source    Author (2026), Title, section 3.\n" in shown and "family" not in shown


def test_a_run_that_fails_before_its_first_step_suggests_no_evaluation() -> None:
    Path("pgzoo_plugin.py").write_text(BAD)
    arguments = ["run", "bad", "--env", "CartPole-v1", "--total-steps", "99", "--tracking-uri", "none", "--no-progress"]
    done = CliRunner().invoke(program, arguments, prog_name="pgzoo")
    assert done.exit_code == 1, done.output
    assert "No step was trained." in done.output and "pgzoo evaluate" not in done.output


def test_a_misspelled_name_in_a_file_is_an_error_that_suggests_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "with_one_class.py").write_text("class Mine:\n    pass\n", encoding="utf-8")
    result = check(f"{tmp_path}/with_one_class.py:Mien")
    assert result.exit_code == 2
    assert 'defines no algorithm "Mien". Did you mean "Mine"' in result.output
