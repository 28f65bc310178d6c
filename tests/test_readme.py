"""The code, links and commands in the README work as printed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pgzoo

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_algorithm_is_short_and_runs(tmp_path: Path) -> None:
    example = next(block for block in BLOCKS if block.startswith("# pgzoo_plugin.py"))
    assert len(example.splitlines()) <= 40
    tutorial = (ROOT / "docs" / "tutorial" / "entropy_reinforce.py").read_text(encoding="utf-8")
    assert ast.dump(ast.parse(example)) == ast.dump(ast.parse(tutorial))
    (tmp_path / "pgzoo_plugin.py").write_text(example, encoding="utf-8")
    options = "--env CartPole-v1 --seeds 2 --total-steps 3000 --eval-episodes 5 --entropy-coef 0.02".split()
    options += "--json --tracking-uri none".split()
    done = subprocess.run(
        [sys.executable, "-m", "pgzoo", "run", "entropy-reinforce", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["algorithm"] == "entropy-reinforce"
    assert [seed["status"] for seed in result["seeds"]] == ["finished", "finished"]
    assert all(seed["env_steps"] >= 3000 for seed in result["seeds"])


def test_library_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = next(block for block in BLOCKS if "pgzoo.run(" in block)
    short = example.replace("seeds=4,", "seeds=4, total_steps=1000, eval_episodes=2,")
    assert short != example
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(short, "README.md", "exec"), names)
    assert names["action"] in (0, 1)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_linked_files_exist(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("readme", sorted(ROOT.glob("plugins/*/README.md")), ids=lambda readme: readme.parent.name)
def test_links_of_plugins_are_absolute_because_package_indexes_show_the_readme(readme: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", readme.read_text(encoding="utf-8"))
    assert links and [link for link in links if not link.startswith("https://")] == []
    files = [link.partition("/blob/main/")[2].partition("#")[0] for link in links if "github.com/pgzoo/pgzoo" in link]
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_every_command_shown_exists() -> None:
    shown = set(re.findall(r"^pgzoo (\w+)", README, re.MULTILINE)) | set(re.findall(r"`pgzoo (\w+)", README))
    known = subprocess.run([sys.executable, "-m", "pgzoo", "--help"], capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  (\w+) ", known.stdout, re.MULTILINE))
    assert shown
    assert shown <= listed


def test_public_names_are_importable_and_sorted() -> None:
    assert pgzoo.__all__ == sorted(pgzoo.__all__)
    assert set(dir(pgzoo)) >= set(pgzoo.__all__)
    for name in pgzoo.__all__:
        assert getattr(pgzoo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pgzoo.nonsense  # noqa: B018


def test_importing_pgzoo_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "mlflow", "gymnasium", "pydantic")
    code = f"import sys, pgzoo; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
