"""Runs that are killed, resumed, extended, read and deleted in any order have the results of uninterrupted runs."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import pytest
from dying import catalog, go_on, in_process, train
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

import pgzoo
from pgzoo.errors import UnknownName
from pgzoo.runs.reproduce import reproduce
from pgzoo.tracking import Found, Home, find
from pgzoo.tracking.deletion import delete_runs

SHORT: dict[str, Any] = {"algorithm": "a2c", "env": "CartPole-v1", "backend": "native", "num_envs": 2}
SHORT |= {"rollout_steps": 16, "checkpoint_every": 64, "eval_episodes": 1, "tracking_uri": "none", "compile": "off"}
SHORT |= {"learning_rate_schedule": "constant"}


class Runs(RuleBasedStateMachine):
    """A state machine of groups of runs; each group has a number of total steps, and has finished or was killed."""

    groups = Bundle("groups")

    def __init__(self) -> None:
        super().__init__()
        self.home = Home.find({"PGZOO_HOME": tempfile.mkdtemp(), "MLFLOW_TRACKING_URI": "none"})
        self.steps: dict[str, int] = {}
        self.finished: dict[str, bool] = {}

    def found(self, group: str) -> list[Found]:
        return find(group, self.home, "none")

    @rule(target=groups, seeds=st.sampled_from([(0,), (1, 3)]), records=st.integers(0, 20))
    def start(self, seeds: tuple[int, ...], records: int) -> str:
        before = {path.name for path in self.home.runs.glob("*")}
        done = in_process(records, train, self.home, SHORT | {"seeds": seeds, "total_steps": 320})
        (group,) = {path.name.rpartition("-s")[0] for path in self.home.runs.glob("*") if path.name not in before}
        self.steps[group], self.finished[group] = 320, done
        return group

    @rule(group=groups, more=st.sampled_from([0, 160]), records=st.integers(0, 30))
    def resume(self, group: str, more: int, records: int) -> None:
        """Resume a group; if it has finished, extend it by `more` steps."""
        if more and self.finished[group]:
            self.steps[group] += more
        self.finished[group] = in_process(records, go_on, self.home, group, self.steps[group])

    @rule(group=groups)
    def read(self, group: str) -> None:
        """Load and save the policies of a finished run, which changes nothing."""
        for one in self.found(group) if self.finished[group] else ():
            assert one.path is not None
            policy = pgzoo.load_policy(one.path / "artifacts" / "policy")
            assert pgzoo.load_policy(policy.save(self.home.root / "copy")).spec == policy.spec

    @rule(group=consumes(groups))
    def delete(self, group: str) -> None:
        runs = self.found(group)
        assert delete_runs(runs, self.home, lambda _: None).folders == len(runs)
        del self.steps[group]
        with pytest.raises(UnknownName):
            self.found(group)

    def teardown(self) -> None:
        """Finish each run; reproducing it without interruption then gives the same results, bit for bit."""
        for group, steps in self.steps.items():
            if not self.finished[group]:
                in_process(10_000, go_on, self.home, group, steps)
            for one in self.found(group):
                assert reproduce(one, catalog()).first is None
        shutil.rmtree(self.home.root)


class TestAnyOrder(Runs.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=3, stateful_step_count=6, deadline=None, derandomize=True, phases=[Phase.generate])


@pytest.mark.slow
class TestMoreOrders(Runs.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
