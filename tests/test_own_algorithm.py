"""The tutorial on an algorithm of one's own works as it is printed."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

import pgzoo
from pgzoo.cli.main import program
from pgzoo.cli.plugins_new import package
from pgzoo.types import Batch, Need, Output, TrainState, Trajectory

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial"
PAGE = (TUTORIAL / "your-own-algorithm.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "module", "steps", "result", "least"),
    [
        ("your-own-algorithm", "my_idea", "12000", "return_mean", 40),
        ("own-loop", "search", "100000", "greedy_return_mean", 150),
        ("../what-a-loss-gets", "clip", "16000", "return_mean", 40),
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
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    (command,) = re.findall(rf"^pgzoo (run \./{module}.*)$", text, re.MULTILINE)
    Path(f"{module}.py").write_text(block)
    short = f"--total-steps {steps} --eval-episodes 10 --tracking-uri none --no-progress --json".split()
    try:
        done = CliRunner().invoke(program, [*command.split(), *short], prog_name="pgzoo")
    finally:
        sys.modules.pop(module, None)
    assert done.exit_code == 0, done.stderr
    returns = [seed[result] for seed in json.loads(done.stdout.splitlines()[-1])["seeds"]]
    assert f"--seeds {len(returns)}" in command and sum(returns) / len(returns) > least


def test_the_page_on_losses_names_every_field_need_and_method() -> None:
    text = (ROOT / "docs" / "what-a-loss-gets.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))

    def listed(section: str) -> set[str]:
        rows = re.findall(r"^\| (`.*?) \|", sections[section], re.MULTILINE)
        return {name for row in rows for name in re.findall(r"`([a-z_]+)", row)}

    kinds = {"Batch": Batch, "Output of a policy": Output, "Trajectory": Trajectory, "TrainState": TrainState}
    for section, kind in kinds.items():
        assert listed(section) == set(kind._fields), section
    assert listed("needs") - {"info"} == set(get_args(Need))
    properties = set(re.findall(r"`ctx\.([a-z_]+)`", sections["ctx"]))
    assert listed("ctx") | properties == {name for name in vars(pgzoo.UpdateContext) if not name.startswith("_")}


def test_the_first_algorithm_is_printed_in_full() -> None:
    page = (TUTORIAL / "first-algorithm.md").read_text(encoding="utf-8")
    whole = (TUTORIAL / "entropy_reinforce.py").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = [line for line in whole.splitlines()[1:] if line]
    assert [line for block in blocks for line in block.splitlines() if line] == code


def test_the_table_of_files_is_complete() -> None:
    listed = set(re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE))
    unlisted = {"README.md", "src/pgzoo_my_idea/__init__.py", "src/pgzoo_my_idea/py.typed"}
    assert listed | unlisted == set(package("my-idea", "algorithm"))
