"""Diagnoses of runs: each kind of fault is found, and healthy runs have no findings."""

from __future__ import annotations

from typing import Any

import pytest

from pgzoo.tracking.diagnoses import diagnose
from pgzoo.tracking.report import History

STEPS = range(1000, 21_000, 1000)
HEALTHY: dict[str, list[float]] = {
    "value/explained_variance": [0.5] * 20,
    "policy/entropy": [0.69 - 0.02 * k for k in range(20)],
    "policy/clip_fraction": [0.1] * 20,
    "optim/grad_norm": [0.4] * 20,
}


def history(returns: list[float] | None = None, threshold: str = "475.0", **series: list[float]) -> History:
    """Return the history of a run with 20 points per metric; `policy_entropy` stands for `policy/entropy`."""
    metrics = HEALTHY | {name.replace("_", "/", 1): values for name, values in series.items()}
    returns = returns if returns is not None else [20.0 + k % 30 for k in range(200)]
    return History(
        start={"tags": {"pgzoo.reward_threshold": threshold}},
        steps=[100 * k for k in range(1, len(returns) + 1)],
        returns=returns,
        metrics={step: {name: values[k] for name, values in metrics.items()} for k, step in enumerate(STEPS)},
    )


def test_a_healthy_or_empty_run_has_no_findings() -> None:
    assert diagnose(history()) == []
    assert diagnose(History()) == []


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("critic", {"value_explained_variance": [0.0] * 10 + [-0.8] * 10}, "explained variance -0.80"),
    ("entropy", {"policy_entropy": [0.69, 0.3, 0.1, 0.01] + [0.001] * 16}, "at step 5,000"),
    ("clipping", {"policy_clip_fraction": [0.1] * 8 + [0.6] * 12}, "clipped in 60% of rows"),
    ("gradient", {"optim_grad_norm": [0.1] + [0.0] * 19}, "The gradient was 0"),
]


@pytest.mark.parametrize(("name", "series", "said"), FAULTS)
def test_each_fault_is_found_and_has_advice(name: str, series: dict[str, Any], said: str) -> None:
    (found,) = diagnose(history(**series))
    assert found.name == name and said in str(found) and ("Try" in found.advice or "Did" in found.advice)


@pytest.mark.parametrize(
    "run",
    [
        # a solved environment: the returns have almost no variance to explain
        history([500.0] * 200, value_explained_variance=[-5.0] * 20),
        history([400.0 + k % 100 for k in range(100)] + [490.0 + k % 10 for k in range(100)],
                value_explained_variance=[-5.0] * 20),
        # most episodes have the best return, and the environment has no threshold
        history([0.0, 1.0] + [1.0] * 198, threshold="", value_explained_variance=[-5.0] * 20),
        history(policy_entropy=[0.69 * 0.6**k for k in range(20)]),  # a gradual fall: the policy has learned what to do
        history(policy_entropy=[1.4 - k for k in range(20)]),  # the entropy of a density may be negative
        history(policy_clip_fraction=[0.9] * 10 + [0.2] * 10),
        history(optim_grad_norm=[0.0] * 19 + [0.1]),
    ],
)  # fmt: skip
def test_healthy_metrics_that_resemble_a_fault_are_not_reported(run: History) -> None:
    assert diagnose(run) == []
