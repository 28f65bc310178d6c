"""The example algorithm is found, its loss is correct, and it learns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pgzoo_example.positive import PositiveReinforce, PositiveReinforceConfig

from pgzoo.registry import discover
from pgzoo.types import Batch, Hyper, Inputs


def test_the_algorithm_is_found_by_its_entry_point() -> None:
    entry = discover(inline=False).get("algorithm", "positive-reinforce")
    assert (entry.plugin.name, entry.plugin.distribution) == ("example", "pgzoo-example")
    assert entry.load() is PositiveReinforce
    assert entry.load_config() is PositiveReinforceConfig


def test_the_loss_matches_a_calculation_by_hand() -> None:
    """Returns 0, 2, 4 standardize to -1.2247, 0, 1.2247; only the last exceeds a margin of 0.2247."""
    log_probs = torch.tensor([[[-1.0, -2.0, -3.0, -9.0]]])
    dist = SimpleNamespace(log_prob=lambda actions: log_probs, entropy=lambda: torch.ones(1, 1, 4))
    policy = SimpleNamespace(apply=lambda params, inputs: SimpleNamespace(dist=dist))
    returns = torch.tensor([[[0.0, 2.0, 4.0, 0.0]]])
    weights = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])  # the last row is padding
    batch = Batch(Inputs(returns), returns, returns, returns, returns, weights)
    loss = PositiveReinforce().loss(policy, {}, batch, Hyper({"margin": torch.full((1, 1, 1), 0.2247449)}))
    assert loss.value.tolist() == pytest.approx([3.0 * 1.0 / 3])
    assert loss.metrics["example/share_used"].tolist() == pytest.approx([1 / 3])


def test_the_algorithm_learns(tmp_path: Path) -> None:
    command = "run positive-reinforce --env CartPole-v1 --total-steps 30000 --eval-episodes 20"
    command += " --json --no-progress --tracking-uri none"
    done = subprocess.run(
        [sys.executable, "-m", "pgzoo", *command.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["seeds"][0]["return_mean"] > 60  # a random policy gets about 22
