"""The coordinator, without processes: seeds are split into shards, and the messages of workers are merged."""

from __future__ import annotations

import contextlib
import json
import logging
import random
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgzoo
from pgzoo.config import RunConfig
from pgzoo.errors import PluginError, RunFailed, UsageError
from pgzoo.launchers.coordinator import Coordinator
from pgzoo.launchers.protocol import decode, encode, load_resume_point, split
from pgzoo.launchers.worker import execute_commands
from pgzoo.ops.members import select
from pgzoo.registry import PluginCatalog
from pgzoo.runs.planning import make_plan
from pgzoo.tracking import Home
from pgzoo.training import checkpoint
from pgzoo.training.engine import Engine
from pgzoo.training.events import CheckpointSaved, EpisodesFinished, Evaluated, Event, RunEnded, RunStarted, UpdateDone
from pgzoo.training.loop import Control
from pgzoo.training.plan import Plan
from pgzoo.types import LaunchRequest, WorkerMessage


def test_seeds_are_split_evenly_and_in_order() -> None:
    assert split(5, 2) == [[0, 1, 2], [3, 4]]
    assert split(8, 3) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert split(2, 4) == [[0], [1]]


@given(members=st.integers(1, 60), count=st.integers(1, 20))
def test_every_seed_has_one_worker_and_no_worker_is_idle(members: int, count: int) -> None:
    parts = split(members, count)
    assert [row for rows in parts for row in rows] == list(range(members))
    sizes = [len(rows) for rows in parts]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1 and len(parts) == min(count, members)


def steps(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def test_a_decoded_event_assigns_values_to_the_members_of_the_worker() -> None:
    at = steps(10, 20, 30)
    told = EpisodesFinished(4, steps(33, 25), (np.array([1.0, 0.1]), np.zeros(0)), (steps(3, 4), steps()))
    event = decode(json.loads(encode(told)), [2, 1], at)
    assert isinstance(event, EpisodesFinished) and event.update == 4
    assert event.env_steps.tolist() == at.tolist() == [10, 25, 33]
    assert [r.tolist() for r in event.returns] == [[], [], [1.0, 0.1]]
    assert [n.tolist() for n in event.lengths] == [[], [], [3, 4]]
    at[0] = 99
    assert event.env_steps[0] == 10  # the event has a copy


def test_decoded_metrics_of_other_members_are_nan_and_their_flags_false() -> None:
    metrics = {"loss/total": np.array([0.1, np.inf])}
    told = UpdateDone(0, steps(5, 6), np.array([True, True]), np.array([False, True]), metrics)
    event = decode(json.loads(encode(told)), [0, 2], steps(0, 7, 0))
    assert isinstance(event, UpdateDone)
    assert event.active.tolist() == [True, False, True] and event.ended.tolist() == [False, False, True]
    assert event.metrics["loss/total"].tolist()[::2] == [0.1, np.inf] and np.isnan(event.metrics["loss/total"][1])
    saved = decode(json.loads(encode(CheckpointSaved(steps(5, 6), (1,), True))), [0, 2], steps(0, 7, 0))
    assert isinstance(saved, CheckpointSaved) and saved.members == (2,) and saved.exact
    played = Evaluated(steps(5), np.array([True]), "greedy", True, (np.array([2.5]),), (steps(9),))
    told_again = decode(json.loads(encode(played)), [1], steps(1, 2))
    assert isinstance(told_again, Evaluated) and told_again.final and told_again.mode == "greedy"
    assert told_again.active.tolist() == [False, True] and told_again.returns[1].tolist() == [2.5]


def test_decoding_an_unknown_event_type_raises_an_error() -> None:
    with pytest.raises(ValueError, match="not an event: Nonsense"):
        decode({"type": "Nonsense", "env_steps": [1]}, [0], steps(0))


def ended(*, loop: float = 1.0, seeds: int = 1, status: str = "finished", failure: str | None = None) -> str:
    told = {"statuses": [status] * seeds, "reasons": ["so"] * seeds, "env_steps": [100] * seeds}
    return json.dumps({"type": "ended", **told, "timing": {"loop": loop}, "lost": 0, "dropped": 0, "failure": failure})


Relayed = Callable[..., list[Event]]


@pytest.fixture
def relayed(plan: Callable[..., Plan], tmp_path: Path) -> Relayed:
    """Return `relayed(words)`: the events of a run of seeds 4, 7 and 9 in two shards whose workers send `words`."""

    def run(words: Sequence[WorkerMessage], events: list[Event] | None = None) -> list[Event]:
        def launch(request: LaunchRequest) -> Generator[WorkerMessage]:
            assert [part.seeds for part in request.split(2)] == [(4, 7), (9,)]
            yield from words

        home = Home.find({"PGZOO_HOME": str(tmp_path)})
        coordinator = Coordinator(plan(seeds=(4, 7, 9)), Control(), home, worker=(), spec={"imports": []})
        heard = [] if events is None else events
        assert coordinator.launch(launch)
        for event in coordinator.events():
            heard.append(event)
        return heard

    return run


def test_a_shard_is_restarted_from_the_last_checkpoints_of_its_seeds(
    configure: Callable[..., RunConfig], catalog: PluginCatalog, home: Home
) -> None:
    config = configure(seeds=(4, 7, 9), total_steps=300, tracking_uri="none")
    plan = make_plan(config, catalog, "group")
    requests: list[LaunchRequest] = []
    coordinator = Coordinator(plan, Control(), home, worker=(), spec={})
    coordinator.launch(requests.append)  # type: ignore[arg-type]
    (request,) = requests
    first, second = request.split(2)
    assert request.restart(1) == second and json.loads(second.spec)["resume"] is None  # no checkpoint yet

    at = select(Engine(plan).snapshot(environments=False), [2])
    at.env_steps[:] = 120
    about = {"status": "running", "reason": "", "resume": "exact", "versions": {}, "listeners": {"a": {"b": 1}}}
    checkpoint.save(home.runs / plan.run_keys[2] / checkpoint.FOLDER_NAME, at, about)
    again = request.restart(1)
    spec = json.loads(again.spec)
    assert again.seeds == (9,) and spec["rows"] == [2] and spec["config"]["seeds"] == [9]
    point = load_resume_point("group", config, spec["resume"])
    assert [member.seed for member in point.members] == [9] and point.listeners == ({"a": {"b": 1}},)
    assert point.progress.state.env_steps.tolist() == [120] and point.progress.statuses == ("running",)
    assert request.restart(0) == first  # its seeds have no checkpoint
    coordinator._stack.close()  # as `events` does at the end


def last(events: list[Event]) -> RunEnded:
    event = events[-1]
    assert isinstance(event, RunEnded) and isinstance(events[0], RunStarted)
    return event


def test_the_ends_of_workers_are_merged_with_the_timing_of_the_slowest(relayed: Relayed) -> None:
    words = [
        WorkerMessage(1, "stdout", ended(loop=3.0)),
        WorkerMessage(1, "exited", ""),
        WorkerMessage(0, "stdout", ended(seeds=2, loop=2.0)),
    ]
    end = last(relayed([*words, WorkerMessage(0, "exited", "")]))
    assert end.statuses == ("finished",) * 3 and end.env_steps.tolist() == [100] * 3 and end.timing == {"loop": 3.0}


def test_activity_shows_collected_steps_until_an_event_reports_them(plan: Callable[..., Plan], tmp_path: Path) -> None:
    def doing(shard: int, phase: str, steps: int, evaluating: int = 0) -> WorkerMessage:
        content = {"phase": phase, "collecting": (steps, 1), "evaluating": (9, evaluating), "due": 2 * bool(evaluating)}
        return WorkerMessage(shard, "stdout", json.dumps({"type": "activity", **content}))

    played = encode(EpisodesFinished(0, steps(40, 50), (np.zeros(0),) * 2, (steps(),) * 2))
    activity, shown = (control := Control()).activity, []

    def launch(request: LaunchRequest) -> Generator[WorkerMessage]:
        request.split(2)
        for word in [
            doing(0, "collect", 30),
            doing(1, "collect", 20),
            doing(0, "collect", 90),
            WorkerMessage(0, "stdout", played),  # reports these 90 steps
            doing(0, "evaluate", 90, 1),
            WorkerMessage(1, "stdout", ended()),
            WorkerMessage(0, "stdout", ended(seeds=2)),
            WorkerMessage(0, "exited", ""),
            WorkerMessage(1, "exited", ""),
        ]:
            yield word
            new = activity.collecting.steps - activity.reported[0]
            shown.append((activity.phase, new, activity.evaluating.episodes, activity.episodes_due))

    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    coordinator = Coordinator(plan(seeds=(4, 7, 9)), control, home, worker=(), spec={"imports": []})
    assert coordinator.launch(launch)
    list(coordinator.events())
    collecting = [("collect", 30, 0, 0), ("collect", 50, 0, 0), ("collect", 110, 0, 0), ("collect", 20, 0, 0)]
    assert shown[:6] == [*collecting, ("collect", 20, 1, 2), ("evaluate", 20, 1, 2)]


def test_only_the_seeds_of_a_dead_worker_fail(relayed: Relayed) -> None:
    played = encode(EpisodesFinished(0, steps(40, 50), (np.zeros(0),) * 2, (steps(),) * 2))
    words = [
        WorkerMessage(0, "stdout", played),
        WorkerMessage(0, "exited", "killed"),
        WorkerMessage(1, "stdout", ended()),
        WorkerMessage(1, "exited", ""),
    ]
    end = last(relayed(words))
    assert end.statuses == ("failed", "failed", "finished") and end.reasons == ("killed", "killed", "so")
    assert end.env_steps.tolist() == [40, 50, 100]


def test_a_component_that_raises_in_one_worker_fails_only_its_seeds(relayed: Relayed) -> None:
    failed = WorkerMessage(1, "stdout", ended(status="failed", failure="boom"))
    words = [
        WorkerMessage(0, "stdout", ended(seeds=2)),
        WorkerMessage(0, "exited", ""),
        failed,
        WorkerMessage(1, "exited", ""),
    ]
    assert last(relayed(words)).statuses == ("finished", "finished", "failed")


def test_a_component_that_raises_in_every_worker_fails_the_run(relayed: Relayed) -> None:
    words = [WorkerMessage(part, "stdout", ended(seeds=2 - part, status="failed", failure="boom")) for part in (0, 1)]
    events: list[Event] = []
    with pytest.raises(RunFailed, match="boom"):
        relayed([*words, WorkerMessage(0, "exited", ""), WorkerMessage(1, "exited", "")], events)
    assert last(events).statuses == ("failed",) * 3


def test_a_refusal_by_every_worker_is_a_usage_error(relayed: Relayed) -> None:
    refusal = json.dumps({"type": "refused", "text": "no such thing"})
    words = [
        word
        for part in (0, 1)
        for word in (WorkerMessage(part, "stdout", refusal), WorkerMessage(part, "exited", "exit code 0"))
    ]
    with pytest.raises(UsageError, match="no such thing"):
        relayed(words)


def no_cluster(request: LaunchRequest) -> Any:
    raise OSError("no such cluster")


def starts_nothing(request: LaunchRequest) -> Generator[WorkerMessage]:
    yield from ()


def splits_only(request: LaunchRequest) -> Generator[WorkerMessage]:
    request.split(2)
    yield from ()


def fails_at_the_start(request: LaunchRequest) -> Generator[WorkerMessage]:
    request.split(2)
    yield from no_cluster(request)


def splits_into_none(request: LaunchRequest) -> Generator[WorkerMessage]:
    request.split(0)
    yield WorkerMessage(0, "exited", "")


def yielding(*messages: Any) -> Callable[[LaunchRequest], Generator[WorkerMessage]]:
    def launch(request: LaunchRequest) -> Generator[WorkerMessage]:
        request.split(2)
        yield from messages

    return launch


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (lambda request: 3, "^L returned 3. It must return None, to train all seeds in this process, or a generator"),
        (no_cluster, r"^L raised OSError: no such cluster \(.*test_coordinator.py, line \d+\)$"),
        (fails_at_the_start, r"^L raised OSError: no such cluster \(.*test_coordinator.py, line \d+\)$"),
        (starts_nothing, "^L ended without starting a worker, or without yielding its messages. It must call request"),
        (splits_only, "^L ended without starting a worker, or without yielding its messages"),
        (splits_into_none, "^L raised ValueError: number sections must be larger than 0"),
        (yielding("a line"), "^L yielded 'a line', which must be a pgzoo.types.WorkerMessage"),
        (yielding(WorkerMessage(2, "exited", "")), "^L yielded a message of shard 2, but split has returned 2 shards"),
        (yielding(WorkerMessage(0, "out", "{}")), "^L yielded WorkerMessage.*'out'.*, but the kind must be "),
    ],
)
def test_an_error_names_a_launcher_that_fails_before_its_first_message(
    plan: Callable[..., Plan], tmp_path: Path, launch: Any, message: str
) -> None:
    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    coordinator = Coordinator(plan(seeds=(4, 7, 9)), Control(), home, worker=(), spec={})
    with pytest.raises(PluginError, match=message):
        assert coordinator.launch(launch, "L") and list(coordinator.events())


def test_the_error_names_the_launcher_and_its_plugin(home: Home, tmp_path: Path) -> None:
    (tmp_path / "clusters.py").write_text(
        "import pgzoo\n\ndef launch(request):\n    raise OSError('no such cluster')\n\n@pgzoo.hookimpl\n"
        "def pgzoo_register(registry):\n    registry.launcher('my-la', launch)\n"
    )
    message = (
        r'^launcher "my-la" \(plugin ".*clusters\.py"\) raised OSError: no such cluster \(.*clusters\.py, line 4\)$'
    )
    with pytest.raises(PluginError, match=message):
        pgzoo.run("reinforce", env="CartPole-v1", launcher="my-la", imports=[tmp_path / "clusters.py"])


@pytest.mark.parametrize("error", [OSError("lost"), RunFailed("L is lost")])
def test_a_launcher_that_raises_later_fails_the_seeds_whose_workers_are_running(
    plan: Callable[..., Plan], tmp_path: Path, error: Exception
) -> None:
    def launch(request: LaunchRequest) -> Generator[WorkerMessage]:
        request.split(2)
        yield WorkerMessage(1, "stdout", ended())
        yield WorkerMessage(1, "exited", "")
        raise error

    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    coordinator = Coordinator(plan(seeds=(4, 7, 9)), Control(), home, worker=(), spec={})
    assert coordinator.launch(launch, "L")
    events: list[Event] = []
    message = "^L is lost$" if isinstance(error, RunFailed) else r"^L raised OSError: lost \(.*, line \d+\)$"

    def train() -> None:
        for event in coordinator.events():
            events.append(event)

    with pytest.raises(RunFailed, match=message) as raised:
        train()
    assert raised.value.__cause__ is error
    assert (
        last(events).statuses == ("failed", "failed", "finished")
        and last(events).reasons[:2] == (str(raised.value),) * 2
    )


def test_seeds_fail_if_the_launcher_ends_without_reporting_their_worker(relayed: Relayed) -> None:
    end = last(relayed([WorkerMessage(1, "stdout", ended()), WorkerMessage(0, "stderr", "hello")]))
    assert end.statuses == ("failed", "failed", "finished")
    assert end.reasons[0] == "the launcher ended without reporting that the worker has exited"


def test_identical_output_of_two_workers_is_shown_for_only_one_of_them(
    relayed: Relayed, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    log = json.dumps({"type": "log", "level": logging.WARNING, "text": "100% full"})
    words = [
        word
        for part in (0, 1)
        for word in (WorkerMessage(part, "stdout", log), WorkerMessage(part, "stderr", "an env says hello"))
    ]
    ends = [
        WorkerMessage(0, "stdout", ended(seeds=2)),
        WorkerMessage(0, "exited", ""),
        WorkerMessage(1, "stdout", ended()),
        WorkerMessage(1, "exited", ""),
    ]
    relayed([*words, WorkerMessage(0, "stderr", "an env says hello"), *ends])
    assert [record.message for record in caplog.records] == ["100% full"]
    assert capsys.readouterr().err == "an env says hello\n" * 2  # both lines of the first worker, none of the second


def test_stop_evaluate_and_save_requests_reach_the_workers(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgzoo.launchers.worker.os.dup2", lambda *_: None)  # it would silence this process
    control = Control()
    coordinator = Coordinator(
        plan(seeds=(4, 7, 9)), control, Home.find({"PGZOO_HOME": str(tmp_path)}), worker=(), spec={}
    )
    requests: list[LaunchRequest] = []
    coordinator.launch(lambda request: requests.append(request))
    assert list(requests[0].commands()) == []
    control.stop((2,), "enough")
    control.evaluate()
    control.save()
    lines = [line.encode() for line in requests[0].commands()]
    assert len(lines) == 3 and list(requests[0].commands()) == []
    for rows, stopped in ([0, 1], []), ([2], [(0,)]):
        worker = Control()
        execute_commands(lines, worker, rows)
        *stops, died = worker.take_stops()
        assert [stop.members for stop in stops] == stopped and died.status == "interrupted"
        assert worker.evaluation_due and worker.checkpoint_due


def worker_output(draw: random.Random, shard: int, seeds: int) -> tuple[list[WorkerMessage], bool]:
    """Return the messages of a worker that may die at or during any line, and whether it lived until its last line."""
    at, lines = np.zeros(seeds, np.int64), list[str]()
    for update in range(draw.randrange(6)):
        at = at + draw.randrange(1, 50)
        lines.append(encode(EpisodesFinished(update, at, (np.ones(1),) * seeds, (steps(3),) * seeds)))
        lines.append(json.dumps({"type": "log", "level": logging.WARNING, "text": "100% full"}))
    status = draw.choice(("finished", "stopped", "failed"))
    lines.append(ended(seeds=seeds, status=status, failure="boom" if status == "failed" else None))
    alive = draw.random() < 0.4
    if not alive:
        lines = lines[: draw.randrange(len(lines))]
        if draw.random() < 0.5:  # killed while it wrote a line
            whole = encode(EpisodesFinished(9, at + 1, (np.ones(1),) * seeds, (steps(3),) * seeds))
            lines.append(whole[: draw.randrange(len(whole))])
    messages = [WorkerMessage(shard, "stdout", line) for line in lines]
    return [*messages, WorkerMessage(shard, "exited", "" if alive else "killed")], alive


@pytest.mark.parametrize("seed", range(8))
def test_workers_that_die_at_random_lines_fail_only_their_own_seeds(
    plan: Callable[..., Plan], tmp_path: Path, seed: int
) -> None:
    draw, home = random.Random(seed), Home.find({"PGZOO_HOME": str(tmp_path)})
    (first, first_alive), (second, second_alive) = worker_output(draw, 0, 2), worker_output(draw, 1, 1)

    def launch(request: LaunchRequest) -> Generator[WorkerMessage]:
        request.split(2)
        queues = [list(first), list(second)]
        while any(queues):
            yield draw.choice([queue for queue in queues if queue]).pop(0)

    coordinator = Coordinator(plan(seeds=(4, 7, 9)), Control(), home, worker=(), spec={"imports": []})
    assert coordinator.launch(launch)
    events: list[Event] = []
    with contextlib.suppress(RunFailed):
        for event in coordinator.events():
            events.append(event)
    for rows, output, alive in ((slice(0, 2), first, first_alive), (slice(2, 3), second, second_alive)):
        said = json.loads(output[-2].text)["statuses"] if alive else ["failed"] * len(range(3)[rows])
        assert list(last(events).statuses[rows]) == said
    whole = [word for word in (*first, *second) if '"EpisodesFinished"' in word.text and word.text.endswith("]]}")]
    assert sum(isinstance(event, EpisodesFinished) for event in events) == len(whole)
