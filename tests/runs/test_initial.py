"""`init_from`: a run that starts with the weights of another one; and `save_best`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pgzoo
from pgzoo.config import Layer
from pgzoo.errors import ConfigError, UnfitError, UnknownName
from pgzoo.registry import PluginCatalog
from pgzoo.runs.reproduce import reproduce
from pgzoo.runs.result import Result
from pgzoo.runs.resume import resume
from pgzoo.runs.runner import compose, make_plan
from pgzoo.tracking import Home, find
from pgzoo.tracking.ledger import start_of
from pgzoo.training.engine import Engine

Train = Callable[..., Result]


@pytest.fixture
def begin(home: Home, catalog: PluginCatalog, short: dict[str, Any]) -> Callable[..., Engine]:
    """Return `begin(**settings)`: the engine of a short run before its first update."""

    def engine(**settings: Any) -> Engine:
        return Engine(make_plan(compose(Layer(short | settings, ".".join), catalog), catalog))

    return engine


def policy_of(result: Result, row: int = 0) -> dict[str, torch.Tensor]:
    tensors = result.plan.policy_params(result.ended.state)
    return {name: value[row] for name, value in tensors.items() if not name.startswith("critic.")}


def test_init_from_copies_policy_and_normalizer_but_no_critic_or_optimizer(
    trained: Train, begin: Callable[..., Engine]
) -> None:
    first = trained(normalize_obs=True)
    engine = begin(normalize_obs=True, seeds=(5, 6), init_from=first.runs[0].run_key)
    fresh = begin(normalize_obs=True, seeds=(5, 6))
    theirs = policy_of(first)
    assert {"norm.count", "norm.mean"} <= theirs.keys() and theirs["norm.count"] > 600
    for name, value in theirs.items():
        mine = (engine.state.params | engine.state.buffers)[f"policy.{name}"]
        assert torch.equal(mine[0], value) and torch.equal(mine[1], value), name
    critics = [name for name in engine.state.params if name.startswith("critic.")]
    assert critics and all(torch.equal(engine.state.params[n], fresh.state.params[n]) for n in critics)
    assert engine.state.optimizer.keys() == fresh.state.optimizer.keys()
    assert all(not value.any() for value in engine.state.optimizer.values())
    for one in (engine, fresh):
        one.close()


def test_init_from_a_group_gives_each_seed_the_weights_of_the_same_seed(
    trained: Train, begin: Callable[..., Engine]
) -> None:
    first = trained(seeds=(0, 1, 2))
    engine = begin(seeds=(2, 0), init_from=first.group)
    engine.close()
    for place, row in ((0, 2), (1, 0)):
        for name, value in policy_of(first, row).items():
            assert torch.equal(engine.state.params[f"policy.{name}"][place], value)
    assert engine.config.init_from == first.group
    with pytest.raises(ConfigError, match=rf"init_from: {first.group} has 0 runs of seed 7. Name one run of: "):
        begin(seeds=(7,), init_from=first.group)


def test_a_run_with_init_from_is_recorded_resumed_and_reproduced(
    trained: Train, home: Home, catalog: PluginCatalog, tmp_path: Path
) -> None:
    first = trained(name="teacher")
    second = trained(init_from="teacher", seeds=(4,))
    key = second.runs[0].run_key
    start = start_of(home.runs / key)
    assert start is not None
    assert start["params"]["init_from"] == start["tags"]["pgzoo.init_from"] == first.runs[0].run_key
    assert "init_from" not in (start_of(home.runs / first.runs[0].run_key) or {})["params"]
    assert reproduce(find(key, home)[0], catalog).first is None

    longer = resume(find(key, home), catalog, total_steps=900)
    assert longer.runs[0].env_steps >= 900 and longer.plan.config.init_from == first.runs[0].run_key
    assert not longer.plan.initial  # the state comes from the checkpoint


def test_init_from_accepts_the_folder_of_a_saved_policy(
    trained: Train, begin: Callable[..., Engine], tmp_path: Path
) -> None:
    first = trained()
    folder = first.policy().save(tmp_path / "saved")
    engine = begin(init_from=folder)
    engine.close()
    assert engine.config.init_from == str(folder.resolve())
    for name, value in policy_of(first).items():
        assert torch.equal(engine.state.params[f"policy.{name}"][0], value)


def test_an_unfit_or_unknown_init_from_is_refused_before_a_run_is_created(
    trained: Train,
    home: Home,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = trained()
    key, before = first.runs[0].run_key, sorted(home.runs.iterdir())
    refused = {
        "has other shapes than that of this run: .*weight.0 is 4 x 64 there and 4 x 16 here": {
            "policy": {"name": "mlp", "hidden": (16,)}
        },
        "its policy is mlp, and that of this run is linear": {"policy": "linear"},
        "was trained without normalize_obs, and this run has it": {"normalize_obs": True},
        "there and .* here": {"env": "Acrobot-v1", "normalize_obs": False},
    }
    for message, settings in refused.items():
        with pytest.raises(UnfitError, match=message):
            trained(init_from=key, **settings)
    with pytest.raises(UnknownName, match='No run "nobody"'):
        trained(init_from="nobody")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for ref, why in {
        "savd/policy": "doesn't exist",
        "savd/policy/policy.json": "doesn't exist",
        "empty": "has no ",
    }.items():
        folder = ref.removesuffix("/policy.json")
        with pytest.raises(UnknownName, match=f'No run "{ref}".*Nor is it a saved policy: the folder "{folder}" {why}'):
            trained(init_from=ref)
        with pytest.raises(UnknownName, match=f'the folder "{folder}" {why}'):
            pgzoo.evaluate(ref)
    assert sorted(home.runs.iterdir()) == before


def test_init_from_a_policy_with_another_activation_causes_a_warning(
    trained: Train, caplog: pytest.LogCaptureFixture
) -> None:
    first = trained()
    theirs = first.plan.config.policy.nested()["activation"]
    other = "relu" if theirs != "relu" else "tanh"
    trained(init_from=first.runs[0].run_key, policy={"name": "mlp", "activation": other})
    assert f"its policy was trained with activation = {theirs}; here it is {other}." in caplog.text


def test_save_best_keeps_the_best_policy_in_addition_to_the_final_one(trained: Train, home: Home) -> None:
    result = trained(save_best=True, eval_every=100, total_steps=900, seeds=(0, 1))
    for row, run in enumerate(result.runs):
        records = [json.loads(line) for line in (home.runs / run.run_key / "journal.jsonl").read_text().splitlines()]
        means = [float(np.mean(r["returns"])) for r in records if r["t"] == "evaluation" and r["mode"] == "sampled"]
        folder = home.runs / run.run_key / "artifacts" / "policy-best"
        best = json.loads((folder / "best.json").read_text())
        assert len(means) > 5 and best["return_mean"] == pytest.approx(max(means))
        assert result.plan.config.save_best and best["episodes"] == 2
        final = pgzoo.load_policy(folder.with_name("policy")).params
        assert all(torch.equal(final[name][0], value) for name, value in policy_of(result, row).items())
        if best["env_steps"] < run.env_steps:
            kept = pgzoo.load_policy(folder).params
            assert any(not torch.equal(kept[name], final[name]) for name in final)
        played = pgzoo.evaluate(folder, episodes=2, seed=run.seed, backend="sync")
        assert played.return_mean[0] == pytest.approx(best["return_mean"])


def test_a_resumed_run_replaces_the_best_policy_only_by_a_better_one(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    first = trained(save_best=True, eval_every=100)
    best = json.loads(next(home.runs.rglob("policy-best/best.json")).read_text())
    resume(find(first.group, home), catalog, total_steps=1200)
    later = json.loads(next(home.runs.rglob("policy-best/best.json")).read_text())
    assert later["return_mean"] > best["return_mean"] or later == best


def test_save_best_without_eval_every_is_an_error(trained: Train) -> None:
    with pytest.raises(ConfigError, match="save_best compares evaluations during training: give eval_every as well"):
        trained(save_best=True)
