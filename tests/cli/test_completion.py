"""Shell completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pgzoo.cli import main


def completions(line: str) -> list[str]:
    """Return what bash offers for the last word of a line; after a trailing space, that word is empty."""
    words = line.split(" ")
    env = {"_PGZOO_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = CliRunner().invoke(main.program, [], prog_name="pgzoo", env=env)
    assert result.exit_code == 0, result.output
    assert not result.stderr
    return result.stdout.split()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path))
    for key, name, seed in [("20260101-0-aa-s0", "old s0", 0), ("20260202-0-bb-s3", "new s3", 3)]:
        folder = tmp_path / "runs" / key
        folder.mkdir(parents=True)
        start = {"t": "start", "ts": 1, "key": key, "name": name, "seed": seed, "group": key.rpartition("-")[0]}
        start |= {"algorithm": "ppo", "env": "CartPole-v1", "params": {}, "tags": {}, "uri": "none", "experiment": "x"}
        (folder / "journal.jsonl").write_text(json.dumps(start) + "\n")
    return tmp_path


@pytest.mark.usefixtures("home")
def test_runs_are_completed_by_name_and_group_newest_first() -> None:
    known = ["plain,new", "plain,old", "plain,20260202-0-bb", "plain,20260101-0-aa"]
    for command in ("evaluate", "video", "export", "resume", "repro", "compare", "run ppo --init-from"):
        assert completions(f"pgzoo {command} ") == known, command
    assert completions("pgzoo compare old ne") == ["plain,new"]
    assert completions("pgzoo resume 20260202-0-bb-") == ["plain,20260202-0-bb-s3"]
    assert completions("pgzoo resume nothing") == []
    assert completions("pgzoo evaluate some-fol") == ["dir,some-fol"]


def test_environments_are_completed_without_old_versions() -> None:
    assert completions("pgzoo envs FrozenLa") == ["plain,FrozenLake-v1", "plain,FrozenLake8x8-v1"]
    assert completions("pgzoo run ppo --seeds 3 --env CartP") == ["plain,CartPole-v1"]


def test_components_and_options_are_completed() -> None:
    assert completions("pgzoo run reinforce-b") == ["plain,reinforce-baseline"]
    assert completions("pgzoo run ppo --policy ls") == ["plain,lstm"]
    assert completions("pgzoo estimators ga") == ["plain,gae"]
    assert completions("pgzoo run ppo --clip-r") == ["plain,--clip-range", "plain,--clip-range-schedule"]


def test_completion_prints_only_candidates_and_does_not_import_torch(home: Path) -> None:
    (home / "pgzoo_plugin.py").write_text("raise ValueError('broken')\n")
    env = {
        **os.environ,
        "_PGZOO_COMPLETE": "bash_complete",
        "COMP_WORDS": "pgzoo run ppo --env CartP",
        "COMP_CWORD": "4",
    }
    code = "import sys\nfrom pgzoo.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=home, check=True)
    assert (done.stdout, done.stderr) == ("plain,CartPole-v1\nFalse\n", "")
