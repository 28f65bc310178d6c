"""The MLflow listener turns events into journal records; the expected values are calculated by hand."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgzoo.listeners.mlflow import BestMean, MlflowListener, RunDescription, StepGrid
from pgzoo.tracking import Home, Session
from pgzoo.training.events import EpisodesFinished, Evaluated, RunEnded, RunStarted, UpdateDone

ABOUT = RunDescription("little", "Corridor-v0", "pgzoo/Corridor-v0", params={"gamma": "0.99"})
NONE: Any = None


@pytest.fixture
def listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., MlflowListener]]:
    """Return a function that makes started listeners in one home, without an uploader."""
    monkeypatch.setattr("pgzoo.tracking.session.ensure_uploader", lambda home: None)
    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    sessions: list[Session] = []

    def make(seeds: tuple[int, ...] = (0,), about: RunDescription = ABOUT, every: int = 1000) -> MlflowListener:
        sessions.append(Session(home, "g", home.default_uri))
        listener = MlflowListener(sessions[-1], about, every)
        listener.pgzoo_run_started(RunStarted(NONE, "g", seeds, tuple(f"g-s{s}" for s in seeds)))
        return listener

    yield make
    for session in sessions:
        session.close(0)


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> Any:
    return np.array(values, dtype=np.float64)


def update(steps: Any, active: Any = None, **metrics: Any) -> UpdateDone:
    on = np.array(active or [True] * len(steps))
    return UpdateDone(0, steps, on, ~on, metrics)


def lines(listener: MlflowListener, member: int = 0, kind: str = "update") -> list[dict[str, Any]]:
    text = (listener.journals[member].path / "journal.jsonl").read_text()
    return [r for r in map(json.loads, text.splitlines()) if r["t"] == kind]


def curves(listener: MlflowListener, member: int = 0) -> list[tuple[list[int], dict[str, float]]]:
    found = [(r["steps"], r["m"]) for r in lines(listener, member) if "m" in r]
    for _, metrics in found:
        metrics.pop("time/steps_per_second", None)
    return found


def test_every_grid_point_passed_gets_the_mean_since_the_previous_point(
    listen: Callable[..., MlflowListener],
) -> None:
    listener = listen()
    for step, loss in ((400, 1.0), (900, 2.0), (1300, 6.0), (1900, 5.0), (4100, 7.0), (4200, 9.0)):
        listener.pgzoo_update_done(update(ints(step), loss=floats(loss)))
    assert curves(listener) == [([1000], {"loss": 3.0}), ([2000, 3000, 4000], {"loss": 6.0})]


def test_members_reach_points_independently_and_inactive_ones_are_skipped(
    listen: Callable[..., MlflowListener],
) -> None:
    listener = listen((3, 5))
    listener.pgzoo_update_done(update(ints(1000, 700), loss=floats(1.0, 2.0)))
    listener.pgzoo_update_done(update(ints(1000, 1400), [False, True], loss=floats(99.0, 4.0)))
    listener.pgzoo_update_done(update(ints(1000, 2100), [False, True], loss=floats(99.0, 8.0)))
    assert curves(listener, 0) == [([1000], {"loss": 1.0})]
    assert curves(listener, 1) == [([1000], {"loss": 3.0}), ([2000], {"loss": 8.0})]
    assert [journal.name for journal in listener.journals] == ["little s3", "little s5"]


def test_a_metric_that_mlflow_stores_under_another_name_is_warned_about_once(
    listen: Callable[..., MlflowListener], caplog: pytest.LogCaptureFixture
) -> None:
    listener = listen()
    for steps in (1000, 2000):
        listener.pgzoo_update_done(update(ints(steps), **{"Loss Policy!": floats(1.0), "loss/policy": floats(1.0)}))
    assert list(lines(listener)[-1]["m"])[:2] == ["Loss Policy_", "loss/policy"]
    assert caplog.messages == [
        'The metric "Loss Policy!" is stored in MLflow as "Loss Policy_". Names consist of a group and a word, such as '
        "loss/policy."
    ]


def test_a_value_that_is_not_finite_is_left_out_of_the_mean(listen: Callable[..., MlflowListener]) -> None:
    listener = listen()
    listener.pgzoo_update_done(update(ints(500), loss=floats(np.nan), other=floats(np.inf)))
    listener.pgzoo_update_done(update(ints(1000), loss=floats(4.0), other=floats(np.nan)))
    assert curves(listener) == [([1000], {"loss": 4.0})]
    assert listener.journals[0].dropped == 3


def test_episodes_are_written_with_their_update_and_averaged_per_point(
    listen: Callable[..., MlflowListener],
) -> None:
    listener = listen()
    for steps, returns, lengths in ((400, [10.0, 30.0], [100, 300]), (900, [], []), (1100, [50.0], [200])):
        arrays = (floats(*returns),), (ints(*lengths),)
        listener.pgzoo_episodes_finished(EpisodesFinished(0, ints(steps), *arrays))
        listener.pgzoo_update_done(update(ints(steps)))
    first, second = lines(listener)
    assert first["e"] == [[100, 400], [10.0, 30.0], [100, 300]]
    assert "m" not in first
    assert second["e"] == [[1100], [50.0], [200]]
    assert second["m"]["train/return_mean"] == 30.0
    assert second["m"]["train/length_mean"] == 200.0
    listener.pgzoo_update_done(update(ints(2000), loss=floats(1.0)))
    assert curves(listener)[-1] == ([2000], {"loss": 1.0})


def test_a_short_episode_in_the_same_update_as_a_long_one_is_written(listen: Callable[..., MlflowListener]) -> None:
    """The short episode's share of the 40 steps, 40 / 201, rounds to 0, which would be in the previous update."""
    listener = listen()
    for steps, returns, lengths in ((40, [10.0], [40]), (80, [1.0, 200.0], [1, 200])):
        arrays = (floats(*returns),), (ints(*lengths),)
        listener.pgzoo_episodes_finished(EpisodesFinished(0, ints(steps), *arrays))
        listener.pgzoo_update_done(update(ints(steps)))
    assert [r["e"] for r in lines(listener)] == [[[40], [10.0], [40]], [[41, 80], [1.0, 200.0], [1, 200]]]


def test_a_run_is_recorded_from_start_to_end(listen: Callable[..., MlflowListener]) -> None:
    listener = listen(about=RunDescription("little", "Corridor-v0", "e", "mine", reward_threshold=2.0))
    listener.pgzoo_episodes_finished(EpisodesFinished(0, ints(150), (np.arange(150) / 50,), (ints(*[1] * 150),)))
    listener.pgzoo_evaluated(
        Evaluated(ints(150), np.array([True]), "sampled", True, (floats(4.0, 6.0),), (ints(1, 3),))
    )
    listener.pgzoo_evaluated(Evaluated(ints(150), np.array([True]), "greedy", True, (floats(7.0),), (ints(1),)))
    listener.pgzoo_run_ended(RunEnded(ints(150), ("interrupted",), ("Ctrl-C",), {}, NONE))
    kinds = [json.loads(r)["t"] for r in (listener.journals[0].path / "journal.jsonl").read_text().splitlines()]
    assert kinds == ["start", *["evaluation"] * 2, *["update"] * 2, "tags", "end"]
    # Episodes k to k + 99 have the mean (k + 49.5) / 50, at most 99.5 / 50, so the threshold 2 is never reached.
    assert curves(listener) == [([150], {"summary/return_final": 5.0, "summary/return_best": 1.99})]
    [end] = lines(listener, kind="end")
    assert (end["status"], end["reason"]) == ("KILLED", "Ctrl-C")
    [start] = lines(listener, kind="start")
    assert start["name"] == "mine s0"
    assert start["tags"]["pgzoo.reward_threshold"] == "2"
    assert start["params"] == {"algorithm": "little", "env": "Corridor-v0", "seed": "0"}


def test_best_mean_has_the_best_value_and_the_step_that_reached_the_threshold() -> None:
    best = BestMean(threshold=0.5)
    assert np.isnan(best.value)
    best.add(np.arange(1, 41) * 10, np.zeros(40))
    assert best.value == 0.0
    assert best.solved_at == -1
    best.add(np.arange(41, 121) * 10, np.ones(80))
    # The first full window, episodes 1-100, has 60 ones, which is over the threshold; the best one, 21-120, has 80.
    assert best.solved_at == 1000
    assert best.value == pytest.approx(0.8)
    best.add(ints(1210), floats(0.0))
    assert best.value == pytest.approx(0.8)


@pytest.mark.parametrize("huge", [1e16, -1e300, np.nan])
def test_a_huge_return_changes_only_the_means_that_include_it(huge: float) -> None:
    best = BestMean(threshold=4.0)
    best.add(range(120), [-1e300] * 19 + [huge] + [1.0] * 100)  # the first full window ends with the episode 99
    best.add(range(120, 320), [3.0] * 100 + [5.0] * 100)
    last = BestMean(threshold=4.0)
    last.add(range(120, 320), [3.0] * 100 + [5.0] * 100)
    assert (last.value, last.solved_at) == (5.0, 269)
    if huge == 1e16:
        assert best.value == pytest.approx(1e14)
    else:
        assert (best.value, best.solved_at) == (5.0, 269)


@given(returns=st.lists(st.integers(-1000, 1000), max_size=700), cuts=st.lists(st.integers(0, 700), max_size=8))
@settings(max_examples=30, deadline=None)
def test_best_mean_is_the_maximum_over_all_windows_however_episodes_are_added(
    returns: list[int], cuts: list[int]
) -> None:
    best, edges = BestMean(threshold=10.0), sorted({0, len(returns), *(c for c in cuts if c < len(returns))})
    for low, high in itertools.pairwise(edges):
        best.add(range(10 * low, 10 * high, 10), returns[low:high])
    windows = [returns[k : k + 100] for k in range(max(1, len(returns) - 99))]
    means = [sum(window) / len(window) for window in windows if window]
    assert best.value == (max(means) if means else pytest.approx(np.nan, nan_ok=True))
    full = [sum(window) / 100 for window in windows if len(window) == 100]
    assert best.solved_at == next((10 * (99 + k) for k, mean in enumerate(full) if mean >= 10.0), -1)


def test_best_mean_takes_no_more_memory_for_a_million_episodes_than_a_thousand() -> None:
    def size(best: BestMean) -> int:
        return sum(sys.getsizeof(value) for value in vars(best).values())

    best = BestMean(threshold=2.0)
    best.add(range(1000), [1.0] * 1000)
    before = size(best)
    for first in range(1000, 1_000_000, 9000):
        best.add(range(first, first + 9000), [1.0] * 9000)
    assert size(best) <= before
    assert (best.value, best.solved_at) == (1.0, -1)


def test_a_resumed_run_repeats_no_point_and_counts_earlier_episodes(listen: Callable[..., MlflowListener]) -> None:
    def play(listener: MlflowListener, updates: range) -> None:
        for u in updates:
            steps = ints(600 * u)
            listener.pgzoo_episodes_finished(EpisodesFinished(u, steps, (floats(u, u),), (ints(250, 350),)))
            listener.pgzoo_update_done(update(steps, loss=floats(u)))

    first = listen()
    play(first, range(1, 8))
    first.session.close(0)
    again = listen()
    assert not again.journals[0].tail.episodes.steps  # added to the best mean and released, as there may be many
    play(again, range(5, 11))  # the checkpoint was after update 4
    points = [step for steps, _ in curves(again) for step in steps]
    assert points == [1000, 2000, 3000, 4000, 5000, 6000]
    ends = [end for r in lines(again) if "e" in r for end in r["e"][0]]
    assert ends == [600 * u + d for u in range(10) for d in (250, 600)]
    again.pgzoo_run_ended(RunEnded(ints(6000), ("finished",), ("",), {}, NONE))
    assert curves(again)[-1][1]["summary/return_best"] == pytest.approx(5.5)


def test_resuming_a_finished_run_does_not_repeat_its_summary(listen: Callable[..., MlflowListener]) -> None:
    for _ in range(3):
        listener = listen()
        if not listener.journals[0].resumed:
            listener.pgzoo_episodes_finished(EpisodesFinished(0, ints(150), (floats(1, 2),), (ints(75, 75),)))
            listener.pgzoo_evaluated(
                Evaluated(ints(150), np.array([True]), "sampled", True, (floats(0.1, 0.2, 0.4),), (ints(1, 1, 1),))
            )
        listener.pgzoo_run_ended(RunEnded(ints(150), ("finished",), ("",), {}, NONE))
    summary = {"summary/return_best": 1.5, "summary/return_final": float(np.mean([0.1, 0.2, 0.4]))}
    assert curves(listener) == [([150], summary)]


def test_a_resumed_run_takes_its_final_evaluation_from_the_journal(
    listen: Callable[..., MlflowListener],
) -> None:
    listener = listen()
    listener.pgzoo_evaluated(
        Evaluated(ints(150), np.array([True]), "sampled", True, (floats(3.0, 5.0),), (ints(1, 1),))
    )
    listener.session.close(0)  # the trainer was killed before it wrote the end
    again = listen()
    again.pgzoo_run_ended(RunEnded(ints(150), ("finished",), ("",), {}, NONE))
    assert curves(again) == [([150], {"summary/return_final": 4.0})]


def test_every_point_has_steps_per_second_even_after_resuming(listen: Callable[..., MlflowListener]) -> None:
    for leg in range(3):
        session = listen().session
        listener = MlflowListener(session, ABOUT, 1000, resumed=({"env_steps": 2000 * leg, "grid": {}},))
        session.journals["g-s0"].release()
        listener.pgzoo_run_started(RunStarted(NONE, "g", (0,), ("g-s0",)))
        for step in (2000 * leg + 1000, 2000 * leg + 2000):
            listener.pgzoo_update_done(update(ints(step), loss=floats(1.0)))
        session.journals["g-s0"].release()
    points = [(r["steps"], "time/steps_per_second" in r["m"]) for r in lines(listener)]
    assert points == [([step], True) for step in range(1000, 7000, 1000)]


def test_a_step_grid_without_metrics_returns_the_points_passed() -> None:
    grid = StepGrid(1, 10)
    assert grid.cross(ints(25), np.array([True])) == [(0, [10, 20], {})]
    assert grid.cross(ints(29), np.array([True])) == []


def test_a_logging_interval_below_one_is_refused(listen: Callable[..., MlflowListener]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        listen(every=0)


def test_recording_ten_metrics_of_32_seeds_takes_under_20_ms_per_update(listen: Callable[..., MlflowListener]) -> None:
    members = 32
    listener = listen(tuple(range(members)))
    noise = np.random.default_rng(0)
    metrics = {f"group/metric_{i}": noise.normal(size=members) for i in range(10)}
    took = []
    for u in range(1, 31):
        steps = np.full(members, 1600 * u)
        episodes = (
            tuple(noise.normal(size=8) for _ in range(members)),
            tuple(ints(*[200] * 8) for _ in range(members)),
        )
        begin = time.process_time()
        listener.pgzoo_episodes_finished(EpisodesFinished(u, steps, *episodes))
        listener.pgzoo_update_done(update(steps, **metrics))
        took.append(time.process_time() - begin)
    print(f"median {1e3 * float(np.median(took)):.2f} ms")
    assert np.median(took) < 0.02  # about 2.5 ms on a quiet machine
