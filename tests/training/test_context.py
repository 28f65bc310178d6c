"""The context that algorithms are given: the protocol is what the engine offers, and mypy holds others' code to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
ALGORITHM = '''
    from collections.abc import Iterator

    import torch

    from pgzoo import Batch, Hyper, Inputs, Loss
    from pgzoo.protocols import LearningPolicy, UpdateContext
    from pgzoo.training.engine import Engine
    from pgzoo.types import Episodes, Params, TrainState, Trajectory


    class Halves:
        """Plain policy gradient that takes each batch twice."""

        collect, estimator = Episodes(per_env=1), "reward-to-go"

        def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
            targets = ctx.estimate(state, trajectory)
            for batch in ctx.minibatches(state, trajectory, targets, epochs=range(2)):
                state = ctx.{step}(self.loss, state, batch)
            ctx.report({{"halves/rate": ctx.learning_rate(state)}})
            return state

        def loop(self, ctx: UpdateContext) -> Iterator[None]:
            while ctx.running():
                ctx.state = self.update(ctx, *ctx.collect(ctx.state))
                yield

        def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
            dist = policy.apply(params, batch.inputs).dist
            return Loss((-dist.log_prob(batch.actions) * batch.advantages * batch.weights).sum((-2, -1)), {{}})


    def given(engine: Engine) -> UpdateContext:
        return engine
'''


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy-cache")


def check(folder: Path, cache: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = folder / "halves.py"
    file.write_text(dedent(text))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), str(file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # mypy doesn't follow the import hook of an editable install
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_an_algorithm_elsewhere_is_type_checked_against_the_context(tmp_path: Path, cache: Path) -> None:
    right = check(tmp_path, cache, ALGORITHM.format(step="step"))
    assert right.returncode == 0, right.stdout + right.stderr
    wrong = check(tmp_path, cache, ALGORITHM.format(step="stepp"))
    assert wrong.returncode == 1
    assert '"UpdateContext" has no attribute "stepp"' in wrong.stdout
