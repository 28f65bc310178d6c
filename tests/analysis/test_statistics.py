"""Statistics over seeds: values worked out by hand, the definitions of rliable, and the coverage of intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pgzoo.analysis import statistics
from pgzoo.analysis.statistics import (
    area,
    band,
    difference,
    estimate,
    improvement,
    iqm,
    mean,
    median,
    newcombe,
    paired_improvement,
    profile,
    seeds_to_settle,
)

T4, Z = 2.7764451, 1.9599640
"""0.975 quantiles of Student's t distribution with four degrees of freedom and of the normal distribution."""
STATISTICS = (iqm, mean, median)


def scores(low: int = 1, high: int = 12) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, st.integers(low, high), elements=st.integers(-1000, 1000).map(float))


def of(*values: float) -> list[np.ndarray]:
    return [np.array(values)]


def test_the_iqm_matches_values_worked_out_by_hand() -> None:
    assert iqm(of(1, 2, 3, 4, 5, 6, 7, 8)) == 4.5  # of 3, 4, 5, 6
    assert iqm(of(100, 0, 3, 2, 1)) == 2.0  # of 1, 2, 3
    assert iqm(of(9, 0, 3)) == 4.0  # a quarter of three scores is less than one score, so none is removed


def test_the_mean_and_the_median_match_values_worked_out_by_hand() -> None:
    several = [np.array([1.0, 3.0]), np.array([10.0, 20.0, 30.0]), np.array([100.0])]
    assert mean(several) == pytest.approx((2 + 20 + 100) / 3)  # an environment with more seeds has no more weight
    assert median(several) == 20.0  # of 2, 20, 100
    assert median(of(1, 100, 3, 4)) == 3.5


def test_a_t_interval_matches_values_worked_out_by_hand() -> None:
    found = estimate(of(1, 2, 3, 4, 5), mean)
    reach = T4 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.value, found.method) == (3.0, "Student t")
    assert (found.low, found.high) == (pytest.approx(3 - reach), pytest.approx(3 + reach))
    assert found.excludes(0.9) and not found.excludes(1.1)


def test_a_t_interval_over_environments_matches_values_worked_out_by_hand() -> None:
    # standard errors 1/sqrt(3) and 2/sqrt(3); Satterthwaite: (1/3 + 4/3)^2 / (1/18 + 16/18) = 50/17
    found = estimate([np.array([1.0, 2.0, 3.0]), np.array([8.0, 10.0, 12.0])], mean)
    reach = scipy.stats.t.ppf(0.975, 50 / 17) * math.sqrt(5 / 3) / 2
    assert (found.value, found.low) == (6.0, pytest.approx(6 - reach))


def test_fewer_than_three_seeds_give_no_interval_but_a_reason() -> None:
    for few in (of(3), of(3, 5)):
        found = estimate(few)
        assert (found.low, found.high, found.method) == (None, None, "none")
        assert "at least 3 needed" in found.reason
        assert not found.excludes(-1e9)
        assert improvement(few, of(1, 2, 3)).low is None
        assert difference(few, of(1, 2, 3)).low is None
    with pytest.raises(ValueError, match="no scores"):
        estimate([np.zeros(0)])


def test_nine_seeds_get_a_t_interval_and_ten_a_bootstrap_interval() -> None:
    x = np.random.default_rng(1).normal(size=40)
    assert [estimate([x[:seeds]]).method for seeds in (9, 10, 40)] == ["Student t", "bootstrap", "bootstrap"]
    found = estimate([x], mean)
    ours = (found.low, found.high)
    theirs = scipy.stats.bootstrap((x,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(2))
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


def test_the_same_scores_give_the_same_interval() -> None:
    x = np.random.default_rng(1).normal(size=30)
    assert estimate([x]) == estimate([x])
    assert estimate([x[:5]]) == estimate([x[:5]])
    assert difference([x], [x[:12]]) == difference([x], [x[:12]])


def test_the_statistics_follow_the_definitions_of_rliable() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 6, (12, 4)).astype(float), rng.integers(1, 7, (9, 4)).astype(float)  # runs x tasks
    ours, others = list(x.T), list(y.T)
    assert iqm(ours) == scipy.stats.trim_mean(x, proportiontocut=0.25, axis=None)
    assert mean(ours) == pytest.approx(np.mean(np.mean(x, axis=0)))
    assert median(ours) == np.median(np.mean(x, axis=0))
    per_task = [
        scipy.stats.mannwhitneyu(x[:, task], y[:, task], alternative="greater").statistic / (12 * 9)
        for task in range(4)
    ]
    assert improvement(ours, others).value == pytest.approx(np.mean(per_task))
    taus = np.linspace(0, 6, 13)
    assert profile(ours, taus).value == pytest.approx([np.mean(x > tau) for tau in taus])


def test_a_stratified_bootstrap_draws_within_each_environment() -> None:
    # all seeds of an environment have the same score, so every resample has the same mean
    apart = [np.full(10, 5.0), np.full(10, 100.0)]
    found = estimate(apart, mean)
    assert (found.low, found.value, found.high) == (52.5, 52.5, 52.5)


def test_a_band_equals_the_estimate_at_each_point_for_any_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = np.random.default_rng(4).normal(size=(12, 7))
    whole = band([curves])
    monkeypatch.setattr(statistics, "CHUNK", 1)
    pieces = band([curves])
    for point in range(7):
        found = estimate([curves[:, point]])
        assert (whole.value[point], whole.low[point], whole.high[point]) == (found.value, found.low, found.high)
    assert pieces.low.tolist() == whole.low.tolist()
    assert np.isnan(band([curves[:2]]).low).all()


def test_the_improvement_matches_values_worked_out_by_hand() -> None:
    # of the nine pairs, one is a win and two are ties
    assert improvement(of(1, 2, 3), of(2, 3, 4)).value == pytest.approx(2 / 9)
    several = improvement(
        [np.array([2.0, 2, 2]), np.array([0.0, 0, 0])], [np.array([1.0, 1, 1]), np.array([0.0, 0, 0])]
    )
    assert several.value == 0.75


def test_the_limits_of_an_improvement_solve_newcombes_equation() -> None:
    def deviation(theta: float, n: int, m: int) -> float:
        q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)  # Hanley & McNeil 1982
        mean_size = (n + m) / 2
        variance = theta * (1 - theta) + (mean_size - 1) * (q1 + q2 - 2 * theta**2)
        return math.sqrt(variance / (n * m))

    for p, n, m in ((0.72, 5, 5), (0.5, 3, 8), (0.95, 20, 10), (0.04, 7, 7)):
        low, high = newcombe(p, n, m)
        t = scipy.stats.t.ppf(0.975, n + m - 2)
        assert 0 < low < p < high < 1
        assert p - low == pytest.approx(t * deviation(low, n, m), abs=1e-6)
        assert high - p == pytest.approx(t * deviation(high, n, m), abs=1e-6)
    low, high = newcombe(1.0, 5, 5)
    assert high == 1.0 and 1 - low == pytest.approx(scipy.stats.t.ppf(0.975, 8) * deviation(low, 5, 5), abs=1e-6)
    assert 0.5 < low < 0.8  # if all of five seeds beat five others, that doesn't prove that they always will
    assert newcombe(1.0, 3, 3)[0] < 0.5  # with three seeds per side, this happens by chance in one of ten cases
    assert newcombe(0.0, 5, 5) == (0.0, pytest.approx(1 - low))


def test_the_paired_improvement_matches_values_worked_out_by_hand() -> None:
    found = paired_improvement([5, 5, 5, 5], [1, 9, 5, 2])
    assert found.value == 2.5 / 4
    all_won = paired_improvement(np.arange(5) + 1, np.arange(5))
    assert (all_won.low, all_won.high) == (pytest.approx(5 / (5 + Z**2)), 1.0)
    assert paired_improvement([1, 2], [0, 0]).reason


def test_a_difference_has_the_interval_of_welchs_t_test() -> None:
    a, b = np.array([5.0, 6, 7, 9]), np.array([1.0, 1, 2, 4, 5, 8])
    found = difference([a], [b])
    theirs = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert found.value == a.mean() - b.mean()


def test_the_area_under_a_curve_matches_values_worked_out_by_hand() -> None:
    assert area([0, 10], [0, 10], 0, 10) == 5.0
    assert area([2, 4, 8], [1, 3, 3], 0, 10) == pytest.approx((2 * 1 + 2 * 2 + 6 * 3) / 10)  # constant outside
    assert area([0, 10], [0, 10], 5, 10) == 7.5


def test_seeds_to_settle_matches_textbook_sample_sizes() -> None:
    # power 0.8 takes 17 seeds per side for an effect of one standard deviation, and 34 pairs for half of one
    assert seeds_to_settle(1.0, math.sqrt(2), paired=False) == 17
    assert seeds_to_settle(-0.5, 1.0, paired=True) == 34
    exact = 1 - scipy.stats.nct.cdf(scipy.stats.t.ppf(0.975, 32), 32, 1 / math.sqrt(2 / 17))
    assert 0.8 <= exact < 0.83
    assert seeds_to_settle(1.0, 0.0, paired=True) == 3
    assert seeds_to_settle(0.0, 1.0, paired=True) is None
    assert seeds_to_settle(0.01, 1.0, paired=True) is None


@given(scores())
def test_iqm_mean_and_median_lie_within_the_range_of_the_scores(x: np.ndarray) -> None:
    for statistic in STATISTICS:
        assert x.min() - 1e-9 <= statistic([x]) <= x.max() + 1e-9


@given(scores(3), st.integers(1, 9), st.integers(-500, 500), st.randoms())
def test_estimates_scale_and_shift_with_their_scores(x: np.ndarray, factor: int, shift: int, random: object) -> None:
    shuffled = np.array(sorted(x, key=lambda _: random.random()))  # type: ignore[attr-defined]
    for statistic in STATISTICS:
        found, moved = estimate([x], statistic), estimate([x * factor + shift], statistic)
        size = 1e-6 * (1 + np.abs(x).max() * factor + abs(shift))
        assert moved.value == pytest.approx(found.value * factor + shift, abs=size)
        assert moved.low == pytest.approx(found.low * factor + shift, abs=size)  # type: ignore[operator]
        assert found.low - size <= found.value <= found.high + size  # type: ignore[operator]
        assert float(statistic([shuffled])) == pytest.approx(found.value, abs=size)


@given(scores(3), scores(3))
def test_swapping_the_sides_mirrors_the_improvement_and_the_difference(x: np.ndarray, y: np.ndarray) -> None:
    there, back = improvement([x], [y]), improvement([y], [x])
    assert there.value + back.value == pytest.approx(1)
    assert there.low + back.high == pytest.approx(1, abs=1e-6)  # type: ignore[operator]
    assert 0 <= there.low <= there.value <= there.high <= 1  # type: ignore[operator]
    assert improvement([np.exp(x / 500)], [np.exp(y / 500)]).value == pytest.approx(there.value)  # only the ranks count
    gap, turned = difference([x], [y]), difference([y], [x])
    assert gap.value == pytest.approx(-turned.value)
    assert gap.low - 1e-9 <= gap.value <= gap.high + 1e-9  # type: ignore[operator]


@given(scores(3), st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True))
def test_a_profile_never_rises_and_its_limits_stay_between_zero_and_one(x: np.ndarray, taus: list[int]) -> None:
    found = profile([x], np.sort(taus))
    assert (np.diff(found.value) <= 0).all()
    assert ((found.low >= 0) & (found.low <= found.value + 1e-12) & (found.high <= 1)).all()


def coverage(covers: list[bool]) -> float:
    return sum(covers) / len(covers)


@pytest.mark.parametrize("seeds", [3, 5, 9])
def test_intervals_over_few_seeds_have_a_coverage_of_at_least_92_percent(
    seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    rng = np.random.default_rng(seeds)
    samples = rng.normal(size=(400, seeds))
    for statistic in STATISTICS:
        covers = []
        for x in samples:
            found = band([x], statistic, resamples=300)
            covers.append(bool(found.low <= 0 <= found.high))
        assert coverage(covers) >= 0.92, statistic.__name__  # 0.95 minus three standard errors
    percentile = [
        scipy.stats.bootstrap((x,), np.mean, n_resamples=200, method="percentile", rng=rng) for x in samples[:60]
    ]
    narrow = coverage([b.confidence_interval.low <= 0 <= b.confidence_interval.high for b in percentile])
    assert seeds == 9 or narrow < 0.92  # why few seeds don't get a bootstrap interval


@pytest.mark.parametrize(("seeds", "shift"), [(3, 0.0), (5, 1.0), (5, 2.5), (20, 1.0)])
def test_intervals_of_an_improvement_have_a_coverage_of_at_least_92_percent(seeds: int, shift: float) -> None:
    rng, truth = np.random.default_rng(seeds), scipy.stats.norm.cdf(shift / math.sqrt(2))
    covers = []
    for _ in range(400):
        found = improvement([rng.normal(shift, 1, seeds)], [rng.normal(0, 1, seeds)])
        covers.append(found.low <= truth <= found.high)  # type: ignore[operator]
    assert coverage(covers) >= 0.92


def test_the_interpercentile_range_matches_values_worked_out_by_hand() -> None:
    """The 5th and 95th percentiles of 21 runs with the scores 0 to 20 are 1 and 19: 18 on a scale of length 40."""
    assert statistics.interpercentile_range(np.arange(21.0), -10, 30) == pytest.approx(18 / 40)
    assert statistics.interpercentile_range([3.0, 3.0, 3.0], 0, 10) == 0
    assert statistics.interpercentile_range([0.0, 5.0, 10.0], 0, 10, percent=0) == 0  # both percentiles are the median
