"""The code in the tutorials on writing your own algorithm works as printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from click.testing import CliRunner
from program import Folder, eventually

import pgzoo
from pgzoo.cli.main import program
from pgzoo.cli.plugins_new import package
from pgzoo.training import checkpoint
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
def test_the_algorithm_on_the_page_runs_from_its_file_and_learns(
    page: str, module: str, steps: str, result: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random policy gets a return of about 22."""
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


def test_the_page_on_losses_lists_every_field_need_and_ctx_attribute() -> None:
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


@pytest.fixture
def rnd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The algorithm of auxiliary-network.md, in the working directory."""
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PGZOO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copy(TUTORIAL / "a2c_rnd.py", tmp_path)
    yield "./a2c_rnd.py:A2CRND"
    sys.modules.pop("a2c_rnd", None)


def last_state(run: Path) -> TrainState:
    return checkpoint.latest(run / checkpoint.FOLDER_NAME).state


def test_the_auxiliary_networks_differ_per_seed_and_are_resumed_exactly(rnd: str) -> None:
    settings = {"num_envs": 4, "total_steps": 600, "checkpoint_every": 200, "eval_episodes": 2, "tracking_uri": "none"}
    pgzoo.run(rnd, env="CartPole-v1", seeds=2, name="rnd", progress="none", **settings)
    runs = sorted(Path(".pgzoo/runs").iterdir())
    whole = [last_state(run) for run in runs]
    for tree, weight in (("params", "rnd.predictor.weight.0"), ("buffers", "rnd.target.weight.0")):
        one, other = (getattr(state, tree)[weight] for state in whole)
        assert not torch.equal(one, other), weight
    for run in runs:
        *_, last = checkpoint.paths(run / checkpoint.FOLDER_NAME)
        shutil.rmtree(last)  # as if the run had been killed before this checkpoint
    before = [last_state(run) for run in runs]
    done = CliRunner().invoke(program, ["resume", "rnd", "--import", "a2c_rnd.py", "--no-progress"], prog_name="pgzoo")
    assert done.exit_code == 0, done.stderr
    for run, cut, expected in zip(runs, before, whole, strict=True):
        state = last_state(run)
        for tree in ("params", "buffers", "optimizer"):
            saved, now = getattr(expected, tree), getattr(state, tree)
            assert saved.keys() == now.keys() and all(torch.equal(saved[name], now[name]) for name in saved), tree
        learned = "rnd.predictor.weight.0"
        assert not torch.equal(cut.params[learned], state.params[learned])
        assert torch.equal(cut.buffers["rnd.target.weight.0"], state.buffers["rnd.target.weight.0"])


@pytest.mark.slow
def test_the_commands_of_the_auxiliary_network_page_work_after_kill_9(rnd: str, tmp_path: Path) -> None:
    """As the page says, `pgzoo repro` retrains the killed and resumed run and finds no difference."""
    page = (TUTORIAL / "auxiliary-network.md").read_text(encoding="utf-8")
    commands = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    start, _, check, resume, repro = re.findall(r"^pgzoo (.*)$", commands, re.MULTILINE)
    folder = Folder(tmp_path)
    try:
        short = "--total-steps 20000 --checkpoint-every 1000 --eval-episodes 5 --tracking-uri none"
        child = folder.start(*start.split(), *short.split())
        eventually(lambda: list(tmp_path.glob(".pgzoo/runs/*/checkpoints/step-*")) or child.poll() is not None)
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        folder.pgzoo(*resume.split())
        assert folder.pgzoo(*repro.split())[0].count("are equal, bit for bit") == 4
        folder.pgzoo(*check.split())
    finally:
        folder.close()


@pytest.mark.parametrize(
    ("name", "file"), [("first-algorithm", "entropy_reinforce.py"), ("auxiliary-network", "a2c_rnd.py")]
)
def test_the_code_blocks_of_a_page_add_up_to_the_whole_file(name: str, file: str) -> None:
    page = (TUTORIAL / f"{name}.md").read_text(encoding="utf-8")
    whole = (TUTORIAL / file).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = [line for line in whole.splitlines()[1:] if line]
    assert [line for block in blocks for line in block.splitlines() if line] == code


def test_the_table_of_files_is_complete() -> None:
    listed = set(re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE))
    unlisted = {"README.md", "src/pgzoo_my_idea/__init__.py", "src/pgzoo_my_idea/py.typed"}
    assert listed | unlisted == set(package("my-idea", "algorithm"))
