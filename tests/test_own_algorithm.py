"""The tutorial on an algorithm of one's own works as it is printed."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pgzoo.cli.main import program
from pgzoo.cli.plugins_new import package

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "tutorial" / "your-own-algorithm.md").read_text(encoding="utf-8")


def test_the_class_runs_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PGZOO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (command,) = re.findall(r"^pgzoo (run \./my_idea.*)$", PAGE, re.MULTILINE)
    Path("my_idea.py").write_text(block)
    short = "--total-steps 12000 --eval-episodes 10 --tracking-uri none --no-progress --json".split()
    try:
        done = CliRunner().invoke(program, [*command.split(), *short], prog_name="pgzoo")
    finally:
        sys.modules.pop("my_idea", None)
    assert done.exit_code == 0, done.stderr
    returns = [seed["return_mean"] for seed in json.loads(done.stdout.splitlines()[-1])["seeds"]]
    assert len(returns) == 4 and sum(returns) / 4 > 40  # a random policy gets about 22


def test_the_table_of_files_is_complete() -> None:
    listed = set(re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE))
    unlisted = {"README.md", "src/pgzoo_my_idea/__init__.py", "src/pgzoo_my_idea/py.typed"}
    assert listed | unlisted == set(package("my-idea", "algorithm"))
