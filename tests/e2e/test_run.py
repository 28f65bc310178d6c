"""`pgzoo run`, from its command line to the contents of the default MLflow store."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import select
import sys
from typing import TYPE_CHECKING, Any

import pytest
from program import PATIENCE

from pgzoo.tracking.locks import lock

if TYPE_CHECKING:
    from program import Folder

    Trained = tuple[Folder, dict[str, Any]]

KEYS = ["group", "experiment", "tracking_uri", "algorithm", "env", "status"]
KEYS += ["env_steps", "wall_seconds", "steps_per_second", "seeds", "timing"]
SEED_KEYS = ["seed", "run_key", "run_id", "status", "reason", "env_steps", "return_mean", "return_std"]
SEED_KEYS += ["return_min", "return_max", "length_mean", "episodes", "greedy_return_mean", "cut_episodes"]
SEED_KEYS += ["greedy_cut_episodes"]
SHORT = ("--env", "CartPole-v1", "--total-steps", "1000", "--eval-episodes", "8")
FILES = [
    "config.yaml",
    "episodes.csv",
    "evaluation.csv",
    "plots/evaluation_histogram.png",
    "plots/learning_curve.png",
    "policy/policy.json",
    "policy/policy.safetensors",
]


def test_json_output_describes_the_run_and_each_seed(trained: Trained) -> None:
    folder, answer = trained
    assert list(answer) == KEYS
    assert list(answer["timing"]) == ["collect", "estimate", "update", "track", "compile", "evaluate"]
    assert (answer["algorithm"], answer["env"], answer["status"]) == ("reinforce", "CartPole-v1", "finished")
    assert answer["experiment"] == "pgzoo/CartPole-v1"
    assert answer["tracking_uri"] == f"sqlite:///{folder.path}/mlflow.db"
    assert answer["steps_per_second"] == pytest.approx(answer["env_steps"] / answer["wall_seconds"])
    assert [seed["seed"] for seed in answer["seeds"]] == [3, 7]
    assert sum(seed["env_steps"] for seed in answer["seeds"]) == answer["env_steps"]
    for seed in answer["seeds"]:
        assert list(seed) == SEED_KEYS
        assert seed["run_key"] == f"{answer['group']}-s{seed['seed']}"
        assert seed["episodes"] == 100 and 8 <= seed["return_min"] <= seed["return_mean"] <= seed["return_max"] <= 500
        assert 6000 <= seed["env_steps"] < 6000 + 8 * 500
    assert folder.created == {".mlflow.db.lock", ".pgzoo", "mlartifacts", "mlflow.db"} | {
        name for name in folder.created if name.startswith("mlflow.db-")
    }


def test_mlflow_has_params_tags_curves_and_files_of_each_seed(trained: Trained) -> None:
    folder, answer = trained
    curves = "'train/return_mean', 'eval/return_mean', 'loss/policy', 'policy/entropy', 'optim/grad_norm'"
    runs = folder.ask(f"[look(r, {curves}) for r in runs('pgzoo/CartPole-v1')]")
    assert sorted(run["name"] for run in runs) == ["reinforce s3", "reinforce s7"]
    for run in runs:
        told = next(seed for seed in answer["seeds"] if f"s{seed['seed']}" == run["name"].split()[1])
        assert (run["status"], run["id"]) == ("FINISHED", told["run_id"])
        assert run["files"] == FILES
        params = run["params"]
        assert (params["algorithm"], params["env"], params["seed"]) == ("reinforce", "CartPole-v1", str(told["seed"]))
        assert (params["total_steps"], params["policy.hidden"], params["estimator.name"]) == (
            "6000",
            "64",
            "reward-to-go",
        )
        tags = run["tags"]
        typed = "pgzoo run reinforce --env CartPole-v1 --seeds 3,7 --total-steps 6000 --tag a=b --json"
        assert (tags["mlflow.source.name"], tags["a"]) == (typed, "b")
        assert (tags["pgzoo.group"], tags["pgzoo.run_key"]) == (answer["group"], told["run_key"])
        assert "mlflow.parentRunId" not in tags and "seed" in tags["mlflow.note.content"]
        assert {"torch.version", "gymnasium.version", "pgzoo.version", "cpu.threads"} <= set(tags)
        grid = list(range(1000, told["env_steps"] + 1, 1000))
        for name in ("train/return_mean", "loss/policy", "policy/entropy", "optim/grad_norm"):
            assert [step for step, _ in run["curves"][name]] == grid, name
        # at the step at which it was due, which is the same for all seeds
        assert run["curves"]["eval/return_mean"] == [[6000, pytest.approx(told["return_mean"])]]
        assert run["metrics"]["summary/return_final"] == pytest.approx(told["return_mean"])


def test_evaluate_reproduces_the_final_evaluation(trained: Trained) -> None:
    folder, answer = trained
    seed = answer["seeds"][0]
    (row,) = json.loads(folder.pgzoo("evaluate", seed["run_id"], "--json")[0])
    assert {key: row[key] for key in row if key in SEED_KEYS} == {key: seed[key] for key in SEED_KEYS if key in row}
    rows = json.loads(folder.pgzoo("evaluate", answer["group"], "--deterministic", "--json")[0])
    assert [row["return_mean"] for row in rows] == [seed["greedy_return_mean"] for seed in answer["seeds"]]
    _, err = folder.pgzoo("evaluate", "reinforec s3", code=2)
    assert 'Did you mean "reinforce s3"?' in err


def test_the_config_artifact_reproduces_one_seed_of_several(trained: Trained, folder: Folder) -> None:
    before, answer = trained
    key = answer["seeds"][1]["run_key"]
    config = before.path / ".pgzoo" / "runs" / key / "artifacts" / "config.yaml"
    again = folder.run("--config", str(config))
    (seed,) = again["seeds"]
    same = [name for name in SEED_KEYS if name not in ("run_key", "run_id")]
    assert {k: seed[k] for k in same} == {k: answer["seeds"][1][k] for k in same}

    def episodes(place: Folder, run_key: str) -> list[list[str]]:
        with (place.path / ".pgzoo" / "runs" / run_key / "artifacts" / "episodes.csv").open() as file:
            return list(csv.reader(file))

    assert episodes(folder, seed["run_key"]) == episodes(before, key)


def test_the_summary_lists_each_seed_and_the_next_commands(folder: Folder) -> None:
    out, err = folder.pgzoo("run", "reinforce", *SHORT, "--seeds", "2", PGZOO_HOME=str(folder.path / "moved"))
    assert folder.created == {"moved"}
    assert "reinforce on CartPole-v1, 2 seeds: 2,000 steps" in err.splitlines()
    assert "\x1b" not in out + err
    lines = [line.split() for line in out.splitlines()]
    assert ["seed", "status", "steps", "mean", "std", "min", "max", "greedy", "mean"] in lines
    assert [line[0] for line in lines if line[1:2] == ["finished"]] == ["0", "1"]
    assert any(line[:1] == ["all"] and len(line) == 7 for line in lines)
    group = re.search(r"experiment pgzoo/CartPole-v1\n +group (\S+)", out)
    assert group and f"pgzoo evaluate {group[1]}\n" in out and "pgzoo ui\n" in out
    assert f"sqlite:///{folder.path}/moved/mlflow.db" in out


def test_a_terminal_shows_a_progress_bar_and_the_upload(folder: Folder) -> None:
    no_database_yet = lock(folder.path / ".mlflow.db.lock")  # so that the upload doesn't end before the summary
    assert no_database_yet
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        os.chdir(folder.path)
        os.environ.update(folder.env, TERM="xterm-256color", COLUMNS="80", LINES="40")
        os.execv(sys.executable, [*folder.command, "run", "reinforce", *SHORT[:2], "--total-steps", "400000"])
    seen = ""
    while select.select([terminal], [], [], PATIENCE)[0]:
        try:
            seen += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        if "Uploading to MLflow" in seen:
            no_database_yet.release()
    no_database_yet.release()
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, seen
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert "reinforce on CartPole-v1, seed 0: 400,000 steps" in text
    assert re.search(r"[━╸╺] +\d+% \d:\d\d:\d\d mean return [\d.]+ +[\d,]+ steps/s", text), text
    assert text.index("greedy mean") < text.index("Uploading to MLflow") < text.index("pgzoo ui")
    assert max(len(line) for part in text.partition("Trained")[0].splitlines() for line in part.split("\r")) <= 80


def test_a_profile_is_printed_and_logged_as_metrics(shared: Folder) -> None:
    short = ("reinforce", "--env", "CartPole-v1", "--total-steps", "2000", "--eval-episodes", "4", "--profile")
    out, _ = shared.pgzoo("run", *short, "--experiment", "profiled")
    for part in ("collect/environment", "collect/acting", "collect/storing", "update", "track"):
        assert re.search(rf"^{part} +\d+\.\d\d +\d+\.\d%$", out, re.M), out
    shared.sync()
    (run,) = shared.ask("[look(r) for r in runs('profiled')]")
    (seconds,) = re.findall(r"^collect/environment +(\d+\.\d\d)", out, re.M)
    assert run["metrics"]["profile/collect/environment"] == pytest.approx(float(seconds), abs=0.006)
