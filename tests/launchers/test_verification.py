"""Verification by training twice: which seeds are repeated, how runs are compared, and what is reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from program import Folder

from pgzoo import tracking
from pgzoo.errors import ConfigError
from pgzoo.launchers import local, processes
from pgzoo.launchers.coordinator import Coordinator
from pgzoo.launchers.verification import choose_shards, compare_runs
from pgzoo.ops.members import select
from pgzoo.training import checkpoint
from pgzoo.training.engine import Engine
from pgzoo.training.loop import Control
from pgzoo.training.plan import Plan
from pgzoo.types import LaunchRequest, TrainState, WorkerMessage

ABOUT = {"status": "finished", "reason": "", "resume": "exact", "versions": {}, "listeners": {}}
SEEN = {"loss/policy": 0.1, "time/steps_per_second": 1.0}


def test_a_share_of_the_shards_is_chosen() -> None:
    assert choose_shards(3, 0.0, "a") == [] and choose_shards(3, 1.0, "a") == [0, 1, 2]
    assert len(choose_shards(3, 0.05, "a")) == 1 and len(choose_shards(40, 0.05, "a")) == 2
    assert choose_shards(40, 0.5, "a") == choose_shards(40, 0.5, "a") != choose_shards(40, 0.5, "b")


@pytest.fixture
def state(plan: Callable[..., Plan]) -> TrainState:
    return select(Engine(plan(seeds=(4,))).snapshot(environments=False), [0])


def home_with(folder: Path, state: TrainState | None, *metrics: dict[str, float]) -> tracking.Home:
    """Return a home with a run "run" of seed 4 whose learning curve has one point for each of `metrics`."""
    home = tracking.Home.find({"PGZOO_HOME": str(folder)})
    with tracking.Session(home, "group", "none") as session:
        journal = session.journal("run", name="a", experiment="b", seed=4, algorithm="c", env="d")
        for step, values in enumerate(metrics, 1):
            journal.record([step], values, ([step], [3.0], [9]))
        journal.evaluation(2, "sampled", True, [1.0], [2])
        journal.end("FINISHED")
    if state is not None:
        checkpoint.save(home.runs / "run" / checkpoint.FOLDER_NAME, state, ABOUT)
    return home


def test_comparing_two_runs_names_the_first_difference(tmp_path: Path, state: TrainState) -> None:
    one = home_with(tmp_path / "one", state, SEEN, SEEN)
    equal = compare_runs(
        one, home_with(tmp_path / "equal", state, SEEN, SEEN | {"time/steps_per_second": 2.0}), "run", 4
    )
    assert (equal.outcome, equal.detail, equal.seed) == ("equal", "", 4) and equal.compared > 5

    metric = home_with(tmp_path / "metric", state, SEEN, SEEN | {"loss/policy": 0.2})
    found = compare_runs(one, metric, "run", 4)
    assert found.outcome == "different"
    assert found.detail == "for seed 4 at step 2, loss/policy: 0.1, and 0.2 in the second training"
    found = compare_runs(one, home_with(tmp_path / "short", state, SEEN), "run", 4)
    assert found.detail == "for seed 4 at step 2, episode 2: 3.0, and nothing in the second training"

    name = next(iter(state.params))
    other = state._replace(params=state.params | {name: state.params[name] + 1})
    found = compare_runs(one, home_with(tmp_path / "tensor", other, SEEN, SEEN), "run", 4)
    assert (found.outcome, found.detail) == ("different", f"for seed 4 after step 0: the tensor {name} differs")
    found = compare_runs(one, home_with(tmp_path / "none", None, SEEN, SEEN), "run", 4)
    assert found.outcome == "incomplete"


def test_a_repeated_shard_uses_a_temporary_home_and_its_failure_fails_no_seed(
    plan: Callable[..., Plan], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tracking.Home.find({"PGZOO_HOME": str(tmp_path)})
    three = plan(seeds=(4, 7, 9), verify=0.4)
    (chosen,) = choose_shards(2, 0.4, three.group)
    folders: list[Path] = []

    def launch(request: LaunchRequest) -> Generator[WorkerMessage]:
        *shards, again = request.split(2)
        assert len(shards) == 2 and again.seeds == shards[chosen].seeds and again.verifies == chosen
        spec, repeated = json.loads(shards[chosen].spec), json.loads(again.spec)
        assert repeated["rows"] == spec["rows"] and repeated["home"] != spec["home"]
        assert repeated["config"]["tracking_uri"] == "none"
        another = json.loads(request.restart(2).spec)
        folders.extend(Path(one["home"][0]) for one in (repeated, another))
        assert folders[0] != folders[1] and all(folder.is_dir() for folder in folders)
        for index, shard in enumerate(shards):
            end = {"statuses": ["finished"] * len(shard.seeds), "reasons": [""] * len(shard.seeds)}
            end |= {"env_steps": [9] * len(shard.seeds), "timing": {"loop": 1.0}, "lost": 0, "dropped": 0}
            yield WorkerMessage(index, "stdout", json.dumps({"type": "ended", "failure": None, **end}))
            yield WorkerMessage(index, "exited", "")
        yield WorkerMessage(2, "stdout", '{"type": "act')  # killed in the middle of a line
        yield WorkerMessage(2, "exited", "its worker was killed")

    coordinator = Coordinator(three, Control(), home, worker=(), spec={})
    assert coordinator.launch(launch)
    *_, last = coordinator.events()
    assert last.statuses == ("finished",) * 3  # type: ignore[union-attr]
    seeds = ((4, 7), (9,))[chosen]
    assert [(one.seed, one.outcome) for one in coordinator.verifications] == [(seed, "incomplete") for seed in seeds]
    assert f"Seed {seeds[0]} was not verified: its worker was killed." in caplog.text
    assert not any(folder.exists() for folder in folders)


def test_local_and_processes_refuse_the_settings_of_other_launchers(plan: Callable[..., Plan]) -> None:
    def request(**settings: Any) -> LaunchRequest:
        return LaunchRequest(plan(**settings).config, (), tuple, list, tuple)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=r"--verify: .*Add: --launcher processes"):
        local.launch(request(verify=0.1))
    for settings in ({"cpus_per_shard": 2}, {"gpus_per_shard": 0.5}):
        with pytest.raises(ConfigError, match=r"only the launcher of a cluster reserves them\. Add: --launcher ray"):
            local.launch(request(**settings))
        with pytest.raises(ConfigError, match=r"only the launcher of a cluster, such as ray, reserves them"):
            processes.launch(request(**settings))


DRIFTING = """
import os
import pgzoo
from pgzoo.algorithms.reinforce import Reinforce, ReinforceConfig

class Drifting(Reinforce):
    def loss(self, policy, params, batch, hyper):
        made = super().loss(policy, params, batch, hyper)
        return made._replace(value=made.value * (1 + 1e-3 * os.getpid()))

@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("drifting", Drifting, config=ReinforceConfig, summary="differs from process to process")
"""


@pytest.mark.slow
def test_verify_ends_with_exit_code_1_if_two_workers_differ(folder: Folder) -> None:
    (folder.path / "drifting.py").write_text(DRIFTING)
    words = "--env CartPole-v1 --total-steps 2000 --preset none --eval-episodes 3 --no-progress --launcher processes"
    out, err = folder.pgzoo("run", "reinforce", *words.split(), "--verify", "0.05", "--json")
    assert "Verified: a second worker computed the same results, bit for bit, for seed 0." in err
    (verified,) = folder.parse(out)["verified"]
    assert verified["outcome"] == "equal" and verified["compared"] > 10
    drifting = ("run", "drifting", "--import", "drifting.py", *words.split(), "--verify", "1", "--json")
    out, err = folder.pgzoo(*drifting, code=1)
    assert "Verification failed: two workers computed different results for seed 0 at step" in err
    found = folder.parse(out)
    assert found["status"] == "finished" and found["verified"][0]["outcome"] == "different"
    journal = folder.path / ".pgzoo" / "runs" / found["seeds"][0]["run_key"] / "journal.jsonl"
    assert '"pgzoo.verified":"different: for seed 0' in journal.read_text()
