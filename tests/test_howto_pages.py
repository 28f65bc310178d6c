"""The code in the how-to pages works as printed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from program import eventually

import pgzoo

DOCS = Path(__file__).resolve().parent.parent / "docs"
QUICK: dict[str, Any] = {"tracking_uri": "none", "eval_episodes": 2, "total_steps": 500}


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def code(page: str, kind: str) -> str:
    return blocks(page, kind)[0]


@pytest.fixture
def corridor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file `corridor.py` of custom-environment.md, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("corridor.py").write_text(code("custom-environment.md", "python"), encoding="utf-8")
    yield
    sys.modules.pop("corridor", None)
    for name in ("Corridor", "Corridor-v0"):
        gym.registry.pop(name, None)


@pytest.mark.usefixtures("corridor")
def test_the_environment_in_custom_environment_md_trains_and_terminates() -> None:
    result = pgzoo.run("a2c", env="Corridor-v0", imports=["./corridor.py"], env_kwargs={"length": 8}, **QUICK)
    assert result.runs[0].status == "finished"
    corridor = gym.make("Corridor-v0", length=3)
    assert corridor.observation_space.contains(corridor.reset(seed=0)[0])
    assert [corridor.step(1)[2] for _ in range(3)][-1]


@pytest.mark.usefixtures("corridor")
def test_the_python_blocks_of_custom_environment_md_work_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []

    def quick_run(*args: Any, **settings: Any) -> None:
        results.append(run(*args, **settings, **QUICK))

    run = pgzoo.run
    monkeypatch.setattr(pgzoo, "run", quick_run)
    names: dict[str, Any] = {}
    for block in blocks("custom-environment.md", "python")[1:]:  # the first is the file
        exec(block, names)
    assert [result.plan.config.env for result in results] == ["Corridor-v0", "corridor:Corridor"]
    assert [result.status for result in results] == ["finished", "finished"]


def test_the_network_in_custom_network_md_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text(code("custom-network.md", "python"), encoding="utf-8")
    result = pgzoo.run("a2c", env="CartPole-v1", policy="./my_net.py:residual", seeds=2, **QUICK)
    assert [run.status for run in result.runs] == ["finished", "finished"]
    assert any("layer.weight" in name for name in result.policy(seed=1).params)


@pytest.mark.slow
def test_the_cluster_script_trains_resumes_and_stops_on_sigterm(tmp_path: Path) -> None:
    script = code("cluster.md", "sh")
    short = script.replace("--seed ", "--total-steps 2000 --eval-episodes 2 --seed ")
    assert short != script
    environment = os.environ | {
        "HOME": str(tmp_path),
        "SLURM_ARRAY_TASK_ID": "3",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for expected in ("Trained", "3  finished"):
        done = subprocess.run(
            ["bash", "-c", short], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and expected in done.stdout, done.stderr
    [run] = (tmp_path / "pgzoo-array" / "3" / "runs").iterdir()
    assert run.name.endswith("-s3")
    # preempted: Slurm sends SIGTERM to the script and to pgzoo
    endless = short.replace("--total-steps 2000", "--total-steps 10000000 --compile off")
    environment["SLURM_ARRAY_TASK_ID"] = "4"
    with subprocess.Popen(["bash", "-c", endless], cwd=tmp_path, env=environment, start_new_session=True) as child:
        eventually(lambda: list(tmp_path.glob("pgzoo-array/4/runs/*/journal.jsonl")))
        os.killpg(child.pid, signal.SIGTERM)
        assert child.wait() == 128 + signal.SIGTERM
    [run] = (tmp_path / "pgzoo-array" / "4" / "runs").iterdir()
    assert '"reason":"interrupted by SIGTERM"' in (run / "journal.jsonl").read_text()
