"""Complete searches: batches, repeated settings, continuing a study, pruning, and failures."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from program import Folder, eventually, read_until

import pgzoo
from pgzoo import SweepResult, tracking
from pgzoo.analysis.listing import RunFilter, list_local, list_store
from pgzoo.cli import main
from pgzoo.errors import ConfigError, RunFailed, UnknownName, UsageError
from pgzoo.tracking import Home

pytest.importorskip("optuna", reason="the extra sweep is not installed")

Sweep = Callable[..., SweepResult]

SETTINGS: dict[str, Any] = {
    "env": "CartPole-v1",
    "seeds": 2,
    "total_steps": 128,
    "num_envs": 2,
    "rollout_steps": 32,
    "epochs": 1,
    "eval_episodes": 2,
    "policy": {"name": "mlp", "hidden": (8,)},
    "tracking_uri": "none",
    "preset": "none",
}
SPACE = {"learning_rate": "log:1e-4..1e-1", "entropy_coef": [0, 0.01], "estimator": ["gae", "n-step"]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(**options: Any) -> SweepResult:
    given = {"search": SPACE, "trials": 5, "top": 2, "fresh_seeds": 3, **options}
    return pgzoo.sweep("ppo", **{key: value for key, value in SETTINGS.items() if key not in given["search"]} | given)


def scores(result: SweepResult) -> list[tuple[Any, ...]]:
    return [(row.number, row.status, row.settings, row.scores) for row in result.trials]


def test_a_search_runs_from_the_first_trial_to_the_preset_and_can_be_extended(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = sweep(study="first", save_preset="best")
    assert [row.number for row in result.trials] == [0, 1, 2, 3, 4] and not result.interrupted
    assert all(row.status == "finished" and len(row.scores) == 2 for row in result.trials)
    assert [row.score for row in result.trials] == [sum(row.scores) / 2 for row in result.trials]

    # finalists: the best two, trained on seeds that the search didn't use; the winner has the higher score on those
    best = sorted({row.score for row in result.trials if row.score is not None})[-1]
    assert best in [finalist.search_score for finalist in result.finalists]
    assert [len(finalist.scores) for finalist in result.finalists] == [3, 3]
    assert all(key.rpartition("-s")[2] in "234" for key in result.finalists[0].run_keys)
    assert result.winner == max(result.finalists, key=lambda finalist: finalist.fresh_score)

    # `pgzoo.run` gives the same scores as the trial, and the tags of a run name its study and trial
    row, winner = result.trials[0], result.winner
    nested = {key: value for key, value in row.settings.items() if "." not in key}
    alone = pgzoo.run("ppo", **{**SETTINGS, **nested})
    assert tuple(float(run.returns.mean()) for run in alone.runs) == row.scores
    config = yaml.safe_load((home / ".pgzoo/runs" / row.run_keys[1] / "artifacts/config.yaml").read_text())
    parent = config["tags"].pop("pgzoo.parent")
    assert config["tags"] == {"pgzoo.study": "first", "pgzoo.trial": "0"} and config["seeds"] == [1]

    # the run of the trial records its settings and scores; the run of the study records the best score so far
    start, *middle, _, end = (record for record, _ in tracking.records(home / ".pgzoo/runs" / parent) if record)
    assert start["params"] == {"algorithm": "ppo", "env": "CartPole-v1"} | {k: str(v) for k, v in row.settings.items()}
    values = {(name, record["steps"][0]): value for record in middle for name, value in record["m"].items()}
    assert (values["trial/seed_score", 0], values["trial/seed_score", 1]) == row.scores
    assert values["trial/score", 0] == row.score and end["status"] == "FINISHED"
    records = list(tracking.records(home / ".pgzoo/runs" / start["tags"]["pgzoo.parent"]))
    shown = [record["m"] for record, _ in records if record and "trial/best" in record.get("m", {})]
    assert [one["trial/best"] for one in shown] == list(np.maximum.accumulate([row.score for row in result.trials]))
    assert [one["trial/number"] for one in shown] == [0, 1, 2, 3, 4]

    # the files
    assert result.preset is not None and winner is not None
    written = yaml.safe_load(result.preset.read_text())
    assert written["learning_rate"] == winner.settings["learning_rate"]
    assert written["estimator"]["name"] == winner.settings["estimator"] and "seeds" not in written
    repeated = pgzoo.run("ppo", env="CartPole-v1", preset="best", seeds=[2, 3, 4], tracking_uri="none")
    assert tuple(float(run.returns.mean()) for run in repeated.runs) == winner.scores
    assert {file.name for file in result.files} >= {"trials.csv", "finalists.csv", "history.png", "slice.png"}
    with (result.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(one["score"]) for one in rows] == [row.score for row in result.trials]
    assert rows[0]["estimator"] == row.settings["estimator"]

    # repeating the search changes nothing, and with a higher number of trials it only adds trials
    again = sweep(study="first")
    assert scores(again) == scores(result) and again.finalists == result.finalists
    more = sweep(study="first", trials=6)
    assert scores(more)[:5] == scores(result) and len(more.trials) == more.planned == 6
    fewer = sweep(study="first", trials=2, progress=True)
    assert (len(fewer.trials), fewer.planned) == (6, 6)
    assert "6 of 6 trials are done" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"study first exists with other settings: total_steps was 128, and is 256"):
        sweep(study="first", total_steps=256)
    with pytest.raises(ConfigError, match=r"--search learning_rate was log:0\.0001\.\.0\.1, and is 0\.1\.\.0\.2"):
        sweep(study="first", search=SPACE | {"learning_rate": "0.1..0.2"})


def test_trials_score_the_same_in_a_batch_and_one_by_one(home: Path) -> None:
    options: dict[str, Any] = {"sampler": "random", "trials": 3, "top": 1, "fresh_seeds": 2}
    together, one_by_one = sweep(**options), sweep(**options, batch=1, study="other")
    assert scores(together) == scores(one_by_one)
    groups = [{key.partition("-learning")[0] for key in row.run_keys} for row in together.trials]
    assert len(set.union(*groups)) < 3  # fewer groups than trials


def test_a_grid_trains_each_combination_once(home: Path) -> None:
    space = {"estimator": ["gae", "n-step"], "estimator.lam": [0.9, 1.0]}
    result = sweep(search=space, sampler="grid", trials=9, top=1, fresh_seeds=2, study="grid")
    assert [row.settings for row in result.trials] == [
        {"estimator": "gae", "estimator.lam": 0.9},
        {"estimator": "gae", "estimator.lam": 1.0},
        {"estimator": "n-step"},
    ]


def test_two_jobs_give_the_same_scores_as_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {"epochs": [1, 2, 3]}
    options: dict[str, Any] = {"search": space, "sampler": "grid", "trials": 3, "top": 1, "fresh_seeds": 2}
    alone, shared = sweep(**options, study="alone"), sweep(**options, jobs=2, study="shared", progress=True)
    assert scores(shared) == scores(alone)
    assert shared.winner is not None and alone.winner is not None and shared.winner.scores == alone.winner.scores
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trial ")]
    assert len(lines) == 3 and "3 of 3, best " in lines[-1]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_an_interrupted_search_can_finish_all_trials(tmp_path: Path) -> None:
    folder = Folder(tmp_path)

    def worker_processes() -> list[str]:
        assert child.poll() is None
        return Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()

    words = (
        "sweep ppo --env CartPole-v1 --search epochs=1,2,3,4 --sampler grid --trials 4 --jobs 2 --seeds 2 --top 1 "
        "--fresh-seeds 2 --total-steps 6000 --eval-episodes 2 --tracking-uri none --study jobs --json"
    ).split()
    try:
        child = folder.start(*words)
        eventually(lambda: len(list(tmp_path.glob(".pgzoo/runs/*-s?"))) >= 2)
        workers = worker_processes()
        os.kill(int(workers[0]), signal.SIGKILL)
        eventually(lambda: set(worker_processes()) - set(workers))
        workers = worker_processes()
        read_until(child.stderr, "trial ")
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate()
        stopped = folder.parse(out)
        assert child.returncode == 130 and stopped["interrupted"]
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
        result = folder.parse(folder.pgzoo(*words)[0])
    finally:
        folder.close()
    assert sorted(row["settings"]["epochs"] for row in result["trials"]) == [1, 2, 3, 4] and result["winner"]
    assert all(row["status"] == "finished" for row in result["trials"])


def test_a_setting_that_is_drawn_again_is_not_trained_again(home: Path) -> None:
    result = sweep(search={"estimator": ["gae", "n-step"]}, trials=4, top=1, fresh_seeds=2, sampler="random")
    trained = [row for row in result.trials if row.env_steps]
    assert len(trained) <= 2 < len(result.trials)
    twin = next(row for row in result.trials if not row.env_steps)
    assert twin.reason == f"as trial {trained[0].number}" or twin.reason == f"as trial {trained[-1].number}"
    assert twin.scores in [row.scores for row in trained]


def test_a_pruned_trial_has_no_score(home: Path) -> None:
    result = sweep(search={"learning_rate": "log:1e-4..1e-1"}, trials=8, batch=1, pruner="hyperband", total_steps=640)
    pruned = [row for row in result.trials if row.status == "pruned"]
    assert pruned and all(row.score is None and row.env_steps < 2 * 640 for row in pruned)


def test_a_search_without_a_finished_trial_fails(home: Path) -> None:
    with pytest.raises(RunFailed, match=r"No trial has finished, and 3 failed; the last one: .*minibatches"):
        sweep(search={"minibatches": "1000..2000"})


def test_the_objective_can_be_the_area_under_the_learning_curve(home: Path) -> None:
    result = sweep(objective="auc", trials=1, top=1, fresh_seeds=2, log_every=64)
    (row,) = result.trials
    assert row.score is not None and 5 < row.score < 60 and row.score == sum(row.scores) / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "score is over several seeds: give --seeds 2 or more"),
        ({"sweep_axis": {"gamma": (0.9, 1.0)}}, "sweep_axis and search can't be combined"),
        ({"trials": 0}, "--trials must be a whole number of 1 or greater, got 0"),
        ({"fresh_seeds": [5, 6]}, r"--fresh-seeds must be a whole number of 1 or greater, got \[5, 6\]"),
        ({"jobs": 1.5}, "--jobs must be a whole number of 1 or greater, got 1.5"),
        ({"max_hours": "2"}, "--max-hours must be greater than 0, got '2'"),
        ({"learning_rate": 0.1}, r"search learning_rate: learning_rate is searched, and also has the value 0\.1"),
        (
            {"search": {"policy.activation": ["tanh", "relu"]}, "policy": {"activation": "tanh"}},
            "search policy.activation: policy.activation is searched, and also has the value tanh",
        ),
        ({"search": {"estimator": ["gae", "n-step"]}, "estimator": "gae"}, "also has the value gae"),
        ({"search": {"epochs": [1, 2]}, "sampler": "cmaes"}, "this space has no range. Choose another sampler"),
        ({"max_hours": 0}, "--max-hours must be greater than 0"),
        ({"sampler": "best"}, "--sampler must be one of tpe, random"),
        ({"study": "../a"}, "--study ../a: use letters"),
        ({"save_preset": "nowhere/best"}, "the folder nowhere doesn't exist"),
        (
            {"objective": "auc"},
            "a run of 128 steps has no point of the learning curve, .* Give --log-every 12, or more",
        ),
        ({"sampler": "grid"}, "the sampler grid tries every combination of given values"),
        ({"storage": "nonsense://x"}, "The Optuna storage nonsense://x can't be used"),
    ],
)
def test_options_are_checked_before_anything_is_trained(home: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sweep(**options)
    assert not list(home.glob(".pgzoo/runs/*"))


def test_an_initial_policy_of_a_group_needs_a_run_for_each_fresh_seed(home: Path) -> None:
    pgzoo.run("ppo", **SETTINGS, name="teacher")
    with pytest.raises(UsageError, match="teacher has 0 runs of seed 2"):
        sweep(init_from="teacher")
    assert len(list(home.glob(".pgzoo/runs/*"))) == 2


def test_a_saved_preset_has_settings_that_are_none(home: Path) -> None:
    options = {"trials": 1, "top": 1, "fresh_seeds": 2, "sampler": "grid"}
    result = sweep(search={"max_grad_norm": ["none", 1.0]}, target_kl=0.1, save_preset="best", **options)
    assert result.preset is not None
    saved = yaml.safe_load(result.preset.read_text())
    assert saved["max_grad_norm"] is None and saved["target_kl"] == 0.1


def test_a_search_whose_best_trials_fail_on_fresh_seeds_has_no_winner(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pgzoo.search import finals

    train_batch = finals.train_batch

    def failing_on_fresh_seeds(group: Any, *arguments: Any, **named: Any) -> Any:
        assert {one.config.tags["pgzoo.seeds"] for one in group} == {"fresh"}
        done = train_batch(group, *arguments, **named)
        return [replace(outcome, status="failed", reason="the simulator is gone") for outcome in done]

    monkeypatch.setattr(finals, "train_batch", failing_on_fresh_seeds)
    words = "sweep ppo --env CartPole-v1 --seeds 2 --total-steps 64 --num-envs 2 --rollout-steps 16 --eval-episodes 1"
    words += " --search learning_rate=0.01,0.02 --trials 2 --sampler grid --save-preset best --tracking-uri none"
    done = CliRunner().invoke(main.program, [*words.split(), "--no-progress"])
    assert done.exit_code == 1
    assert "There is no winner, because no trial finished on fresh seeds; best was not written" in caplog.text
    assert not (home / "best.yml").exists()


def test_a_search_without_optuna_is_an_error_that_names_the_extra(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgzoo.search.options.present", {"sweep": False}.__getitem__)
    words = "sweep ppo --env CartPole-v1 --search learning_rate=0.1..0.2 --no-progress"
    done = CliRunner().invoke(main.program, words.split())
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr == (
        'Error: A hyperparameter search needs Optuna, which isn\'t installed: pip install "pgzoo[sweep]"\n'
    )


def test_a_preset_is_not_saved_over_a_file_that_no_search_wrote(home: Path) -> None:
    (home / "mine.yml").write_text("gamma: 0.9\n")
    with pytest.raises(UsageError, match=r"mine\.yml exists and wasn't written by a search"):
        sweep(save_preset="mine")
    assert (home / "mine.yml").read_text() == "gamma: 0.9\n"


def test_trials_added_by_other_programs_are_excluded_and_reported(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    import optuna

    options = {"search": {"gamma": "0.9..0.99"}, "study": "shared", "storage": f"sqlite:///{home}/optuna.db"}
    before = sweep(**options, trials=1)
    other = optuna.load_study(study_name="shared", storage=options["storage"])
    gamma = optuna.distributions.FloatDistribution(0.9, 0.99)
    other.add_trial(optuna.trial.create_trial(params={"gamma": 0.95}, distributions={"gamma": gamma}, value=1e6))
    after = sweep(**options, trials=2)
    assert [row.number for row in after.trials] == [0, 2] and after.trials[0] == before.trials[0]
    assert [r.getMessage() for r in caplog.records if "another program has added the trials 1." in r.getMessage()]


def test_a_study_can_be_joined_and_deleted_by_name(home: Path) -> None:
    space = {**SPACE, "policy.hidden": [[4], [4, 4]], "target_kl": ["none", 0.1], "normalize_advantages": [True, False]}
    options: dict[str, Any] = {"study": "shared", "search": space, "trials": 3, "policy": "mlp", "tags": {"a": "b"}}
    begun = sweep(**options, max_hours=1e-9)
    assert begun.trials == () and begun.winner is None
    words = ["sweep", "--join", "shared", "--tracking-uri", "none", "--json"]
    done = CliRunner().invoke(main.program, words)
    assert done.exit_code == 0, done.output
    joined = json.loads(done.stdout)
    assert [row["status"] for row in joined["trials"]] == ["finished"] * 3 and joined["winner"] is None
    key = joined["trials"][2]["run_keys"][0]
    config = yaml.safe_load((home / ".pgzoo/runs" / key / "artifacts/config.yaml").read_text())
    assert config["tags"].items() >= {"a": "b", "pgzoo.study": "shared", "pgzoo.trial": "2"}.items()
    ended = sweep(**options)
    assert [list(row.scores) for row in ended.trials] == [row["scores"] for row in joined["trials"]] and ended.winner
    done = CliRunner().invoke(main.program, ["sweep", "--join", "other"])
    assert done.exit_code == 2 and "Error: No study other in " in done.stderr
    done = CliRunner().invoke(main.program, ["runs", "delete", "shared", "--yes", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["studies"] == ["shared"], done.output
    assert not list(home.glob(".pgzoo/runs/*")) and not list(home.glob(".pgzoo/studies/*"))
    done = CliRunner().invoke(main.program, ["sweep", "--join", "shared"])
    assert done.exit_code == 2 and "Error: No study shared in " in done.stderr


@pytest.mark.slow
def test_a_study_and_its_trials_are_runs_in_mlflow(home: Path, empty_database: Path) -> None:
    shutil.copyfile(empty_database, home / "mlflow.db")
    result = sweep(trials=1, top=1, fresh_seeds=2, study="logged", tracking_uri=None)
    eventually(lambda: not tracking.pending(Home.find()))
    from mlflow import MlflowClient  # here: at the top, it would cost each pytest process a second

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("pgzoo/CartPole-v1").experiment_id
    (run,) = client.search_runs([experiment], "tags.`pgzoo.kind` = 'study'")
    assert result.run_id in (run.info.run_id, None) and result.winner is not None  # None if the upload took longer
    assert run.info.run_name == "logged" and run.data.tags["pgzoo.kind"] == "study"
    assert run.data.metrics["trial/best"] == result.trials[0].score
    assert run.data.metrics["winner/fresh_score"] == result.winner.fresh_score
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"trials.csv", "finalists.csv"}
    query = "tags.`pgzoo.study` = 'logged' and tags.`pgzoo.trial` = '0'"
    runs = client.search_runs([experiment], query)
    (trial,) = (one for one in runs if one.data.tags.get("pgzoo.kind") == "trial")
    assert trial.data.tags["mlflow.parentRunId"] == run.info.run_id and trial.info.status == "FINISHED"
    assert trial.data.metrics["trial/score"] == result.trials[0].score
    assert trial.data.params["learning_rate"] == str(result.trials[0].settings["learning_rate"])
    runs.remove(trial)
    assert {one.data.tags["mlflow.parentRunId"] for one in runs} == {trial.info.run_id}
    assert sorted(one.data.tags.get("pgzoo.seeds", "search") for one in runs) == ["fresh"] * 2 + ["search"] * 2
    # lists and selectors only find the runs of single seeds
    listed = list_store(f"sqlite:///{home}/mlflow.db", RunFilter(), 0, False, lambda *_: None)
    assert {one.run_id for (one,) in listed.rows} == {one.info.run_id for one in runs}
    local = list_local(Home.find(), RunFilter(), 0, False, lambda *_: None)
    assert {one.run_id for (one,) in local.rows} == {one.info.run_id for one in runs}
    with pytest.raises(UnknownName):
        tracking.find("logged", Home.find())
    assert sweep(trials=1, top=1, fresh_seeds=2, study="logged", tracking_uri=None).run_id == run.info.run_id
    eventually(lambda: not tracking.pending(Home.find()))
    shutil.rmtree(home / ".pgzoo" / "runs" / runs[0].data.tags["pgzoo.run_key"])  # as if another machine had trained it
    words = ["runs", "delete", "logged", "--yes", "--tracking-uri", f"sqlite:///{home}/mlflow.db"]
    done = CliRunner().invoke(main.program, words)
    assert "Deleted 5 folders; marked 6 runs as deleted in MLflow." in done.output
    assert client.search_runs([experiment]) == [] and not list(home.glob(".pgzoo/runs/*"))


@pytest.mark.slow
def test_a_killed_or_interrupted_search_can_be_continued(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    words = (
        "sweep ppo --env CartPole-v1 --search learning_rate=log:1e-4..1e-2 --trials 4 --batch 1 --seeds 2 --top 1 "
        "--fresh-seeds 2 --total-steps 6000 --eval-episodes 2 --tracking-uri none --study killed --json"
    ).split()
    try:
        child = folder.start(*words)
        read_until(child.stderr, "trial   0")
        eventually(lambda: len(list(tmp_path.glob(".pgzoo/runs/*-s?"))) == 4)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()

        child = folder.start(*words)
        text = read_until(child.stderr, "trial   2")
        assert "1 of 4 trials are done" in text
        eventually(lambda: len(list(tmp_path.glob(".pgzoo/runs/*-s?"))) == 8)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate()
        stopped = folder.parse(out)
        assert child.returncode == 130 and stopped["interrupted"] and stopped["winner"] is None
        assert [row["trial"] for row in stopped["trials"]] == [0, 2]

        result = folder.parse(folder.pgzoo(*words)[0])
    finally:
        folder.close()
    rows = {row["trial"]: row for row in result["trials"]}
    assert [rows[number] for number in (0, 2)] == stopped["trials"]
    assert len(rows) == 4 and all(row["status"] == "finished" for row in rows.values())
    assert len({row["settings"]["learning_rate"] for row in rows.values()}) == 4 and result["winner"]


def test_the_command_prints_the_winner(home: Path) -> None:
    words = (
        "sweep ppo --env CartPole-v1 --preset none --search learning_rate=log:1e-4..1e-2 --trials 2 --seeds 2 --top 1 "
        "--fresh-seeds 3 --total-steps 128 --num-envs 2 --eval-episodes 2 --tracking-uri none --study s --save-preset p"
    )
    done = CliRunner().invoke(main.program, words.split())
    assert done.exit_code == 0, done.output
    assert "2 of 2 trials finished, 0 pruned, 0 failed" in done.stdout
    heads = next(line for line in done.stdout.splitlines() if line.startswith("trial "))
    assert heads.split("  ")[1:3] == ["in the search", "fresh seeds"] and heads.split()[-2:] == [
        "shrinkage",
        "settings",
    ]
    assert "Winner    trial" in done.stdout and "pgzoo run ppo --env CartPole-v1 --preset p.yml" in done.stdout
    assert "trial   1" in done.stderr and "2 of 2, best" in done.stderr
