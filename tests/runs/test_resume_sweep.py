"""A member of a sweep is an ordinary run: its records and checkpoints, and resuming and reproducing it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pgzoo.analysis.compare import compare
from pgzoo.analysis.sweeps import sensitivity
from pgzoo.cli.main import program
from pgzoo.config import Layer
from pgzoo.errors import ConfigError, UsageError
from pgzoo.registry import PluginCatalog
from pgzoo.runs.reproduce import reproduce
from pgzoo.runs.resolve import resolve
from pgzoo.runs.result import Result
from pgzoo.runs.resume import resume
from pgzoo.tracking import Home, find
from pgzoo.tracking.journal import records
from pgzoo.tracking.ledger import start_of
from pgzoo.tracking.points import points as points_of
from pgzoo.training import checkpoint

Train = Callable[..., Result]
GRID = {"seeds": (0, 2), "sweep_axis": {"learning_rate": (1e-4, 3e-4), "estimator.lam": (0.9, 1.0)}}
MINE = {"learning_rate": 3e-4, "estimator.lam": 0.9}


def points(run: Path) -> dict[Any, float]:
    return points_of(record for record, _ in records(run) if record)


def row(result: Result, seed: int = 2) -> int:
    (found,) = [k for k, run in enumerate(result.runs) if run.seed == seed and run.settings == MINE]
    return found


def parameters(result: Result) -> dict[str, list[bytes]]:
    state = result.ended.state
    return {
        run.run_key: [leaf[k].numpy().tobytes() for leaf in (state.params | state.optimizer).values()]
        for k, run in enumerate(result.runs)
    }


def forget_the_last(home: Home, result: Result, member: int) -> None:
    shutil.rmtree(checkpoint.paths(home.runs / result.runs[member].run_key / checkpoint.FOLDER_NAME)[-1])


def test_a_member_of_a_sweep_has_the_same_records_as_a_run_on_its_own(
    trained: Train, home: Home, catalog: PluginCatalog
) -> None:
    many = trained(**GRID)
    mine = many.runs[row(many)]
    alone = trained(seeds=(2,), learning_rate=3e-4, estimator={"lam": 0.9})
    there, here = (home.runs / run.run_key for run in (mine, alone.runs[0]))
    assert points(there) == points(here) and len(points(here)) > 20
    assert (there / "artifacts/config.yaml").read_text() == (here / "artifacts/config.yaml").read_text()
    among, apart = start_of(there), start_of(here)
    assert among is not None and apart is not None
    assert among["params"] == apart["params"] and among["params"]["learning_rate"] == "0.0003"
    assert among["name"] == "a2c learning_rate=0.0003 estimator.lam=0.9 s2"
    assert among["tags"]["pgzoo.group"] == many.group
    assert among["tags"]["pgzoo.setting"] == apart["tags"]["pgzoo.setting"]
    assert among["tags"]["pgzoo.config.sweep"] == "learning_rate=0.0003 estimator.lam=0.9"
    assert "pgzoo.config.sweep" not in apart["tags"]
    config = yaml.safe_load((there / "artifacts/config.yaml").read_text())
    assert resolve([Layer(config, ".".join)], catalog) == many.plan.members[row(many)].config


def test_results_of_a_sweep_include_settings_and_policies_are_found_by_them(trained: Train) -> None:
    many, alone = trained(**GRID), trained()
    rows = many.to_dict()["seeds"]
    assert len(rows) == 8 and rows[row(many)]["settings"] == MINE
    assert rows[0].keys() - {"settings"} == alone.to_dict()["seeds"][0].keys()
    frame = many.to_frame()
    assert list(frame.columns[:3]) == ["seed", "learning_rate", "estimator.lam"]
    assert len(frame[(frame["learning_rate"] == 3e-4) & (frame["seed"] == 2)]) == 2
    assert json.loads(json.dumps(many.to_dict())) == many.to_dict()
    weights = many.policy(2, MINE).params["weight.0"][0]
    assert weights.equal(many.ended.state.params["policy.weight.0"][row(many)])
    with pytest.raises(
        ConfigError,
        match=r"There are 4 policies of seed 2; give a seed and a setting\. Seeds: 0, 2\. Settings: learning_rate=",
    ):
        many.policy(2)
    with pytest.raises(ConfigError, match=r"There is no policy of seed 2 with learning_rate=1\.0"):
        many.policy(2, {"learning_rate": 1.0})
    with pytest.raises(ConfigError, match=r"There is no policy of seed 7 in this run\. Seeds: 0\.$"):
        alone.policy(7)


def test_policies_and_videos_of_a_sweep_have_a_name_per_setting(
    trained: Train, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    many = trained(**GRID)
    labels = [f"learning_rate-{rate}-estimator.lam-{lam}" for rate in ("0.0001", "0.0003") for lam in ("0.9", "1.0")]
    members = {f"{label}-s{seed}" for label in labels for seed in (0, 2)}

    def pgzoo(*words: str) -> None:
        done = CliRunner().invoke(program, [*words, "--no-progress"], env={"PGZOO_HOME": str(home.root)})
        assert done.exit_code == 0, done.output

    def film(policy: object, env: object, path: Path, **options: object) -> list[float]:
        path.touch()
        return [1.0]

    pgzoo("export", many.group, "--to", f"{tmp_path}/all")
    assert {path.name for path in (tmp_path / "all").iterdir()} == members
    pgzoo("export", trained(seeds=2).group, "--to", f"{tmp_path}/seeds")
    assert {path.name for path in (tmp_path / "seeds").iterdir()} == {"s0", "s1"}
    monkeypatch.setattr("pgzoo.play.video.require_extra", lambda feature: None)
    monkeypatch.setattr("pgzoo.play.video.record", film)
    pgzoo("video", many.group, "--out", f"{tmp_path}/film.mp4")
    assert {path.stem for path in tmp_path.glob("*.mp4")} == {f"film-{member}" for member in members}
    monkeypatch.chdir(tmp_path)
    named = trained(**GRID, name="a/b")
    assert str(named.video(seed=2, setting=MINE).path) == "a-b-learning_rate-0.0003-estimator.lam-0.9-s2.mp4"
    assert str(trained().video().path) == "a2c-s0.mp4"
    with pytest.raises(UsageError, match="there is no folder missing"):
        named.video("missing/film.mp4", seed=2, setting=MINE)
    assert set(many.evaluate(episodes=1).name) == {run.name for run in find(many.group, home)}


def test_a_member_is_resumed_as_an_ordinary_run(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    many = trained(**GRID)
    mine = many.runs[row(many)]
    whole = parameters(many)[mine.run_key]
    before = points(home.runs / mine.run_key)
    forget_the_last(home, many, row(many))
    again = resume(find(mine.run_key, home), catalog)
    assert parameters(again) == {mine.run_key: whole}
    assert again.runs[0].settings == MINE and again.steps_before < again.env_steps
    assert points(home.runs / mine.run_key) == before


def test_a_whole_grid_is_resumed_by_its_group(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    many = trained(**GRID)
    whole = parameters(many)
    for member in (0, 3, 4, row(many)):
        forget_the_last(home, many, member)
    shutil.rmtree(home.runs / many.runs[5].run_key / checkpoint.FOLDER_NAME)  # as if it had no checkpoint yet
    again = resume(find(many.group, home), catalog)
    assert parameters(again) == whole
    assert {(run.run_key, tuple(run.settings.items())) for run in again.runs} == {
        (run.run_key, tuple(run.settings.items())) for run in many.runs
    }


def test_a_setting_is_resumed_by_its_name(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    many = trained(**GRID)
    found = find("a2c learning_rate=0.0003 estimator.lam=0.9", home)
    assert [one.seed for one in found] == [0, 2]
    again = resume(found, catalog, total_steps=900)
    longer = trained(**(GRID | {"total_steps": 900}))
    assert parameters(again)[many.runs[row(many)].run_key] == parameters(longer)[longer.runs[row(longer)].run_key]


def test_a_member_is_reproduced(trained: Train, home: Home, catalog: PluginCatalog) -> None:
    many = trained(**GRID)
    found = reproduce(find(many.runs[row(many)].run_key, home)[0], catalog)
    assert found.first is None and found.compared > 20


def test_the_settings_of_a_sweep_are_compared(trained: Train) -> None:
    many = trained(seeds=3, sweep_axis={"learning_rate": (1e-4, 3e-4)})
    names = ("a2c learning_rate=0.0001", "a2c learning_rate=0.0003")
    found = compare(many)
    assert found.labels == names and [len(side.runs) for side in found.sides] == [3, 3]
    assert found.differences == {"learning_rate": ("0.0001", "0.0003")}
    assert compare(*names).blocks[0].to_dict(names) == found.blocks[0].to_dict(names)
    (spread,) = sensitivity(many).algorithms
    means = [side.mean.value for side in found.blocks[0].final]
    (env,) = spread.environments
    assert (env.settings, env.worst, env.best) == (2, min(means), max(means))
    assert env.best_setting == {"learning_rate": (1e-4, 3e-4)[means.index(max(means))]}
    assert spread.sensitivity is None and "two environments" in spread.missing[0]
    chosen = compare("param:learning_rate=1e-4", "param:learning_rate=3e-4")
    assert [side.kind for side in chosen.sides] == ["param", "param"]
    assert [[run.run_key for run in side.runs] for side in chosen.sides] == [
        [run.run_key for run in side.runs] for side in found.sides
    ]
