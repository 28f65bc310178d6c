"""Scores, batches, and the rungs at which a trial may be pruned; expected values are worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pgzoo.config import RunConfig
from pgzoo.registry import PluginCatalog
from pgzoo.search.finals import best_rows
from pgzoo.search.result import Finalist, TrialRow
from pgzoo.search.space import configure as configure_trial
from pgzoo.search.trial import Candidate, Outcome, Rungs, batches, score
from pgzoo.training.events import EpisodesFinished
from pgzoo.training.loop import Control

Configure = Callable[..., RunConfig]


def test_the_score_is_the_interquartile_mean_over_seeds() -> None:
    assert score([1, 3]) == 2
    assert score([0, 4, 6, 1000]) == 5  # without the lowest and the highest
    assert score([0, 0, 1, 2, 3, 4, 90, 90]) == 2.5
    assert Outcome(0, "finished", (0.0, 4.0, 6.0, 1000.0)).score == 5
    assert Outcome(0, "pruned", (1.0, 2.0)).score is None


def test_candidates_share_a_batch_if_they_differ_only_in_per_member_settings(
    configure: Configure, catalog: PluginCatalog
) -> None:
    base = configure("ppo", seeds=(0, 1), total_steps=100)

    def candidate(number: int, **settings: Any) -> Candidate:
        keys = {key.replace("__", "."): value for key, value in settings.items()}
        config = configure_trial(base, keys, catalog).model_copy(update={"tags": {"pgzoo.trial": str(number)}})
        return Candidate(number, config, tuple(keys))

    candidates = [
        candidate(0, learning_rate=1e-3, estimator="gae", estimator__lam=0.9),
        candidate(1, learning_rate=1e-4, estimator="n-step"),
        candidate(2, learning_rate=1e-2, estimator="gae", estimator__lam=1.0),
        candidate(3, learning_rate=1e-2, estimator="n-step"),
        candidate(4, learning_rate=1e-2, estimator="n-step", epochs=3),
        candidate(5, learning_rate=1e-2, target_kl=0.1),
        candidate(6, learning_rate=1e-2, target_kl=None),  # None can't be in a tensor with 0.1
    ]
    assert candidates[0].shared() == {"learning_rate": 1e-3, "estimator.lam": 0.9}
    groups = [[one.number for one in batch] for batch in batches(candidates)]
    assert groups == [[0, 2], [1, 3], [4], [5], [6]]
    apart = base.model_copy(update={"launcher": "processes"})
    assert Candidate(0, apart, ("learning_rate",)).shared() == {}


def event(steps: list[int], *returns: list[float]) -> EpisodesFinished:
    arrays = tuple(np.array(one, float) for one in returns)
    return EpisodesFinished(0, np.array(steps), arrays, tuple(one.astype(int) for one in arrays))


def test_a_trial_is_reported_after_each_tenth_of_training_and_stopped_if_pruned() -> None:
    config: Any = SimpleNamespace(total_steps=100, total_episodes=None)
    batch: list[Any] = [SimpleNamespace(number=7, config=config), SimpleNamespace(number=9, config=config)]
    said: list[tuple[int, int, float]] = []

    def report(number: int, rung: int, so_far: float) -> bool:
        said.append((number, rung, so_far))
        return number == 9

    control = Control()
    watch = Rungs(batch, 2, control, report)
    watch(event([9, 12, 12, 12], [1], [3], [], [5]))
    assert said == []  # seed 0 of trial 7 hasn't done a tenth; no episode of seed 0 of trial 9 has ended
    watch(event([12, 14, 14, 14], [2], [], [1, 3], []))
    assert said == [(7, 1, pytest.approx((1.5 + 3) / 2)), (9, 1, pytest.approx((2 + 5) / 2))]
    assert watch.pruned == {9}
    (stop,) = control.take_stops()
    assert stop.members == (2, 3) and stop.reason == "pruned after 1 of 10 parts"
    watch(event([35, 36, 36, 36], [10], [20], [9], [9]))
    assert said[2:] == [(7, 3, 15)]  # only the returns since the last report; trial 9 has been pruned
    watch(event([100, 100, 36, 36], [10], [20], [], []))
    assert len(said) == 3  # at the end there is nothing left to prune


def row(number: int, score: float | None, **settings: Any) -> TrialRow:
    return TrialRow(number, settings, "finished" if score is not None else "failed", score, (), "", (), 0)


def test_the_best_rows_have_distinct_settings() -> None:
    rows = [row(0, 1.0, a=1), row(1, 3.0, a=2), row(2, 3.0, a=2), row(3, None, a=3), row(4, 2.0, a=4)]
    assert [one.number for one in best_rows(rows, 2)] == [1, 4]
    assert [one.number for one in best_rows(rows, 9)] == [1, 4, 0]


def test_shrinkage_is_the_search_score_minus_the_fresh_score() -> None:
    finalist = Finalist(0, {"a": 1}, 10.0, (4.0, 6.0, 8.0), ())
    assert finalist.fresh_score == 6 and finalist.shrinkage == 4
    assert finalist.to_dict()["fresh_low"] < 6 < finalist.to_dict()["fresh_high"]
