"""How benchmarks process measurements: ratios within a round, tables, kept results, and sections of pages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import environments  # noqa: E402
from environments import outcome_of as outcome_of_id  # noqa: E402
from page import put, ratios, spread, table  # noqa: E402
from processes import Measurements, Outcome, outcome_of, shortened, words_of  # noqa: E402
from rows import Row, comparison, measure  # noqa: E402


def outcome(env_steps: int, training: float, whole: float, returned: float | None = 100.0) -> Outcome:
    return Outcome(env_steps, training, 0.0, whole, 300.0, returned, {})


def test_ratios_compare_measurements_of_the_same_round() -> None:
    assert ratios([40.0, 20.0], [10.0, 10.0]) == [4.0, 2.0]
    assert spread([4.0, 2.0]) == "**3.0** (2.0 to 4.0)"


def test_ratios_of_unequal_numbers_of_rounds_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_comparison_shows_ratios_in_the_other_row_but_not_in_ours() -> None:
    rows = [Row("ours", ("pgzoo run ppo",)), Row("theirs", ("build/peers/x/bin/python x.py",), peer="x")]
    found = {
        "ours": [outcome(1000, 1.0, 2.0), outcome(1000, 2.0, 2.5)],
        "theirs": [outcome(1000, 5.0, 8.0), outcome(1000, 6.0, 10.0)],
    }
    head, _, ours, theirs = comparison(rows, found).splitlines()
    assert head.endswith("| ours / this, training | ours / this, total |")
    assert ours == "| ours | 750 | 0.0 | 2.2 | 300 | 100 |  |  |"
    assert theirs == "| theirs | 183 | 0.0 | 9.0 | 300 | 100 | **4.0** (3.0 to 5.0) | **4.0** (4.0 to 4.0) |"


def test_a_shortened_command_has_every_option_once() -> None:
    command = "pgzoo run ppo --total-steps 500000 --seed 0 --json"
    assert shortened(command, 1024) == "pgzoo run ppo --total-steps 1024 --seed 0 --json --eval-episodes 1"
    assert shortened(shortened(command, 1024), 1024) == shortened(command, 1024)


def test_table_columns_after_the_first_are_right_aligned() -> None:
    assert table(["", "a", "b"], [["x", "1", "2"]]).splitlines() == [
        "|  | a | b |",
        "| --- | ---: | ---: |",
        "| x | 1 | 2 |",
    ]


def test_a_section_replaces_its_old_version_or_is_appended(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- section a -->\nold\n<!-- end a -->\n\nBetween.\n", encoding="utf-8")
    put(page, "a", "new")
    put(page, "b", "first")
    put(page, "b", "second")
    assert page.read_text(encoding="utf-8") == (
        "# Title\n\n<!-- section a -->\nnew\n<!-- end a -->\n\nBetween.\n\n<!-- section b -->\nsecond\n<!-- end b -->\n"
    )


def test_a_section_without_an_end_is_an_error_and_the_text_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- section a -->\nold\n\nText by hand.\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="has a beginning and no end"):
        put(page, "a", "new")
    assert "Text by hand." in page.read_text(encoding="utf-8")


def test_results_of_pgzoo_and_of_peers_are_parsed_into_the_same_outcome() -> None:
    seeds = [{"seed": 0, "return_mean": 100.0}, {"seed": 1, "return_mean": 200.0}]
    ours = {"env_steps": 10, "wall_seconds": 2.0, "timing": {"compile": 3.0}, "seeds": seeds}
    theirs = {"env_steps": 10, "wall_seconds": 2.0, "compile_seconds": 3.0, "return_mean": 150.0}
    for line in (ours, theirs):
        read = outcome_of(line, whole=6.0, peak=1.0)
        assert (read.env_steps, read.training, read.compiling, read.whole, read.returned) == (10, 2.0, 3.0, 6.0, 150.0)


def test_a_row_can_require_more_rounds_and_unselected_peers_are_omitted(tmp_path: Path) -> None:
    say = 'python -c "print(\'{\\"env_steps\\": {seed}}\')"'
    rows = [Row("ours", (say,), at_least=3), Row("theirs", (say,), peer="x"), Row("absent", (say,), peer="y")]
    there, found = measure("section", rows, 2, ("x",), Measurements(None))
    assert [row.title for row in there] == ["ours", "theirs"]
    assert {name: [one.env_steps for one in outcomes] for name, outcomes in found.items()} == {
        "ours": [0, 1, 2],
        "theirs": [0, 1],
    }


def test_kept_measurements_can_be_loaded_again(tmp_path: Path) -> None:
    kept = Measurements(tmp_path / "new" / "kept.json")
    kept.add("section", "row", outcome(1, 1.0, 1.0, None))
    assert Measurements(tmp_path / "new" / "kept.json").rows == {"section": {"row": [outcome(1, 1.0, 1.0, None)]}}


def test_commands_get_absolute_paths_and_the_running_python_interpreter() -> None:
    words = words_of("taskset -c 1 build/peers/sb3/bin/python benchmarks/peers/sb3.py --seed 0")
    assert words[:3] == ["taskset", "-c", "1"]
    assert words[3:5] == [str(ROOT / "build/peers/sb3/bin/python"), str(ROOT / "benchmarks/peers/sb3.py")]
    assert words_of("pgzoo run ppo") == [sys.executable, "-m", "pgzoo", "run", "ppo"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and measuring it takes long")
def test_without_a_gpu_nothing_is_measured_and_the_page_is_unchanged() -> None:
    page = (ROOT / "docs" / "performance.md").read_bytes()
    words = [sys.executable, str(ROOT / "benchmarks" / "device.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"There is no GPU that torch {torch.__version__} can use: nothing was measured.\n"
    assert (ROOT / "docs" / "performance.md").read_bytes() == page


def test_the_outcome_of_a_refused_id_says_whether_its_replacements_train() -> None:
    refused = {"trains": False, "error": "There is none.", "successor": "Ant-v5", "successor_trains": True}
    assert outcome_of_id(refused) == "refused; the error message offers the newer version, which trains"
    assert "which doesn't train either" in outcome_of_id(refused | {"successor_trains": False})
    assert outcome_of_id(refused | {"backend": "envpool", "backend_trains": True}).endswith(
        "; the old id trains with `--backend envpool`"
    )
    assert outcome_of_id({"trains": False, "error": "It needs gym."}) == "can't be trained in: It needs gym."


def test_the_environments_page_matches_kept_results_and_marks_rows_not_run() -> None:
    kept = json.loads(environments.KEPT.read_text(encoding="utf-8"))
    assert environments.page(kept) == environments.PAGE.read_text(encoding="utf-8")
    del kept["listed"]["CartPole-v1"], kept["packages"]["minigrid"]
    shown = environments.page(kept)
    assert "| `CartPole-v1` | not run |" in shown
    assert re.search(r"^\| minigrid \|.*\| not run \|$", shown, re.MULTILINE)


def test_constraints_omit_packages_that_a_command_names_with_a_version() -> None:
    lines = environments.constraints_without(["metaworld", "mujoco<3.9"]).splitlines()
    assert not [line for line in lines if line.startswith("mujoco")]
    assert [line for line in lines if line.startswith("numpy==")]
