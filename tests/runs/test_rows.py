"""Too few rows for a gradient step cause an error or a warning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.errors import ConfigError, UnfitError
from pgzoo.registry import PluginCatalog
from pgzoo.runs.rows import few_rows
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home
from pgzoo.training.events import UpdateDone
from pgzoo.training.loop import train
from pgzoo.training.metrics import UpdateMetrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 1, "rollout_steps": 3, "minibatches": 4}, r"3 rows \(3 steps of num_envs=1\), too few for minib"),
        (
            {"num_envs": 1, "rollout_steps": 4, "minibatches": 4},
            r".*, cut into minibatches=4: one row per .* single row can't be standardized",
        ),
        (
            {"num_envs": 1, "rollout_steps": 1, "minibatches": 1},
            r"1 row \(1 step of num_envs=1\): one row per gradient",
        ),
    ],
)
def test_minibatches_of_zero_rows_or_one_row_are_refused(
    plan: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf'Algorithm "ppo": an update collects {message}.*Lower minibatches'):
        plan("ppo", **settings)


def test_one_row_is_enough_where_nothing_is_standardized(plan: Callable[..., Any]) -> None:
    assert plan("ppo", num_envs=1, rollout_steps=4, minibatches=4, normalize_advantages=False)
    assert plan("ppo", num_envs=1, rollout_steps=7, minibatches=4)  # the largest minibatch has two rows
    assert plan("reinforce", num_envs=1)  # as many rows as the episodes have steps


def test_minibatches_of_a_policy_with_memory_are_whole_environments(plan: Callable[..., Any]) -> None:
    assert plan("ppo", policy="gru", num_envs=1, rollout_steps=4, minibatches=4)
    with pytest.raises(ConfigError, match="one row per gradient step"):
        plan("ppo", policy="gru", num_envs=4, rollout_steps=1, minibatches=4)


@pytest.mark.parametrize(("steps", "rows"), [(28, 7), (32, 8)])
def test_fewer_than_eight_rows_per_gradient_step_cause_a_warning(
    plan: Callable[..., Any], steps: int, rows: int
) -> None:
    one = plan("ppo", num_envs=1, rollout_steps=steps, minibatches=4)
    text = few_rows(one.config, one.collection, memory=False)
    assert text == "" if rows == 8 else f"{steps} rows" in text and "7 per gradient step" in text


def test_a_run_warns_once_about_few_rows(
    configure: Callable[..., Any], catalog: PluginCatalog, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    few = configure("ppo", num_envs=1, rollout_steps=20, minibatches=4, total_steps=20, eval_episodes=1)
    with caplog.at_level(logging.WARNING, "pgzoo"):
        run_config(few, catalog)
    assert [r.message for r in caplog.records if "per gradient step" in r.message] == [
        'Algorithm "ppo": an update collects 20 rows (20 steps of num_envs=1), 5 per gradient step. Advantages '
        "standardized over so few rows are mostly noise. Lower minibatches, or raise num_envs or rollout_steps."
    ]


def test_a_search_without_env_pairs_or_policy_parameters_is_refused(plan: Callable[..., Any]) -> None:
    with pytest.raises(UnfitError, match="evaluates each direction with a pair of environments"):
        next(train(plan("ars", num_envs=1)))
    for name in ("ars", "cem"):
        with pytest.raises(UnfitError, match=f'"{name}" searches in parameter space, but the policy has no parameters'):
            next(train(plan(name, policy="uniform")))


def test_update_metrics_average_only_the_counted_minibatches_of_each_member() -> None:
    report = UpdateMetrics()
    for value, counts in ((2.0, (True, True)), (0.0, (False, True)), (4.0, (True, False))):
        report.add(("m",), torch.full((1, 2), value, dtype=torch.float64), torch.tensor(counts))
    assert report.means()["m"].tolist() == [3.0, 1.0]


def test_minibatches_without_valid_rows_are_excluded_from_metrics(play: Callable[..., Any]) -> None:
    """In a one-step bandit, every other step only resets, so half of the minibatches of one row have no valid row."""
    settings = {"num_envs": 1, "rollout_steps": 8, "minibatches": 8, "epochs": 1, "normalize_advantages": False}
    events = play("ppo", "probe/Bandit-v0", total_steps=4, learning_rate=1e-9, **settings)
    entropy = next(event for event in events if isinstance(event, UpdateDone)).metrics["policy/entropy"]
    assert entropy[0] == pytest.approx(np.log(3), abs=1e-3)


def test_a_minibatch_without_valid_rows_does_not_fail_the_member(play: Callable[..., Any]) -> None:
    settings = {"num_envs": 1, "rollout_steps": 8, "minibatches": 8, "epochs": 1, "normalize_advantages": False}
    ended = play("vmpo", "probe/Bandit-v0", total_steps=8, **settings)[-1]
    assert (ended.statuses, ended.reasons) == (("finished",), ("completed 8 steps",))
