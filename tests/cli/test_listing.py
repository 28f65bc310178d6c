"""The listing commands, as tables and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

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
def test_each_listing_as_a_table_and_as_json(command: str, name: str) -> None:
    entries = {entry["name"]: entry for entry in json.loads(pgzoo(command, "--json", "--no-progress").stdout)}
    assert entries[name]["distribution"] == ("gymnasium" if command == "envs" else "pgzoo")
    assert entries[name]["version"]
    assert entries[name]["summary"]
    header, *rows = pgzoo(command).stdout.splitlines()
    assert header.startswith(("Name ", "Environment "))
    assert {row.split()[0] for row in rows} == set(entries)


def test_a_preset_is_shown_as_a_config_file() -> None:
    yaml = pytest.importorskip("yaml")
    shown = yaml.safe_load(pgzoo("presets", "show", "notebook").stdout)
    assert shown["algorithm"] == "reinforce"
    as_json = json.loads(pgzoo("presets", "show", "notebook", "--json").stdout)
    assert {"algorithm": "reinforce", **as_json["settings"]} == shown


def test_doctor_is_content_here() -> None:
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


def test_doctor_takes_a_server_that_is_down_as_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    report = json.loads(pgzoo("doctor", "--json").stdout)
    store = next(finding for finding in report["findings"] if finding["name"] == "store")
    assert store["state"] == "note"
    assert "doesn't answer" in store["detail"]
