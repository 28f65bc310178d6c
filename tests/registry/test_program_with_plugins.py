"""The real `pgzoo` command with a working plugin, a broken one and an inline one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Install = Callable[..., None]
PLUGIN = """
from pgzoo.registry import hookimpl

@hookimpl
def pgzoo_register(registry):
    registry.algorithm("mine", "zoo_parts:Mine", summary="An algorithm.")
    registry.command("hello", "zoo_parts:hello", summary="Say hello.")
"""
PARTS = """
import click

class Mine: pass

@click.command()
def hello():
    click.echo("Hello!")
"""


def pgzoo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pgzoo", *arguments], capture_output=True, text=True, timeout=600)


@pytest.fixture
def plugins(install: Install) -> None:
    """Install a working plugin, a broken one and an inline one."""
    install("zoo-good", "1.2", {"zoo_good": PLUGIN, "zoo_parts": PARTS}, good="zoo_good")
    install("zoo-bad", "0.3", {"zoo_bad": "import not_there"}, bad="zoo_bad")
    inline = [line for line in PLUGIN.replace('"mine"', '"inline"').splitlines() if "command" not in line]
    Path("pgzoo_plugin.py").write_text("\n".join(inline))


@pytest.mark.usefixtures("plugins")
def test_a_broken_plugin_only_causes_a_warning() -> None:
    done = pgzoo("algorithms", "--json")
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert done.returncode == 0
    assert (found["mine"]["distribution"], found["mine"]["version"]) == ("zoo-good", "1.2")
    assert found["inline"]["plugin"] == "local"
    assert 'Loaded ./pgzoo_plugin.py (inline plugin "local")' in done.stderr
    assert 'Warning: plugin "bad" (zoo-bad 0.3) failed to load and is ignored: ModuleNotFoundError' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("plugins")
def test_blocked_plugins_print_nothing_and_add_no_algorithms() -> None:
    done = pgzoo("algorithms", "--json", "--no-plugin", "bad", "--no-plugin=local", "--no-plugin=zoo-good")
    assert done.stderr == ""
    assert not {"mine", "inline"} & {entry["name"] for entry in json.loads(done.stdout)}


@pytest.mark.usefixtures("plugins")
def test_the_plugins_command_lists_status_errors_components_and_hooks() -> None:
    found = {entry["name"]: entry for entry in json.loads(pgzoo("plugins", "--json").stdout)}
    assert found["bad"]["status"] == "broken"
    assert "not_there" in found["bad"]["error"]
    assert found["good"]["offers"] == {"algorithm": ["mine"], "command": ["hello"]}
    assert found["local"]["source"] == "inline"
    assert found["local"]["hooks"] == ["pgzoo_register"]


def test_a_plugin_can_consist_of_event_hooks_only(install: Install) -> None:
    source = "from pgzoo.registry import hookimpl\n@hookimpl\ndef pgzoo_run_ended(event): pass\n"
    install("zoo-ear", "1", {"zoo_ear": source}, ear="zoo_ear")
    found = {entry["name"]: entry for entry in json.loads(pgzoo("plugins", "--json").stdout)}
    assert found["ear"]["summary"] == "listens to: run_ended"


@pytest.mark.usefixtures("plugins")
def test_help_lists_plugin_commands_and_does_not_load_the_inline_plugin() -> None:
    done = pgzoo("--help")
    assert "Plugin commands:\n  hello  Say hello. (zoo-good 1.2)" in done.stdout
    assert done.stderr == ""
    assert pgzoo("hello").stdout == "Hello!\n"


@pytest.mark.usefixtures("plugins")
def test_doctor_finds_the_broken_plugin() -> None:
    done = pgzoo("doctor", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["healthy"]) == (1, False)
    assert "bad" in [finding["name"] for finding in report["findings"] if finding["state"] == "bad"]
    assert pgzoo("doctor", "--no-plugin", "bad").returncode == 0


@pytest.mark.usefixtures("plugins")
def test_the_error_for_an_unknown_name_mentions_broken_plugins() -> None:
    done = pgzoo("presets", "show", "mien")
    assert done.returncode == 2
    assert 'Error: No preset or algorithm "mien".' in done.stderr
    assert 'See: pgzoo presets\nPlugin "bad" (zoo-bad 0.3) failed to load' in done.stderr
