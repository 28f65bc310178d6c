"""`pgzoo plugins install` and `uninstall`, with a fake `pip` module that writes and removes metadata."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgzoo.cli import main

PIP = """
import os, pathlib, shutil, sys

site = pathlib.Path(__file__).parent.parent
action, target = sys.argv[1], sys.argv[-1]
print("pip:", *sys.argv[1:], flush=True)
if target == "fails":
    sys.exit(3)
info = site / "zoo_mine-1.0.dist-info"
if action == "uninstall":
    shutil.rmtree(info)
elif target != "zoo-nothing":
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: zoo-mine\\nVersion: 1.0\\n")
    (info / "entry_points.txt").write_text("[pgzoo]\\nmine = zoo_mine\\n")
    code = "import pgzoo\\n@pgzoo.hookimpl\\ndef pgzoo_register(registry):\\n    registry.algorithm('mine', 'a:B')\\n"
    (site / "zoo_mine.py").write_text("1 / 0" if target == "zoo-broken" else code)
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages with the fake `pip`, and an empty working directory."""
    site, here = tmp_path / "site", tmp_path / "here"
    (site / "pip").mkdir(parents=True)
    (site / "pip" / "__main__.py").write_text(PIP)
    (site / "pip" / "__init__.py").write_text("")
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("PGZOO_DISABLE_PLUGINS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    yield site
    sys.modules.pop("zoo_mine", None)


def plugins(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main.program, ["plugins", *arguments], prog_name="pgzoo", input=answer)


def test_install_and_uninstall_show_the_command_and_what_changes(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = plugins("install", "zoo-mine", answer="y\n")
    assert done.exit_code == 0, done.output
    assert f"This command will be run:\n  {sys.executable} -m pip install zoo-mine\n" in done.stderr
    assert done.stdout == "Added plugin mine (zoo-mine 1.0): algorithm: mine\n"
    assert capfd.readouterr() == ("", "pip: install zoo-mine\n")
    again = json.loads(plugins("install", "zoo-mine", "--yes", "--json").stdout)
    assert (again["added"], again["changed"], again["removed"]) == ([], [], [])
    done = plugins("uninstall", "mine", "--yes")
    assert f"{sys.executable} -m pip uninstall --yes zoo-mine\n" in done.stderr
    assert done.stdout == "Removed plugin mine (zoo-mine 1.0): algorithm: mine\n"


def test_a_broken_plugin_and_a_package_without_one_are_reported() -> None:
    done = plugins("install", "zoo-broken", "--yes")
    assert done.exit_code == 1
    assert done.stdout.startswith("Added plugin mine (zoo-mine 1.0): broken: ZeroDivisionError: division by zero (")
    assert done.stdout.endswith("zoo_mine.py, line 1)\n")
    done = plugins("install", "zoo-nothing", "--yes")
    assert done.exit_code == 0 and done.stdout.startswith("No plugin was added, changed or removed")


@pytest.mark.parametrize(("answer", "message"), [("n\n", "Nothing was changed."), ("", "There was no answer")])
def test_nothing_is_installed_without_consent(site: Path, answer: str, message: str) -> None:
    done = plugins("install", "zoo-mine", answer=answer)
    assert done.exit_code == 2 and message in done.stderr and not (site / "zoo_mine.py").exists()


MISTAKES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "pip fails": (("install", "fails", "--yes"), 1, "pip failed with exit code 3; its messages are above."),
    "an option": (("install", "--", "--index-url=x"), 2, "Expected a name, a path or a URL, not '--index-url=x'."),
    "no folder": (("install", "./not-there"), 2, "There is no file or folder ./not-there."),
    "no package": (("install", "."), 2, "The folder . has no pyproject.toml"),
    "editable name": (("install", "-e", "zoo-mine"), 2, "--editable needs the path of a folder, such as ./zoo-mine"),
    "unknown": (("uninstall", "mien"), 2, 'No plugin "mien" is installed.'),
    "built in": (("uninstall", "pgzoo.algorithms"), 2, 'The plugin "pgzoo.algorithms" is built in'),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_error_message_and_no_traceback(mistake: str) -> None:
    arguments, code, message = MISTAKES[mistake]
    done = plugins(*arguments)
    (error,) = re.findall("^Error: .*", done.stderr, re.MULTILINE)
    assert done.exit_code == code and error.startswith(f"Error: {message}") and "Traceback" not in done.output


def test_a_missing_pip_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PathFinder, "find_spec", lambda name, *_: None)
    done = plugins("install", "zoo-mine", "--yes")
    assert done.exit_code == 2 and "has no pip. Add it (" in done.stderr and "-m ensurepip" in done.stderr
