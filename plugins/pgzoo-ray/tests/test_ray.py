"""Shards on a real Ray cluster on this machine have the same results as without Ray, even if an actor is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from nodes import descendants
from pgzoo_ray import driver, host
from ray.exceptions import RayActorError

from pgzoo.config import Layer
from pgzoo.errors import UsageError
from pgzoo.registry import discover
from pgzoo.runs.resolve import compose
from pgzoo.runs.result import Result
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home
from pgzoo.training import checkpoint

pytestmark = pytest.mark.filterwarnings("default")  # pgzoo isn't responsible for warnings of ray

PPO = {"algorithm": "ppo", "env": "CartPole-v1", "num_envs": 4, "rollout_steps": 32, "eval_episodes": 3, "epochs": 2}
PPO |= {"seeds": (5, 3), "total_steps": 1000, "preset": "none", "tracking_uri": "none", "log_every": 200}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGZOO_HOME", raising=False)
    return Home.find()


def train(**settings: Any) -> Result:
    catalog = discover(inline=False)
    given = {key: value for key, value in {**PPO, **settings}.items() if key != "preset"}
    return run_config(compose(Layer(given, ".".join), catalog, preset="none"), catalog)


def assert_equal(one: Result, other: Result) -> None:
    assert [run.status for run in one.runs] == [run.status for run in other.runs] == ["finished"] * 2
    assert [run.env_steps for run in one.runs] == [run.env_steps for run in other.runs]
    for first, second in zip(one.runs, other.runs, strict=True):
        np.testing.assert_array_equal(first.returns, second.returns)
        np.testing.assert_array_equal(first.greedy_returns, second.greedy_returns)
    for first, second in zip(one.histories, other.histories, strict=True):
        timed = "time/steps_per_second"
        curves = [
            {s: {k: v for k, v in m.items() if k != timed} for s, m in h.metrics.items()} for h in (first, second)
        ]
        assert curves[0] == curves[1]
        assert (first.steps, first.returns, first.lengths) == (second.steps, second.returns, second.lengths)
    for name, value in one.ended.state.params.items():
        assert value.equal(other.ended.state.params[name]), name


def test_seeds_trained_on_ray_are_bit_identical_to_seeds_in_this_process(home: Home) -> None:
    assert_equal(train(launcher="ray"), train())


def actors() -> list[int]:
    """Return the process IDs of the actors of this process's cluster."""
    return [
        pid for pid in descendants(os.getpid()) if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Sha")
    ]


def test_a_killed_actor_is_replaced_and_its_seeds_continue_from_their_checkpoints(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    long = {"total_steps": 12_000, "checkpoint_every": 1000}
    killed: list[int] = []

    def kill() -> None:
        while not list(home.runs.glob(f"*-s5/{checkpoint.FOLDER_NAME}/*")):
            time.sleep(0.02)
        killed.append(actors()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = train(launcher="ray", **long)
    killer.join()
    assert killed and "its seeds continue from their last checkpoints" in capfd.readouterr().err
    resumed = [run for run in result.histories if run.start]
    assert len(resumed) == 2
    assert_equal(result, train(**long))


def test_nodes_with_other_versions_are_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    here = host.describe_installation(("numpy", "no-such-package"))
    assert here["no-such-package"] == "not installed" and {"pgzoo", "code of pgzoo", "code of pgzoo-ray"} <= here.keys()
    assert host.compare_installations(here, dict(here)) == ""
    other = {**here, "numpy": "0.1"}
    assert host.compare_installations(here, other) == f"numpy: 0.1, here {here['numpy']}"

    ray.cloudpickle.register_pickle_by_value(host)
    late = ray.remote(host.ShardHost).remote([], str(home.root), {}, __file__, [], other, ("numpy",))
    with pytest.raises(RayActorError, match=r"has another installation, which could change results: .*numpy: "):
        ray.get(late.exchange.remote([]))

    monkeypatch.setattr(host, "compare_installations", lambda here, there: "numpy: 0.1, here 2.0")
    with pytest.raises(UsageError, match=r"has another installation.*numpy: 0\.1, here 2\.0\. Install the same"):
        driver._check_nodes()


def test_a_cluster_that_cannot_be_reached_is_an_error(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match=r"The Ray cluster at 127\.0\.0\.1:1 can't be reached: .*Correct RAY_ADDRESS"):
        train(launcher="ray")
    assert not home.runs.exists()
