"""Every fault of the table in docs/reliability.md, with the real program."""

from __future__ import annotations

import pytest
from faults.scenarios import AWHILE, SCENARIOS, Scenario
from program import Folder


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(s, id=s.name, marks=pytest.mark.slow if s.slow else ()) for s in SCENARIOS],
)
def test_a_fault_neither_delays_training_nor_loses_or_duplicates_points(scenario: Scenario, folder: Folder) -> None:
    if reason := scenario.missing():
        pytest.skip(reason)
    outcome = scenario.play(folder)
    print(outcome)
    assert (outcome.status, outcome.lost, outcome.twice) == ("FINISHED", 0, 0)
    assert outcome.delay is None or outcome.delay < AWHILE
    assert bool(scenario.message(outcome)) == bool(scenario.says)
