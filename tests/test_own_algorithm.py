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
TUTORIAL = ROOT / "docs" / "tutorial"
PAGE = (TUTORIAL / "your-own-algorithm.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "module", "steps", "result", "least"),
    [
        ("your-own-algorithm", "my_idea", "12000", "return_mean", 40),
        ("own-loop", "search", "100000", "greedy_return_mean", 150),
    ],
)
def test_the_class_runs_from_its_file(
    page: str, module: str, steps: str, result: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns: a random policy gets about 22."""
    text = (TUTORIAL / f"{page}.md").read_text(encoding="utf-8")
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PGZOO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(rf"^pgzoo (run \./{module}.*)$", text, re.MULTILINE)
    Path(f"{module}.py").write_text(block)
    short = f"--total-steps {steps} --eval-episodes 10 --tracking-uri none --no-progress --json".split()
    try:
        done = CliRunner().invoke(program, [*command.split(), *short], prog_name="pgzoo")
    finally:
        sys.modules.pop(module, None)
    assert done.exit_code == 0, done.stderr
    returns = [seed[result] for seed in json.loads(done.stdout.splitlines()[-1])["seeds"]]
    assert len(returns) == 4 and sum(returns) / 4 > least


def test_the_table_of_files_is_complete() -> None:
    listed = set(re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE))
    unlisted = {"README.md", "src/pgzoo_my_idea/__init__.py", "src/pgzoo_my_idea/py.typed"}
    assert listed | unlisted == set(package("my-idea", "algorithm"))
