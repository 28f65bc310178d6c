"""Faults drawn from seeds: the laws hold, a seed is reproducible, and the simulation finds built-in defects.

The simulation runs in a separate process, as it imports mlflow.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from program import PATIENCE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "simulate.py"


def simulate(*arguments: str, code: int = 0) -> str:
    """Run the script, and return what it prints."""
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("seeds", ["0-1", pytest.param("2-7", marks=pytest.mark.slow)])
def test_the_laws_hold(seeds: str) -> None:
    simulate("--seeds", seeds)


@pytest.mark.slow
def test_a_seed_gives_the_same_output_twice() -> None:
    assert simulate("--seed", "3") == simulate("--seed", "3")


EASY = ("ignore_lost_answers", "acknowledge_first", "create_without_looking", "forget_names")
HARD = {
    "upload_unflushed_records": 0,
    "keep_duplicates": 0,
    "end_at_once": 500,
    "write_reports_once": 0,
    "believe_web_pages": 0,
    "lose_patience_at_once": 0,
    "save_ahead_of_the_journal": 0,
}
"""Rare defects, and the first of the 500 seeds that are tried."""


@pytest.mark.parametrize("defect", ["give_up_on_503", *(pytest.param(one, marks=pytest.mark.slow) for one in EASY)])
def test_a_defect_is_found_within_ten_seeds(defect: str) -> None:
    printed = simulate("--defect", defect, "--seeds", "0-9", code=1)
    assert "breaks a law: run-" in printed and "python benchmarks/simulate.py --seed" in printed


@pytest.mark.slow
@pytest.mark.parametrize(("defect", "first"), HARD.items())
def test_a_rare_defect_is_found_within_500_seeds(defect: str, first: int) -> None:
    assert "breaks a law: run-" in simulate("--defect", defect, "--seeds", f"{first}-{first + 499}", code=1)
