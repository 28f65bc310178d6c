"""Every algorithm with every estimator and policy does what docs/pairs.md says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from pgzoo.config import Layer
from pgzoo.errors import UnfitError
from pgzoo.registry import PluginInfo, discover
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import resolve
from pgzoo.testing import probes
from pgzoo.training.engine import Engine
from pgzoo.training.events import RunEnded, UpdateDone
from pgzoo.training.loop import train
from pgzoo.training.plan import Plan
from pgzoo.types import Params

CATALOG = discover(inline=False)
PAGE = (Path(__file__).parents[2] / "docs" / "pairs.md").read_text(encoding="utf-8")
REASONS = {
    "no: windows": 'Estimator ".*" needs whole episodes, but algorithm ".*" collects windows of 12 steps',
    "no: no gradient": 'Algorithm ".*" takes no gradient steps and uses the returns of episodes as they are',
    "no: memory": 'Algorithm ".*" supports no recurrent policy',
    "no: images": "supports flat vectors, not images",
    "no: no parameters": 'policy "uniform" has no parameters|searches in parameter space',
}


def read_table(heading: str) -> dict[tuple[str, str], str]:
    """Return the cells of the table under a heading, by algorithm and column."""
    head, *rows = re.findall(r"^\|(.*)\|$", PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0], re.MULTILINE)
    columns = re.findall(r"`(.*?)`", head)
    cells = [[cell.strip(" `") for cell in row.split(" | ")] for row in rows if "---" not in row]
    return {(name, column): cell for name, *row in cells for column, cell in zip(columns, row, strict=True)}


ESTIMATORS = read_table("Algorithms and return estimators")
POLICIES = read_table("Algorithms and policies")


def given(algorithm: str, **settings: Any) -> dict[str, Any]:
    assert "pgzoo/AnySpaces-v0" in probes.PROBES
    entry = CATALOG.get("algorithm", algorithm)
    actions = "one" if "box" in str(entry.facts["actions"]).lower() else "discrete"
    model = entry.load_config()
    if model and "rollout_steps" in model.model_fields:
        settings["rollout_steps"] = 12
    observation = "image-and-vector" if str(settings.get("policy")).endswith("cnn") else "discrete"
    world = {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"observation": observation, "action": actions}}
    return {"algorithm": algorithm, **world, "num_envs": 4, "total_steps": 1, "eval_episodes": 1, **settings}


def one_update(settings: dict[str, Any]) -> tuple[Plan, RunEnded] | str:
    """Train for one update; return the plan and the end of the run, or a refusal in the words of docs/pairs.md."""
    try:
        plan = make_plan(resolve([Layer(settings, ".".join)], CATALOG), CATALOG)
        *_, ended = train(plan)
    except UnfitError as refusal:
        return next((cell for cell, reason in REASONS.items() if re.search(reason, str(refusal))), str(refusal))
    assert isinstance(ended, RunEnded)
    assert (ended.statuses, int(ended.state.updates[0])) == (("finished",), 1)
    return plan, ended


def use_of_estimator(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the cell of the first table: whether one update calls the estimator, and whether a critic is added."""
    asked: list[str] = []
    estimate = Engine.estimate

    def spy(self: Engine, *args: Any, **kwargs: Any) -> Any:
        asked.append("estimate")
        return estimate(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "estimate", spy)
    found = one_update(settings)
    if isinstance(found, str):
        return found
    if not asked:
        return "not used"
    plan, ended = found
    assert any(name.startswith("critic.") for name in ended.state.params) >= plan.added_critic
    return "trains, critic added" if plan.added_critic else "trains"


def effect_on_policy(settings: dict[str, Any]) -> str:
    """Return the cell of the second table: whether one update changes a parameter of the policy."""
    found = one_update(settings)
    if isinstance(found, str):
        return found
    plan, ended = found
    with closing(Engine(plan)) as engine:
        first, last = (select_policy(state.params) for state in (engine.state, ended.state))
    return "trains" if any(not torch.equal(first[name], last[name]) for name in first) else "plays only"


def select_policy(params: Params) -> Params:
    return {name: leaf for name, leaf in params.items() if name.startswith("policy.")}


def built_in(kind: str) -> set[str]:
    return {entry.name for entry in CATALOG.entries(kind) if entry.plugin.source == "built-in"}


def test_the_tables_have_every_pair() -> None:
    for table, kind in ((ESTIMATORS, "estimator"), (POLICIES, "policy")):
        assert set(table) == {(a, other) for a in built_in("algorithm") for other in built_in(kind)}


def test_tables_show_two_algorithms_per_component_and_working_defaults() -> None:
    for table in (ESTIMATORS, POLICIES):
        for column in {column for _, column in table} - {"uniform"}:
            assert sum(cell.startswith("trains") for (_, c), cell in table.items() if c == column) >= 2, column
    for name in built_in("algorithm"):
        assert ESTIMATORS[name, CATALOG.get("algorithm", name).load().estimator] in ("trains", "not used")


REPRESENTATIVE = {"reinforce", "reinforce-baseline", "ppo", "impala", "gae"}
"""Pairs with one of these are tested by `make test`, the others by `make test-all`."""


def marked(table: Iterable[tuple[str, str]]) -> list[Any]:
    slow = [pytest.mark.slow]
    return [pytest.param(*pair, marks=[] if REPRESENTATIVE & set(pair) else slow) for pair in table]


@pytest.mark.parametrize(("algorithm", "estimator"), marked(ESTIMATORS))
def test_an_algorithm_with_an_estimator_behaves_as_documented(
    algorithm: str, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert use_of_estimator(given(algorithm, estimator=estimator), monkeypatch) == ESTIMATORS[algorithm, estimator]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "policy"), POLICIES)
def test_an_algorithm_with_a_policy_behaves_as_documented(algorithm: str, policy: str) -> None:
    assert effect_on_policy(given(algorithm, policy=policy)) == POLICIES[algorithm, policy]


class Countdown(gym.Env[Any, Any]):
    """Five steps with reward 1; the observation is the number of steps left, which equals the return."""

    observation_space, action_space = Discrete(6), Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 5
        return self.left, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self.left, 1.0, self.left == 0, False, {}


gym.register("probe/Countdown-v0", Countdown)


@pytest.mark.parametrize("estimator", ["gae", "td-lambda"])
@pytest.mark.parametrize("algorithm", ["reinforce", "rloo"])
def test_an_added_critic_learns_the_returns(algorithm: str, estimator: str) -> None:
    settings = {"env": "probe/Countdown-v0", "env_kwargs": {}, "policy": "tabular", "learning_rate": 0.1}
    more = {"estimator": estimator, "gamma": 1.0, "total_steps": 4000, "backend": "sync", "compile": "off"}
    plan = make_plan(resolve([Layer(given(algorithm, **settings) | more, ".".join)], CATALOG), CATALOG)
    *events, ended = train(plan)
    reports = [event.metrics for event in events if isinstance(event, UpdateDone)]
    explained = [float(report["value/explained_variance"][0]) for report in reports]
    assert explained[0] == pytest.approx(0.0, abs=1e-3)  # a table of zeros explains no variance
    assert 0.2 < explained[len(explained) // 4] < explained[-1] and explained[-1] > 0.9
    assert reports[0]["loss/value"][0] > 1 and reports[-1]["loss/value"][0] < 0.2
    assert isinstance(ended, RunEnded) and ended.statuses == ("finished",)
    assert ended.state.params["critic.table"][0, 1:].numpy() == pytest.approx(np.arange(1, 6), abs=0.5)


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ("Box, Discrete", "it supports flat vectors, not images. Use --policy cnn"),
        ("Box or Discrete", "it supports flat vectors, not images. Use --policy cnn"),
        ("Box", 'Algorithm "own" supports only Box actions, not Discrete(3). Choose another algorithm'),
        ("Discrete", "it supports flat vectors, not images. Use --policy cnn"),
    ],
)
def test_an_algorithm_is_blamed_for_the_actions_only_if_it_surely_does_not_support_them(
    actions: str, said: str
) -> None:
    catalog, entry = CATALOG.copy(), CATALOG.get("algorithm", "reinforce")
    facts = {**entry.facts, "actions": actions}
    catalog.add(PluginInfo("own", "inline", "own"), None, [replace(entry, name="own", facts=facts)])
    images = {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"observation": "image-and-vector", "action": "discrete"}}
    settings = {"algorithm": "own", "policy": "mlp", "total_steps": 1, **images}
    with pytest.raises(UnfitError, match=re.escape(said)):
        make_plan(resolve([Layer(settings, ".".join)], catalog), catalog)
