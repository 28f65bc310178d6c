"""The listing commands, as tables and as JSON, and `pgzoo doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgzoo.cli.main import program


def pgzoo(*arguments: str) -> Result:
    result = CliRunner().invoke(program, arguments, prog_name="pgzoo", catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("algorithms", "reinforce"),
        ("policies", "mlp"),
        ("estimators", "reward-to-go"),
        ("presets", "notebook"),
        ("plugins", "pgzoo.cli"),
        ("envs", "CartPole-v1"),
    ],
)
def test_each_listing_has_the_same_names_as_a_table_and_as_json(command: str, name: str) -> None:
    entries = {entry["name"]: entry for entry in json.loads(pgzoo(command, "--json", "--no-progress").stdout)}
    assert entries[name]["distribution"] == ("gymnasium" if command == "envs" else "pgzoo")
    assert entries[name]["version"]
    assert entries[name]["summary"]
    header, *rows = pgzoo(command).stdout.splitlines()
    assert header.startswith(("Name ", "Environment "))
    assert {row.split()[0] for row in rows} == set(entries)


@pytest.mark.parametrize("command", ["algorithms", "policies", "estimators", "presets", "plugins"])
def test_each_row_is_cut_to_one_line_on_a_narrow_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pgzoo(command).stdout.splitlines()
    monkeypatch.setenv("COLUMNS", "80")
    narrow = pgzoo(command).stdout.splitlines()
    assert len(narrow) == len(whole) and max(map(len, narrow)) <= 80
    assert [row.split()[0] for row in narrow] == [row.split()[0] for row in whole]
    for row, line in zip(whole[1:], narrow[1:], strict=True):
        assert line == row or (line.endswith("…") and row.startswith(line.removesuffix("…")))


@pytest.mark.parametrize(
    ("command", "name", "option", "default"),
    [
        ("algorithms", "ppo", "--clip-range", 0.2),
        ("policies", "mlp", "--policy.hidden", [64, 64]),
        ("estimators", "gae", "--estimator.lam", 0.95),
    ],
)
def test_one_component_is_shown_with_its_settings(command: str, name: str, option: str, default: Any) -> None:
    described = json.loads(pgzoo(command, name, "--json").stdout)
    settings = {setting["option"]: setting for setting in described["settings"]}
    assert described["name"] == name and settings[option]["default"] == default and settings[option]["description"]
    text = pgzoo(command, name).stdout
    assert "name" in text and option in text and "pgzoo 0." in text
    assert ("Source:" in text) == (command != "policies")


def test_an_algorithm_is_shown_with_its_source_and_defaults() -> None:
    lines = pgzoo("algorithms", "ppo").stdout.splitlines()
    facts = dict(line.split("  ", 1) for line in lines if "  " in line)
    assert "Schulman et al. 2017" in facts["source"] and "estimator gae, num_envs 8" in facts["defaults"]


def test_the_presets_command_shows_all_presets_of_an_algorithm_or_one() -> None:
    yaml = pytest.importorskip("yaml")
    shown = list(yaml.safe_load_all(pgzoo("presets", "ppo").stdout))
    assert len(shown) > 1 and {settings["algorithm"] for settings in shown} == {"ppo"}
    assert yaml.safe_load(pgzoo("presets", "notebook").stdout) == yaml.safe_load(
        pgzoo("presets", "show", "notebook").stdout
    )


def test_a_preset_is_shown_as_a_config_file() -> None:
    yaml = pytest.importorskip("yaml")
    shown = yaml.safe_load(pgzoo("presets", "show", "notebook").stdout)
    assert shown["algorithm"] == "reinforce"
    as_json = json.loads(pgzoo("presets", "show", "notebook", "--json").stdout)
    assert {"algorithm": "reinforce", **as_json["settings"]} == shown


def test_doctor_reports_that_all_is_in_order_and_creates_no_files() -> None:
    result = CliRunner().invoke(program, ["doctor"], prog_name="pgzoo", catch_exceptions=False)
    assert "versions" in result.stdout
    assert result.stdout.endswith("Everything is in order.\n")
    assert result.exit_code == 0
    assert list(Path().iterdir()) == []


def test_doctor_names_an_unusable_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://x")
    result = CliRunner().invoke(program, ["doctor"], prog_name="pgzoo", catch_exceptions=False)
    assert 'The tracking URI "ftp://x"' in result.stdout
    assert result.exit_code == 1


def test_doctor_reports_an_unreachable_server_as_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    report = json.loads(pgzoo("doctor", "--json").stdout)
    store = next(finding for finding in report["findings"] if finding["name"] == "store")
    assert store["state"] == "note"
    assert "doesn't respond" in store["detail"]
