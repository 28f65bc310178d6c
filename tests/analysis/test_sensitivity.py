"""Hyperparameter sensitivity; expected values are worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pgzoo.analysis.sensitivity import Grid, Values, analyze
from pgzoo.analysis.sweeps import SweepAnalysis
from pgzoo.errors import UsageError

AXES = ("lam", "rate")


def grid(*, algorithm: str = "ppo", **scores: list[float]) -> Grid:
    """Return a 2 x 2 grid; the scores are those of (lam, rate) = (0, 1), (0, 2), (1, 1), (1, 2)."""
    settings: list[Values] = [(0.0, 1.0), (0.0, 2.0), (1.0, 1.0), (1.0, 2.0)]
    return Grid(algorithm, AXES, {env: dict(zip(settings, of, strict=True)) for env, of in scores.items()})


def scale(values: list[float], score: float) -> float:
    low, high = np.percentile(values, (5, 95))
    return float((score - low) / (high - low))


def test_the_sensitivity_matches_values_worked_out_by_hand() -> None:
    """The settings score 0, 1, 2, 3 in `a` and 30, 10, 20, 0 in `b`, so the best one in `a` is the worst one in `b`.

    The 5th and 95th percentiles of 0, 1, 2, 3 are 0.15 and 2.85. The normalized scores in `a` are -0.15/2.7, 0.85/2.7,
    1.85/2.7 and 2.85/2.7. Those in `b` are the same in another order: 3, 1, 2, 0. The means over both, in the order of
    the settings, are those of (0+3)/2, (1+1)/2, (2+2)/2, (3+0)/2: the third setting is best, with 1.85/2.7.
    """
    (found,) = analyze([grid(a=[0, 1, 2, 3], b=[30, 10, 20, 0])])
    assert found.tuned == pytest.approx(2.85 / 2.7)
    assert found.shared == pytest.approx(1.85 / 2.7)
    assert found.sensitivity == pytest.approx(1 / 2.7)
    assert found.shared_setting == {"lam": 1.0, "rate": 1.0}
    assert found.missing == ()


def test_the_effective_dimensionality_matches_values_worked_out_by_hand() -> None:
    """The best shared setting is (lam, rate) = (1, 1), which scores 2 in both environments (scores of `b` in tens).

    Tuning only `lam` chooses between (0, 1) and (1, 1): 2 in `a`, 3 in `b`. Tuning only `rate` chooses between (1, 1)
    and (1, 2): 3 in `a`, 2 in `b`. Each gives the mean of 1.85 and 2.85, 82% of the tuned score, so both are needed.
    """
    (found,) = analyze([grid(a=[0, 1, 2, 3], b=[30, 10, 20, 0])])
    assert [len(subset.axes) for subset in found.subsets] == [0, 1, 2]
    assert [subset.score for subset in found.subsets] == pytest.approx([1.85 / 2.7, 2.35 / 2.7, 2.85 / 2.7])
    assert found.dimensionality == 2


def test_the_dimensionality_is_one_if_only_one_hyperparameter_matters() -> None:
    """`rate` decides everything: 1 is best in `a`, 2 in `b`. `lam` hardly changes a score."""
    (found,) = analyze([grid(a=[10, 0, 10.1, 0.1], b=[0, 10, 0.1, 10.1])])
    assert found.enough is not None and found.enough.axes == ("rate",)
    assert found.dimensionality == 1


def test_a_setting_that_is_best_everywhere_needs_no_tuning() -> None:
    (found,) = analyze([grid(a=[0, 1, 2, 3], b=[0, 10, 20, 30])])
    assert (found.sensitivity, found.dimensionality) == (0.0, 0)
    assert found.enough is not None and found.enough.axes == ()


def test_percentiles_are_computed_over_all_algorithms_together() -> None:
    """The second algorithm scores ten times higher, so the normalized scores of the first shrink."""
    weak, strong = analyze(
        [grid(a=[0, 1, 2, 3], b=[3, 1, 2, 0]), grid(algorithm="x", a=[0, 10, 20, 30], b=[30, 10, 20, 0])]
    )
    pooled = [0.0, 1, 2, 3, 0, 10, 20, 30]
    assert weak.tuned == pytest.approx(scale(pooled, 3))
    assert strong.tuned == pytest.approx(scale(pooled, 30))
    assert weak.sensitivity == pytest.approx(scale(pooled, 3) - scale(pooled, 2))


def test_only_the_spread_of_the_scores_is_computed_with_one_environment() -> None:
    (found,) = analyze([grid(a=[0, 1, 2, 3])])
    assert (found.sensitivity, found.dimensionality, found.subsets) == (None, None, ())
    assert "two environments" in found.missing[0]
    (env,) = found.environments
    assert (env.settings, env.worst, env.median, env.best) == (4, 0, 1.5, 3)
    assert (env.low, env.high) == pytest.approx((0.15, 2.85))
    assert env.best_setting == {"lam": 1.0, "rate": 2.0}


def test_the_result_explains_what_cannot_be_computed() -> None:
    incomplete = Grid("ppo", AXES, {env: {(0.0, 1.0): 1, (0.5, 2.0): 2, (0.7, 3.0): 4} for env in ("a", "b")})
    (found,) = analyze([incomplete])
    assert found.sensitivity == 0 and found.dimensionality is None
    assert "full grid" in found.missing[0]
    partly = Grid(
        "ppo", AXES, {"a": {(0.0, 1.0): 1, (0.0, 2.0): 2, (1.0, 2.0): 0}, "b": {(0.0, 1.0): 1, (0.0, 2.0): 2}}
    )
    (found,) = analyze([partly])
    assert "1 setting left out" in found.missing[0]
    (found,) = analyze([grid(a=[0, 1, 2, 3], b=[30, 10, 20, 0], c=[5, 5, 5, 5])])
    assert "c left out" in found.missing[0] and found.sensitivity == pytest.approx(1 / 2.7)
    with pytest.raises(UsageError, match="no setting has a score in all"):
        analyze([Grid("ppo", AXES, {"a": {(0.0, 1.0): 1}, "b": {(0.0, 2.0): 1}})])


def test_the_same_scores_give_the_same_svg() -> None:
    def render() -> bytes:
        grids = (grid(A=[1.0, 2.0, 3.0, 4.0], B=[4.0, 1.0, 2.0, 3.0]),)
        home: Any = None
        return SweepAnalysis("summary/return_final", analyze(grids), (), "none", grids, frozenset(), home).render(
            ".svg"
        )

    assert render() == render()
