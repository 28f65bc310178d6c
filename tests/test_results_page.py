"""The page that compares results with published ones: the rule for passing, kept results, and stated differences."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import offpolicy  # noqa: E402
import result_rows  # noqa: E402
from published import OFF_POLICY_ROWS, ROWS, Row, command  # noqa: E402
from result_rows import Outcome, differences, plain_tables, render, run_rows  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(result_rows, "FOLDER", tmp_path)
    monkeypatch.setattr(result_rows, "KEPT", tmp_path / "rows.json")
    return tmp_path


@pytest.mark.parametrize(
    ("mean", "std", "random", "bar"),
    [
        (500.0, 0.0, 20.0, 452.0),  # 10% of the distance from random
        (-100.0, 50.0, -200.0, -150.0),  # the standard deviation is larger
        (-4.0, 0.5, -44.0, -8.0),
        (90.0, 1.0, 110.0, 88.0),  # worse than random
    ],
)
def test_the_bar_for_passing_depends_on_std_and_random_return(
    mean: float, std: float, random: float, bar: float
) -> None:
    assert Row("ppo", "X-v0", mean, std, 1e6).bar(random) == pytest.approx(bar)


def test_each_row_is_listed_once_and_states_its_differences() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert differences(row).endswith(".")


def test_the_command_of_a_row_contains_its_settings() -> None:
    row = Row("a2c", "Ant-v5", 0.0, 0.0, 1e6, total_steps=500)
    assert command(row.given) == "pgzoo run a2c --env Ant-v5 --seeds 5 --eval-episodes 20 --total-steps 500"


def test_differences_compare_the_settings_of_pgzoo_and_of_the_source() -> None:
    row = Row("ppo", "Pendulum-v1", 0.0, 0.0, 1e5, theirs={"n_envs": 4, "gamma": 0.95, "use_sde": True, "seed": 1})
    stated = differences(row)
    assert (
        "gamma 0.9 (0.95)" in stated
        and "policy.sde False (True)" in stated
        and "not available in pgzoo: seed" in stated
    )
    assert "num_envs" not in stated


def result(returns: list[float]) -> dict[str, Any]:
    seeds = [{"greedy_return_mean": r, "return_mean": r - 1, "env_steps": 1000} for r in returns]
    return {"seeds": seeds, "wall_seconds": 3.0}


def test_selected_rows_are_run_and_kept_and_the_random_policy_runs_once(folder: Path) -> None:
    commands: list[str] = []

    def run(command: str) -> dict[str, Any] | None:
        commands.append(command)
        if command.startswith("pgzoo run trpo"):
            return None  # it can't run here
        return result([20.0] * 5 if command.startswith("pgzoo run random") else [500.0, 500.0, 400.0, 300.0, 200.0])

    run_rows("/CartPole", run, lambda: "today")
    expected = [
        f"pgzoo run {name} --env CartPole-v1 --seeds 5 --json" for name in ("random", "ppo", "a2c", "trpo", "ars")
    ]
    assert commands == expected
    run_rows("ppo/CartPole", run, lambda: "later")
    assert commands == [*expected, expected[1]]  # ppo again, without the random policy
    kept = json.loads((folder / "rows.json").read_text())
    assert set(kept) == {"random/CartPole-v1", "ppo/CartPole-v1", "a2c/CartPole-v1", "ars/CartPole-v1"}
    assert kept["ppo/CartPole-v1"]["greedy"] == [500.0, 500.0, 400.0, 300.0, 200.0]


def test_the_page_marks_rows_that_fall_short_and_lists_those_not_run(folder: Path) -> None:
    settings = result_rows.preset_of("a2c", "CartPole-v1")
    result_rows.keep("random/CartPole-v1", Outcome.of(result([21.0] * 5), {}, ""))
    result_rows.keep("ppo/CartPole-v1", Outcome.of(result([500.0, 500.0, 460.0, 100.0, 90.0]), {"gamma": 0.1}, ""))
    result_rows.keep("a2c/CartPole-v1", Outcome.of(result([500.0, 440.0, 440.0, 100.0, 90.0]), settings, ""))
    page = render()
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert "| 452.0 | pass, with earlier settings |" in lines["ppo"]
    assert lines["a2c"].startswith("| `a2c` | 440.0 | ") and lines["a2c"].endswith("| 452.0 | **falls short** |")
    assert "Not run: `trpo` (500.0 ± 0.0, RL Zoo); `ars` (500.0 ± 0.0, RL Zoo)." in page
    assert "1 pass, 1 fall short: `a2c/CartPole-v1`." in page
    assert (folder / "CartPole-v1.png").read_bytes().startswith(b"\x89PNG")


def test_results_of_a_plugin_are_kept_in_its_own_file_and_shown_as_tables(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "plugin" / "results.json"
    rows = Row("td3", "X-v0", 90.0, 1.0, 1e5, remark="a remark"), Row("sac", "X-v0", 80.0, 1.0, 1e5)
    run_rows("td3", lambda command: result([-10.0 if " random " in command else 85.0] * 5), lambda: "", rows, path)
    assert set(json.loads(path.read_text())) == {"random/X-v0", "td3/X-v0"} and not result_rows.KEPT.exists()
    tables = plain_tables(rows, path)
    assert "### X-v0" in tables and "| 79.9 | pass |" in tables and "`td3`: a remark." in tables
    assert tables.endswith("Not run: `sac/X-v0` (80.0 ± 1.0).")


def test_the_readme_of_the_off_policy_plugin_matches_its_kept_results() -> None:
    readme = (offpolicy.PLUGIN / "README.md").read_text(encoding="utf-8")
    assert offpolicy.with_tables(readme, plain_tables(OFF_POLICY_ROWS, offpolicy.KEPT)) == readme
