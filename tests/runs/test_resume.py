"""Resuming and reproducing runs: errors, warnings, bad checkpoints, and what is restored."""

from __future__ import annotations

import io
import json
import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from program import eventually

from pgzoo.config import Layer
from pgzoo.envs.state import Attributes
from pgzoo.errors import CheckpointError, RunFailed, StoreError, UsageError
from pgzoo.registry import PluginCatalog, PluginInfo, Registry, discover
from pgzoo.runs import runner
from pgzoo.runs.reproduce import differences, reproduce
from pgzoo.runs.resolve import compose
from pgzoo.runs.result import Result
from pgzoo.runs.resume import resume
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home, find
from pgzoo.tracking.journal import records
from pgzoo.training import checkpoint
from pgzoo.training.events import EpisodesFinished, Event, UpdateDone
from pgzoo.training.loop import Control

Train = Callable[..., Result]

GOLDEN = Path(__file__).parents[1] / "golden"


def checkpoints(home: Home, result: Result, member: int = 0) -> list[Path]:
    return checkpoint.paths(home.runs / result.runs[member].run_key / checkpoint.FOLDER_NAME)


def again(catalog: PluginCatalog, home: Home, ref: str, **how: Any) -> Result:
    return resume(find(ref, home), catalog, **how)


def parameters(result: Result) -> dict[str, bytes]:
    return {name: leaf.numpy().tobytes() for name, leaf in result.ended.state.params.items()}


def test_the_last_three_checkpoints_and_the_best_are_kept(
    trained: Train, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: dict[Path, float] = {}
    save = checkpoint.save

    def spy(folder: Path, state: Any, about: Any, *, score: float) -> Path:
        assert score == pytest.approx(np.nanmean(state.recent))
        path = save(folder, state, about, score=score)
        scores[path] = score
        return path

    monkeypatch.setattr(checkpoint, "save", spy)
    kept = checkpoints(home, trained(total_steps=2000, learning_rate=1.0))  # returns soon decrease
    best = max(scores, key=lambda path: (scores[path], path.name))
    assert kept == sorted({best, *list(scores)[-3:]})


def test_a_run_resumed_with_more_steps_equals_one_long_run(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    short = trained(learning_rate_schedule="constant")
    longer = again(catalog, home, short.group, total_steps=1200)
    home_of_whole = trained(total_steps=1200, learning_rate_schedule="constant")
    assert parameters(longer) == parameters(home_of_whole)
    assert longer.steps_before == short.env_steps
    assert longer.speed == pytest.approx((longer.env_steps - short.env_steps) / longer.timing["loop"])


@pytest.mark.parametrize(
    ("algorithm", "before", "after"),
    [({}, 0, 2), ({"algorithm": "impala", "lag": 1, "rollout_steps": 20}, 2, 0)],
    ids=["more", "fewer-lag"],
)
def test_a_run_resumed_with_other_rollout_workers_equals_one_long_run(
    algorithm: dict[str, Any], before: int, after: int, trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    settings = {**algorithm, "learning_rate_schedule": "constant"}
    short = trained(**settings, rollout_workers=before)
    longer = again(catalog, home, short.group, total_steps=1000, rollout_workers=after)
    assert longer.plan.config.rollout_workers == after and (longer.plan.rollouts is None) == (not after)
    assert parameters(longer) == parameters(trained(**settings, total_steps=1000))


@pytest.mark.parametrize("backend", ["native", "sync", "compiled"])
def test_members_that_ended_before_the_others_are_resumed_exactly(
    backend: str, trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    settings = {"backend": backend, "seeds": (0, 1, 2, 3), "rollout_steps": 16, "checkpoint_every": 10_000}
    settings |= {"learning_rate_schedule": "constant"}
    short = trained(**settings, total_steps=616)
    assert len(set(short.ended.state.updates.tolist())) > 1  # some members ended earlier
    longer = again(catalog, home, short.group, total_steps=1200)
    assert parameters(longer) == parameters(trained(**settings, total_steps=1200))


@pytest.mark.parametrize("backend", ["native", "sync"])
def test_a_run_without_a_checkpoint_starts_from_the_beginning_when_resumed(
    backend: str, trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    whole = trained(backend=backend)
    shutil.rmtree(home.runs / whole.runs[0].run_key / checkpoint.FOLDER_NAME)
    assert parameters(again(catalog, home, whole.group)) == parameters(whole)


def test_seeds_with_checkpoints_at_different_steps_are_resumed_together(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    whole = trained(seeds=(0, 1, 2))
    shutil.rmtree(checkpoints(home, whole, 0)[-1])
    shutil.rmtree(home.runs / whole.runs[1].run_key / checkpoint.FOLDER_NAME)  # as if it had no checkpoint yet
    assert parameters(again(catalog, home, whole.group)) == parameters(whole)


@pytest.mark.parametrize(
    "policy",
    [
        {"name": "mlp", "hidden": (5,), "sde": True, "sde_sample_freq": 3},
        {"name": "gtrxl", "width": 8, "memory": 6, "sde": True},
    ],
    ids=lambda policy: str(policy["name"]),
)
def test_sde_noise_and_policy_memory_are_restored_from_a_checkpoint(
    trained: Train, home: Home, catalog: PluginCatalog, policy: dict[str, Any]
) -> None:
    settings = {"env": "Pendulum-v1", "rollout_steps": 10, "max_episode_steps": 25, "policy": policy}
    whole = trained(**settings)
    shutil.rmtree(checkpoints(home, whole)[-1])
    assert parameters(again(catalog, home, whole.group)) == parameters(whole)


def test_resuming_a_finished_run_changes_nothing(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    whole = trained()
    journal = home.runs / whole.runs[0].run_key / "journal.jsonl"
    before = journal.read_text().count('"t":"evaluation"')
    done = again(catalog, home, whole.group)
    assert parameters(done) == parameters(whole) and done.env_steps == whole.env_steps
    assert journal.read_text().count('"t":"evaluation"') == before > 0


def test_resuming_with_an_edited_config_is_an_error_that_names_the_setting(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    whole = trained()
    config = home.runs / whole.runs[0].run_key / "artifacts/config.yaml"
    config.write_text(config.read_text().replace("gamma: 0.99", "gamma: 0.5"))
    with pytest.raises(CheckpointError, match=r"gamma = 0\.99, but its config\.yaml now has 0\.5"):
        again(catalog, home, whole.group)


def truncated(path: Path) -> None:
    file = path / checkpoint.TENSORS
    file.write_bytes(file.read_bytes()[:-7])


def flipped(path: Path) -> None:
    data = bytearray((path / checkpoint.TENSORS).read_bytes())
    data[len(data) // 2] ^= 1
    (path / checkpoint.TENSORS).write_bytes(data)


def foreign(path: Path) -> None:
    (path / checkpoint.DESCRIPTION).write_text('{"model": "somebody else\'s"}')


def newer(path: Path) -> None:
    file = path / checkpoint.DESCRIPTION
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 99, "pgzoo": "9.0"}))


@pytest.mark.parametrize(
    ("harm", "said"),
    [(truncated, "damaged"), (flipped, "damaged"), (foreign, "damaged"), (newer, "written by pgzoo 9.0")],
)
def test_the_error_for_a_bad_checkpoint_suggests_the_previous_one(
    trained: Train, home: Home, catalog: PluginCatalog, harm: Callable[[Path], None], said: str
) -> None:
    whole = trained()
    *_, before, last = checkpoints(home, whole)
    harm(last)
    step = int(before.name[5:])
    with pytest.raises(CheckpointError, match=f"{said}.*--from-step {step}") as caught:
        again(catalog, home, whole.group)
    assert caught.value.exit_code == 2
    assert parameters(again(catalog, home, whole.group, from_step=step)) == parameters(whole)


class Bomb:
    """Its pickle exits the process when it is loaded."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('executed')",)


def test_a_pickle_in_place_of_the_tensors_executes_nothing(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    whole = trained()
    last, buffer = checkpoints(home, whole)[-1], io.BytesIO()
    pickle.dump(Bomb(), buffer)
    (last / checkpoint.TENSORS).write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="damaged"):
        again(catalog, home, whole.group)


def test_a_run_that_another_process_is_training_cannot_be_resumed(
    home: Home, catalog: PluginCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgzoo.runs.resume.LOCK_WAIT", 0.1)
    options = "--env CartPole-v1 --compile off --total-steps 1e9 --checkpoint-every 1000 --no-progress"
    with subprocess.Popen([sys.executable, "-m", "pgzoo", "run", "a2c", *options.split()]) as trainer:
        try:
            eventually(lambda: list(home.runs.glob("*/checkpoints/step-*")))
            (run,) = home.runs.iterdir()
            with pytest.raises(StoreError, match="being written by another process"):
                again(catalog, home, run.name, total_steps=900)
            assert trainer.poll() is None
        finally:
            trainer.kill()


def test_a_run_whose_folder_cannot_be_written_is_not_resumed(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    whole = trained()
    (run,) = home.runs.iterdir()
    (run / "lock").unlink(missing_ok=True)
    (run / "lock").mkdir()  # opening it fails for root, too
    with pytest.raises(StoreError, match=rf"Can't write to the folder of run {run.name}, {run}: Is a directory"):
        again(catalog, home, whole.group)


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
from pgzoo.cli.main import main
sys.argv[0] = "pgzoo"
main()
"""
"""Runs pgzoo with a limit of 8 KiB per file, so that neither the whole journal nor a checkpoint can be written."""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a file's size can only be set on Linux")
def test_a_run_that_lost_records_exits_with_1_and_suggests_to_resume_it(home: Home) -> None:
    options = "--env CartPole-v1 --compile off --total-steps 3000 --log-every 20 --eval-episodes 2 --tracking-uri none"
    words = [sys.executable, "-c", FULL_DISK, "run", "a2c", "--backend", "sync", *options.split(), "--no-progress"]
    child = subprocess.run(words, capture_output=True, text=True)
    assert child.returncode == 1 and "Lost because the disk was full: " in child.stderr, child.stderr
    assert "Next      pgzoo resume " in child.stdout and "pgzoo evaluate" not in child.stdout
    assert child.stderr.count("The checkpoint of run ") == 1
    (run,) = home.runs.iterdir()
    again = subprocess.run([sys.executable, "-m", "pgzoo", "resume", run.name], capture_output=True, text=True)
    assert again.returncode == 0 and (run / "artifacts" / "policy").is_dir(), again.stderr


def test_resuming_with_fewer_steps_than_are_done_is_refused(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    whole = trained()
    shutil.rmtree(checkpoints(home, whole)[-1])
    with pytest.raises(UsageError, match="has already done"):
        again(catalog, home, whole.group, total_steps=100)


@pytest.mark.parametrize("more", [500, 1200])
def test_recorded_steps_are_not_repeated_with_another_number_of_steps(
    trained: Train, home: Home, catalog: PluginCatalog, more: int
) -> None:
    """With the annealed learning rate, they would differ from their records, which the journal keeps."""
    whole = trained(learning_rate_schedule="linear", checkpoint_every=100)
    (run,) = home.runs.iterdir()
    before = (run / "journal.jsonl").read_bytes()
    *_, early, _, last = map(checkpoint.step_of, checkpoints(home, whole))
    with pytest.raises(UsageError, match=f"--from-step {early}: run .* has records up to step {last}") as caught:
        again(catalog, home, whole.group, from_step=early, total_steps=more)
    assert caught.value.exit_code == 2 and (run / "journal.jsonl").read_bytes() == before
    again(catalog, home, whole.group, from_step=last, total_steps=1200)
    *_, early, _ = map(checkpoint.step_of, checkpoints(home, whole))
    again(catalog, home, whole.group, from_step=early, total_steps=1200)


def test_a_finished_run_is_not_resumed_with_fewer_steps(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    """Its policy would be evaluated as if it were that of fewer steps."""
    whole = trained()
    (run,) = home.runs.iterdir()
    before = (run / "journal.jsonl").read_bytes()
    with pytest.raises(UsageError, match=r"--total-steps 100: seed \d+ has already done"):
        again(catalog, home, whole.group, total_steps=100)
    assert (run / "journal.jsonl").read_bytes() == before


def test_a_component_that_fails_leaves_a_checkpoint(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    with pytest.raises(RunFailed, match="simulator"):
        trained(env="probe/Faulty-v0", env_kwargs={"patience": 100})
    (run,) = home.runs.iterdir()
    assert checkpoint.latest(run / checkpoint.FOLDER_NAME).about["status"] == "failed"


SMALL_FILES = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (32_768, resource.RLIM_INFINITY))
from pgzoo.config import Layer
from pgzoo.registry import discover
from pgzoo.runs.resolve import compose
from pgzoo.runs.runner import run_config
catalog = discover(inline=False)
result = run_config(compose(Layer(json.loads(sys.argv[1]), ".".join), catalog), catalog)
print(result.group, result.status)
"""
"""Trains with a limit of 32 KiB per file: the journal fits, a checkpoint doesn't."""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a file's size can only be set on Linux")
def test_a_run_finishes_even_if_checkpoints_cannot_be_written(
    trained: Train, home: Home, short: dict[str, Any]
) -> None:
    whole = trained()
    child = subprocess.run(
        [sys.executable, "-c", SMALL_FILES, json.dumps(short)], capture_output=True, text=True, check=True
    )
    group, status = child.stdout.split()
    assert status == "finished" and "can't be written: File too large. Training continues." in child.stderr
    poor, well = home.runs / f"{group}-s0", home.runs / whole.runs[0].run_key
    assert not list((poor / checkpoint.FOLDER_NAME).iterdir())
    told = [[r for r, _ in records(run) if r and r["t"] == "evaluation"] for run in (poor, well)]
    assert [r["returns"] for r in told[0]] == [r["returns"] for r in told[1]] != []


def test_an_environment_that_cannot_be_saved_causes_one_warning(
    trained: Train, home: Home, catalog: PluginCatalog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pgzoo")
    whole = trained(env="probe/Corridor-v0", total_steps=1000)
    assert caplog.text.count("can't be saved in the middle of an episode") == 1
    *_, before, _ = checkpoints(home, whole)
    kept = checkpoint.load(before)
    assert kept.about["resume"] == "episode-boundary"
    caplog.clear()
    done = again(catalog, home, whole.group, from_step=kept.env_steps)
    assert [r.message for r in caplog.records] == [
        "These environments can't be restored in the middle of an episode: open episodes are restarted."
    ]
    assert done.status == "finished" and done.runs[0].env_steps >= 1000
    assert (done.ended.state.updates == whole.ended.state.updates).all()


class Unseeded(gym.Env[Any, Any]):
    """Draws from numpy's global generator."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.random.uniform(-1, 1, 1).astype(np.float32), 1.0, bool(np.random.random() < 0.2), False, {}


@pytest.mark.parametrize("algorithm", ["a2c", "reinforce"])
def test_a_run_warns_once_of_an_environment_that_ignores_its_seed(
    trained: Train, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    caplog.set_level(logging.WARNING, "pgzoo")
    monkeypatch.setitem(gym.registry, "Unseeded-v0", gym.envs.registration.EnvSpec("Unseeded-v0", Unseeded))
    trained(algorithm=algorithm, env="Unseeded-v0", total_steps=300)
    (warning,) = (record.message for record in caplog.records if "same seed" in record.message)
    assert warning.startswith("Unseeded-v0 plays another episode each time it is reset with the same seed, so --seed")
    assert "self.np_random" in warning and "super().reset(seed=seed)" in warning


def test_resuming_inexactly_restores_everything_but_open_episodes(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    """If no episode is open and all episodes begin identically, the resumed run equals the uninterrupted one."""
    window = {"rollout_steps": 6, "normalize_obs": True, "normalize_reward": True, "stop_on_plateau": 10**6}
    whole = trained(env="probe/Bandit-v0", **window)
    *_, before, _ = checkpoints(home, whole)
    kept = checkpoint.load(before)
    assert kept.about["resume"] == "episode-boundary" and kept.state.environments is None
    a, b = whole.ended.state, again(catalog, home, whole.group, from_step=kept.env_steps).ended.state
    for name in ("params", "buffers", "optimizer"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.keys() == y.keys() and all(torch.equal(x[leaf], y[leaf]) for leaf in x), name
    for name in ("env_steps", "episodes", "updates", "recent"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_a_plugin_with_env_state_makes_resuming_its_environment_exact(home: Home, short: dict[str, Any]) -> None:
    """As in docs/resume.md, the plugin registers an `env_state`, here the attributes of a class."""
    catalog = discover(inline=False)
    registry = Registry(PluginInfo("mine", "entry point", "mine", "mine", "1.0"))
    registry.env_state("corridor", lambda: Attributes({"pgzoo.testing.probes:Corridor": ("cell",)}))
    catalog.add(registry.plugin, object(), registry.entries.values())
    whole = run_config(compose(Layer(short | {"env": "pgzoo/Corridor-v0"}, ".".join), catalog), catalog)
    *_, before, _ = checkpoints(home, whole)
    kept = checkpoint.load(before)
    assert kept.about["resume"] == "exact" and kept.state.environments is not None
    assert parameters(again(catalog, home, whole.group, from_step=kept.env_steps)) == parameters(whole)


def test_resuming_is_inexact_if_an_environment_keeps_state_across_resets(
    trained: Train, home: Home, catalog: PluginCatalog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pgzoo")
    settings = {"algorithm": "reinforce", "num_envs": 2, "checkpoint_every": 100, "total_steps": 300}
    for env, promised in (("probe/LeakyReset-v0", "episode-boundary"), ("probe/Corridor-v0", "exact")):
        caplog.clear()
        whole = trained(**settings, env=env)
        *_, before, last = checkpoints(home, whole)
        assert {checkpoint.load(path).about["resume"] for path in (before, last)} == {promised}
        assert caplog.text.count("does not start identically after each reset with the same seed") == (
            env == "probe/LeakyReset-v0"
        )
        caplog.clear()
        again(catalog, home, whole.group, from_step=checkpoint.load(before).env_steps)
        warned = [r for r in caplog.records if "do not start identically" in r.message]
        assert len(warned) == (env == "probe/LeakyReset-v0")


def test_a_run_is_reproduced_and_an_edited_metric_is_found(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    whole = trained(log_every=100)
    (found,) = find(whole.group, home)
    same = reproduce(found, catalog)
    assert same.first is None and same.compared > 10
    journal = home.runs / found.run_key / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    record = next(r for r in lines if r["t"] == "update" and r.get("steps") == [300])
    record["m"]["loss/value"] += 1.0
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    other = reproduce(found, catalog)
    assert other.first is not None and (other.first.step, other.first.metric) == (300, "loss/value")


def test_a_run_whose_last_update_passes_total_steps_is_reproduced(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    settings = {"algorithm": "reinforce", "log_every": 20, "total_steps": 30}  # an update collects more than 100 steps
    group = trained(**settings).group
    (found,) = find(group, home)
    same = reproduce(found, catalog)
    assert same.first is None
    again(catalog, home, group, total_steps=700)
    (found,) = find(group, home)
    longer = reproduce(found, catalog)
    assert longer.first is None and longer.compared > same.compared
    assert found.path is not None
    finals = [record["step"] for record, _ in records(found.path) if record and record.get("final")]
    assert finals == [30, 30, 700, 700]


def test_a_run_with_both_limits_is_resumed_and_reproduced_with_both(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    whole = trained(total_episodes=10, learning_rate_schedule="linear")
    assert whole.runs[0].env_steps < 600  # which is total_steps
    (found,) = find(whole.group, home)
    assert reproduce(found, catalog).first is None
    shutil.rmtree(checkpoints(home, whole)[-1])
    assert parameters(again(catalog, home, whole.group)) == parameters(whole)
    longer = again(catalog, home, whole.group, total_steps=600)  # without the limit of episodes
    assert longer.runs[0].env_steps >= 600
    assert reproduce(found, catalog).first is None


def test_a_run_of_some_episodes_that_was_extended_in_steps_is_reproduced(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    short = trained(total_episodes=10, total_steps=None, checkpoint_every=10_000)
    before = checkpoints(home, short)
    longer = again(catalog, home, short.group, total_steps=600)
    (found,) = find(short.group, home)
    assert reproduce(found, catalog).first is None
    for path in set(checkpoints(home, short)) - set(before):  # as if it had been killed before the first of them
        shutil.rmtree(path)
    assert parameters(again(catalog, home, short.group)) == parameters(longer)


@pytest.mark.parametrize("more", [None, 1200])
def test_an_interrupted_and_resumed_run_is_reproduced(
    more: int | None, short: dict[str, Any], home: Home, catalog: PluginCatalog
) -> None:
    control = Control()

    def interrupt(event: Event) -> None:
        if isinstance(event, UpdateDone) and event.update == 2:
            control.stop(status="interrupted")

    config = compose(Layer(short, ".".join), catalog)
    result = run_config(config, catalog, control=control, on_event=interrupt)
    assert result.runs[0].status == "interrupted" and len(result.runs[0].returns)  # it was evaluated when it stopped
    assert again(catalog, home, result.group, total_steps=more).runs[0].status == "finished"
    (found,) = find(result.group, home)
    same = reproduce(found, catalog)
    assert same.first is None and same.until == (38 if more else None)
    cut = "ended early at step 38 and resumed with --total-steps 1200"
    assert [cut in reason for reason in differences(found, catalog)] == ([] if more is None else [True])


@pytest.mark.parametrize("earlier", [0, 100])
def test_the_repetition_ends_where_a_run_was_interrupted(
    earlier: int, short: dict[str, Any], home: Home, catalog: PluginCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = Control()

    def interrupt(event: Event) -> None:
        if isinstance(event, EpisodesFinished) and event.env_steps[0] >= 150:
            control.stop(status="interrupted")

    playing = {"log_every": 20, "eval_every": 10, "eval_episodes": 1, "learning_rate_schedule": "linear"}
    playing |= {"compile": "off"}
    config = compose(Layer(short | playing | {"total_steps": earlier or 10**6}, ".".join), catalog)
    first = run_config(config, catalog, control=control, on_event=interrupt)
    if earlier:
        found = find(first.group, home)
        first = resume(found, catalog, total_steps=10**6, home=home, control=control, on_event=interrupt)
    stopped = first.runs[0].env_steps
    assert first.runs[0].status == "interrupted" and 150 <= stopped < 200
    again(catalog, home, first.group, total_steps=300)
    (found,) = find(first.group, home)
    steps: list[int] = []
    relay = runner.relay
    monkeypatch.setattr(
        runner,
        "relay",
        lambda manager, event, control: (
            steps.append(int(event.env_steps[0])) if isinstance(event, UpdateDone) else None,
            relay(manager, event, control),
        ),
    )
    same = reproduce(found, catalog)
    assert same.first is None and same.until == stopped and same.compared > 20
    assert stopped < steps[-1] < 200


def test_a_run_that_ended_by_its_time_limit_is_reproduced_without_the_limit(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    whole = trained(total_steps=10**6, max_minutes=0.005, log_every=100, compile="off")
    assert whole.runs[0].reason == "reached the limit of 0.005 minutes"
    (found,) = find(whole.group, home)
    path = found.artifact("config.yaml")
    path.write_text(path.read_text().replace("max_minutes: 0.005", "max_minutes: 1.0e-9"))  # as if it were slower now
    same = reproduce(found, catalog)
    assert same.first is None and same.until is None and same.compared > 5


@pytest.mark.parametrize("more", [None, 10**6 + 1])
def test_a_run_that_ended_by_its_time_limit_is_trained_further_when_it_is_resumed(
    trained: Train, home: Home, catalog: PluginCatalog, more: int | None
) -> None:
    """The limit restarts. A run that reached its goal stays ended."""
    settings = {"max_minutes": 0.01, "log_every": 100, "compile": "off", "learning_rate_schedule": "linear"}
    first = trained(total_steps=10**6, **settings)
    later = again(catalog, home, first.group, total_steps=more)
    assert (first.runs[0].status, later.runs[0].status) == ("stopped", "stopped")
    assert later.runs[0].env_steps > first.runs[0].env_steps and "limit of 0.01 minutes" in later.runs[0].reason
    (found,) = find(first.group, home)
    same = reproduce(found, catalog)
    assert same.first is None and same.compared > 0 and (same.until is None) == (more is None)


@pytest.mark.parametrize("goal", [{"stop_at": 5.0}, {"stop_on_plateau": 1}])
def test_a_run_that_reached_its_goal_is_not_trained_further(
    trained: Train, home: Home, catalog: PluginCatalog, goal: dict[str, Any]
) -> None:
    first = trained(total_steps=10**6, max_minutes=5, **goal)
    assert first.runs[0].status == "stopped" and "mean return" in first.runs[0].reason
    (run,) = home.runs.iterdir()
    before = (run / "journal.jsonl").read_bytes()
    with pytest.raises(UsageError, match=r"seed 0 has stopped after \d+ steps, .* new run with --init-from") as caught:
        again(catalog, home, first.group, total_steps=2 * 10**6)
    assert caught.value.exit_code == 2 and (run / "journal.jsonl").read_bytes() == before
    assert again(catalog, home, first.group).runs[0].env_steps == first.runs[0].env_steps


def test_an_extended_run_is_reproduced_in_the_same_stages(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    settings = {"log_every": 100, "learning_rate_schedule": "linear"}
    short = trained(**settings)
    longer = again(catalog, home, short.group, total_steps=1200)
    assert parameters(longer) != parameters(trained(**settings, total_steps=1200))  # the learning rates differ
    (found,) = find(short.group, home)
    assert differences(found, catalog) == []
    same = reproduce(found, catalog)
    assert same.first is None and same.until is None and same.compared > 20


@pytest.mark.parametrize(
    ("env", "more", "how", "with_episode"),
    [
        ("CartPole-v1", 1200, "resumed with --total-steps 1200", False),
        ("CartPole-v1", 1200, "resumed with --total-steps 1200", True),
        ("probe/Corridor-v0", None, "resumed with its open episodes restarted", False),
    ],
)
def test_differences_names_the_steps_that_cannot_be_reproduced(
    trained: Train, home: Home, catalog: PluginCatalog, env: str, more: int | None, how: str, with_episode: bool
) -> None:
    whole = trained(env=env, log_every=100, learning_rate_schedule="linear", checkpoint_every=100)
    (found,) = find(whole.group, home)
    assert found.path is not None
    journal = found.path / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    points = [k for k, line in enumerate(lines) if json.loads(line).get("steps") == [300]]
    end = points[0] + 1
    if with_episode:  # that ended after the last point
        end = next(k for k in range(end, len(lines)) if json.loads(lines[k]).get("e")) + 1
        assert "steps" not in json.loads(lines[end - 1])
    last = max(300, *(step for line in lines[:end] for step in json.loads(line).get("e", [[]])[0]))
    journal.write_text("".join(lines[:end]))  # as if the run had been killed here
    *_, _, later, newest = checkpoints(home, whole)
    shutil.rmtree(later)
    shutil.rmtree(newest)
    again(catalog, home, whole.group, total_steps=more)
    (said,) = differences(found, catalog)
    assert f"ended early at step {last} and {how}: later steps can't be reproduced" in said
    same = reproduce(found, catalog)
    assert same.first is None and same.until == last


def test_a_checkpoint_of_the_first_release_can_be_resumed(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    (run,) = GOLDEN.iterdir()
    shutil.copytree(run, home.runs / run.name)
    kept = checkpoint.latest(home.runs / run.name / checkpoint.FOLDER_NAME)
    assert kept.about["resume"] == "exact" and kept.env_steps == 104
    assert torch.isfinite(torch.cat([leaf.flatten() for leaf in kept.state.params.values()])).all()
    done = again(catalog, home, run.name)
    assert done.status == "finished" and done.env_steps >= 200 > done.steps_before == 104
    assert np.isfinite(done.runs[0].returns).all()
