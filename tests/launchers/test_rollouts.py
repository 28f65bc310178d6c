"""Environments in rollout workers give the same results, bit for bit, as environments in the training process."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from program import eventually

from pgzoo.errors import ConfigError, EnvError, RunFailed, UsageError
from pgzoo.launchers.messages import read_message, write_message
from pgzoo.launchers.rollout_worker import RolloutServer
from pgzoo.launchers.rollouts import ProcessConnection, RolloutBackend, RolloutEnvs, start_process
from pgzoo.runs.objects import check_objects
from pgzoo.training.engine import Engine, default_loop
from pgzoo.training.plan import Plan
from pgzoo.training.rollout_parts import rows_of_parts
from pgzoo.types import TrainState

MakePlan = Callable[..., Plan]
SYNC = {"backend": "sync", "num_envs": 5, "seeds": (4, 7)}


def sent(value: object) -> Any:
    """Return a value as another process would receive it."""
    pipe = io.BytesIO()
    write_message(pipe, value)
    pipe.seek(0)
    return read_message(pipe)


class Here:
    """A connection to a server in this process, with the same messages as to a worker process."""

    def __init__(self, index: int, setup: Mapping[str, Any]) -> None:
        self.server = RolloutServer(sent(dict(setup)))
        self.answers = [("done", self.server.spaces())]

    def send(self, name: str, *arguments: Any) -> None:
        self.answers.append(self.server.answer(*sent((name, arguments))))

    def receive(self, timeout: float | None = None) -> Any:
        kind, value = sent(self.answers.pop(0))
        if kind == "raised":
            raise value
        return value

    def close(self) -> None:
        self.server.close()


def test_a_message_arrives_as_it_was_sent() -> None:
    values = {"n": None, "nan": float("nan"), "tuple": (1, [2.5, "text"], True), "error": EnvError("no")}
    arrays = [np.array([], np.float32), np.arange(6, dtype=np.uint8).reshape(2, 3)[:, ::2], np.array(True)]
    got, arrived, number = sent((values, arrays, np.float32(0.1)))
    assert got["tuple"] == values["tuple"] and got["n"] is None and np.isnan(got["nan"])
    assert type(got["error"]) is EnvError and str(got["error"]) == "no"
    assert type(number) is np.float32 and number == np.float32(0.1)
    for before, after in zip(arrays, arrived, strict=True):
        assert before.dtype == after.dtype and before.shape == after.shape and (before == after).all()
    rng = np.random.Generator(np.random.Philox(3))
    rng.random(3, np.float32)
    assert sent(rng).random() == rng.random()


def test_messages_with_objects_or_unknown_contents_are_refused() -> None:
    for value in (object(), np.array([object()]), {1: 2}):
        with pytest.raises(TypeError):
            sent(value)
    text = json.dumps([{"pickle": "..."}, []]).encode()
    with pytest.raises(ValueError, match="unknown content 'pickle'"):
        read_message(io.BytesIO(len(text).to_bytes(8, "little") + text))


def test_every_part_has_a_share_of_the_environments_of_every_member() -> None:
    assert [rows.tolist() for rows in rows_of_parts(2, 5, 2)] == [[0, 1, 2, 5, 6, 7], [3, 4, 8, 9]]
    assert [rows.tolist() for rows in rows_of_parts(2, 2, 9)] == [[0, 2], [1, 3]]


def trained(
    plan: Plan, workers: int, updates: int = 3, state: TrainState | None = None
) -> tuple[TrainState, list[Any]]:
    """Return the state after some updates, with its environments, and the episodes and metrics of each update."""
    if workers:
        parts = plan.rollouts
        assert isinstance(parts, RolloutBackend)
        plan = replace(plan, rollouts=replace(parts, connect=Here, workers=workers))
    else:
        plan = replace(plan, rollouts=None)
    engine = Engine(plan, state)
    seen = []
    rounds: Iterator[None] = getattr(plan.algorithm, "loop", default_loop)(engine)
    for _ in range(updates):
        before = engine.state
        engine.begin_update()
        next(rounds)
        engine.state, finished = engine.end_update(before)
        seen.append([r.tolist() for r in (*finished.returns, *finished.lengths)])
        seen.append({name: value.tolist() for name, value in engine.metrics.means().items()})
    snapshot = engine.snapshot()
    engine.close()
    return snapshot, seen


def assert_same(one: TrainState, other: TrainState) -> None:
    for name in ("params", "buffers", "optimizer"):
        first, second = getattr(one, name), getattr(other, name)
        assert all(first[key].numpy().tobytes() == second[key].numpy().tobytes() for key in first)
    for name in ("env_steps", "episodes", "recent"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.collector is None) == (other.collector is None)
    for first, second in zip(one.collector or (), other.collector or (), strict=True):
        np.testing.assert_array_equal(first, second)
    assert one.environments == other.environments


CASES: dict[str, dict[str, Any]] = {
    "window": {"algorithm": "ppo", "rollout_steps": 16},
    "whole episodes": {"algorithm": "reinforce"},
    "compiled": {"algorithm": "ppo", "rollout_steps": 16, "backend": "compiled"},
    "compiled whole episodes": {"algorithm": "reinforce", "backend": "compiled"},
    "native": {"algorithm": "a2c", "backend": "native"},
    "memory": {"algorithm": "ppo", "rollout_steps": 16, "policy": {"name": "gru"}},
    "held noise": {
        "algorithm": "ppo",
        "env": "Pendulum-v1",
        "rollout_steps": 16,
        "policy": {"name": "mlp", "sde": True},
    },
    "normalized": {"algorithm": "ppo", "rollout_steps": 16, "normalize_obs": True, "normalize_reward": True},
    "masks": {"algorithm": "ppo", "env": "Taxi-v4", "rollout_steps": 16},
    "a lag": {"algorithm": "impala", "lag": 1, "rollout_steps": 8, "normalize_reward": True, "backend": "native"},
    "a policy per environment": {"algorithm": "ars"},
}
FAST = ("a lag", "whole episodes", "native", "a policy per environment")


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in FAST else pytest.mark.slow) for c in CASES])
def test_results_are_the_same_with_any_number_of_workers(plan: MakePlan, case: str) -> None:
    settings = {**SYNC, **CASES[case]}
    whole = plan(settings.pop("algorithm"), rollout_workers=2, **settings)
    here, seen = trained(whole, 0)
    for workers in (1, 2, 5):
        elsewhere, there = trained(whole, workers)
        assert_same(here, elsewhere)
        assert seen == there
        if here.environments is not None:  # continue from this state with another number of workers
            assert_same(trained(whole, 0, 2, here)[0], trained(whole, workers, 2, here)[0])


def test_real_workers_collect_identically_and_an_error_names_a_killed_one(plan: MakePlan, tmp_path: Any) -> None:
    """Two workers collect, also after signals. One is killed, and the error names it.

    After the engine is closed, both have exited.
    """
    whole = plan("ppo", **SYNC, rollout_steps=16, rollout_workers=2)
    assert isinstance(whole.rollouts, RolloutBackend) and whole.rollouts.connect is start_process
    engine = Engine(whole)
    state, trajectory = engine.collect(engine.state)
    envs = engine.interaction.environments.training()
    assert isinstance(envs, RolloutEnvs)
    connections: list[Any] = list(envs._connections)
    assert all(isinstance(connection, ProcessConnection) for connection in connections) and len(connections) == 2
    here, expected = Engine(replace(whole, rollouts=None)).collect(engine.state)
    assert all(
        one.equal(other)
        for one, other in zip(trajectory[:8], expected[:8], strict=True)  # the fields that are tensors
    )
    np.testing.assert_array_equal(state.env_steps, here.env_steps)
    for connection in connections:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # the process that trains handles them
            os.kill(connection._process.pid, number)
    state, _ = engine.collect(state)
    pid = connections[1]._process.pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunFailed, match=rf"rollout worker 1 \(process {pid}\) was killed by SIGKILL"):
        engine.collect(state)
    engine.close()
    assert [connection._process.poll() is not None for connection in connections] == [True, True]


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (r"printf '\3\0\0\0\0\0\0\0xyz'; exec sleep 100", "sent an unreadable message: JSONDecodeError"),
        ("kill -40 $$", "was killed by signal 40"),  # a signal without a name
        ("exit 3", "ended with exit code 3"),
    ],
)
def test_every_receive_from_a_failed_worker_raises_the_same_error(program: str, told: str) -> None:
    connection = ProcessConnection(5, ("sh", "-c", program), {})
    for _ in range(2):
        with pytest.raises(EnvError, match=rf"rollout worker 5 \(process \d+\) {told}"):
            connection.receive(timeout=30)
    connection.close()


@pytest.mark.slow
def test_with_a_lag_workers_collect_while_the_main_process_trains(plan: MakePlan) -> None:
    """The update waits until the rollouts have arrived, which never happens unless workers collect at the same time."""
    engine = Engine(plan("impala", **SYNC, lag=1, rollout_steps=8, rollout_workers=2))
    update = engine.plan.algorithm.update_meanwhile
    arrived: list[bool] = []

    def meanwhile(state: TrainState) -> TrainState:
        envs: Any = engine.interaction.environments.training()
        eventually(lambda: not any(connection._answers.empty() for connection in envs._connections))
        arrived.append(True)
        trained: TrainState = update(engine, state)
        return trained

    for number in range(2):
        engine.begin_update()
        before = engine.state
        state, trajectory = engine.collect_while(before, meanwhile)
        moved = any(not state.params[name].equal(before.params[name]) for name in before.params)
        assert arrived == [True] * (number + 1) and moved == (number > 0)
        engine.state = engine.plan.algorithm.update(engine, state, trajectory)
        engine.state, _ = engine.end_update(before)
    engine.close()


class Silent(Here):
    """A worker that never answers."""

    def receive(self, timeout: float | None = None) -> Any:
        if timeout is None:
            return super().receive()
        raise queue.Empty


def test_a_collection_of_whole_episodes_can_be_cancelled(plan: MakePlan) -> None:
    from pgzoo.training.activity import Cancelled

    whole = plan("reinforce", **SYNC, rollout_workers=2)
    assert isinstance(whole.rollouts, RolloutBackend)
    engine = Engine(replace(whole, rollouts=replace(whole.rollouts, connect=Silent)))
    engine.interaction.monitor.cancelled = lambda: True
    with pytest.raises(Cancelled):
        engine.collect(engine.state)
    engine.close()


def test_rollout_workers_with_cuda_python_objects_or_too_few_environments_are_refused(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(UsageError, match=r"--rollout-workers: the policy acts on the workers' CPUs"):
        plan("ppo", rollout_workers=2, device="cuda")
    with pytest.raises(UsageError, match=r"--rollout-workers 3: a seed has 2 environments to share. Give at most 2"):
        plan("ppo", rollout_workers=3, num_envs=2)
    with pytest.raises(ConfigError, match=r"rollout_workers 2: these processes can't be given the objects mine:It"):
        check_objects({"mine:It": object()}, "local", 2)
