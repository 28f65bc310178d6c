"""The training loop in docs/how-it-works.md runs as printed, and the files that the overview names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pgzoo

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")


def test_the_training_loop_on_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    short = block.replace("total_steps=20_000", "total_steps=5_000, eval_episodes=2")
    assert short != block and len(block.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(short, "how-it-works.md", "exec"), {})
    *updates, last = capsys.readouterr().out.splitlines()
    assert updates and last.startswith("('finished', 'finished', 'finished', 'finished')")
    assert not list(tmp_path.iterdir())  # nothing is tracked


def test_files_in_the_overview_exist() -> None:
    overview = TEXT.split("```python")[0]
    drawing = (ROOT / "docs" / "images" / "parts.svg").read_text(encoding="utf-8")
    rooms = "cli|config|runs|training|estimators|ops|algorithms|registry|tracking"
    named = re.findall(rf"\b(?:{rooms})/(?:\w+\.py)?", overview + drawing)
    assert len(named) > 10
    for path in named:
        assert (ROOT / "pgzoo" / path).exists(), path


def test_a_plan_takes_the_arguments_of_a_run() -> None:
    plan = pgzoo.plan("reinforce", env="CartPole-v1", seeds=3, preset="none", policy={"name": "mlp", "hidden": (8,)})
    assert plan.seeds == (0, 1, 2) and plan.config.env == "CartPole-v1"
    assert plan.config.policy.settings.hidden == (8,)
    with pytest.raises(pgzoo.PgzooError, match="reinforce"):
        pgzoo.plan("reinfroce", env="CartPole-v1")


def test_the_version_matches_pyproject() -> None:
    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared and pgzoo.__version__ == declared[1]
