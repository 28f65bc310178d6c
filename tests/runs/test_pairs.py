"""Every algorithm with every estimator: it trains, or is refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from pgzoo.config import Layer
from pgzoo.errors import UnfitError
from pgzoo.registry import discover
from pgzoo.runs.resolve import resolve
from pgzoo.runs.runner import make_plan
from pgzoo.testing import probes
from pgzoo.training.events import RunEnded
from pgzoo.training.loop import train

CATALOG = discover(inline=False)
PAIRS = [(a, e) for a in CATALOG.names("algorithm") for e in CATALOG.names("estimator")]
REASONS = "needs the values of a critic|needs whole episodes|asks for .*, which nobody in this run gives"


def one_update(algorithm: str, estimator: str) -> RunEnded:
    assert "pgzoo/AnySpaces-v0" in probes.PROBES
    entry = CATALOG.get("algorithm", algorithm)
    box = "any" not in (said := str(entry.facts["actions"]).lower()) and "discrete" not in said
    given: dict[str, Any] = {
        "algorithm": algorithm,
        "estimator": estimator,
        "env": "pgzoo/AnySpaces-v0",
        "env_kwargs": {"action": "one" if box else "discrete"},
        "num_envs": 4,
        "total_steps": 1,
        "eval_episodes": 1,
    }
    model = entry.load_config()
    if model and "rollout_steps" in model.model_fields:
        given["rollout_steps"] = 12
    *_, ended = train(make_plan(resolve([Layer(given, ".".join)], CATALOG), CATALOG))
    assert isinstance(ended, RunEnded)
    return ended


@pytest.mark.parametrize(("algorithm", "estimator"), PAIRS)
def test_any_algorithm_with_any_estimator_trains_or_is_refused_with_the_reason(algorithm: str, estimator: str) -> None:
    try:
        ended = one_update(algorithm, estimator)
    except UnfitError as refusal:
        with pytest.raises(UnfitError, match=f'^Estimator "{estimator}" ({REASONS})'):
            raise refusal
        assert CATALOG.get("algorithm", algorithm).load().estimator != estimator
        return
    assert (ended.statuses, int(ended.state.updates[0])) == (("finished",), 1)


@pytest.mark.parametrize(
    ("algorithm", "estimator", "reason"),
    [
        ("reinforce", "gae", "needs the values of a critic"),
        ("a2c", "leave-one-out", "needs whole episodes"),
        ("a2c", "retrace", "asks for q_values"),
    ],
)
def test_each_reason_is_given_where_it_applies(algorithm: str, estimator: str, reason: str) -> None:
    with pytest.raises(UnfitError, match=reason):
        one_update(algorithm, estimator)
