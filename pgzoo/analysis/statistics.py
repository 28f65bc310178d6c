"""Statistics over seeds. One seed is one observation, however many evaluation episodes its score averages.

Scores are a sequence with one array `[n, ...]` per environment, where n is the number of seeds. The bootstrap is
stratified: it resamples seeds within each environment, so environments may have different numbers of seeds. Every
resampling uses the same fixed random seed, so the same scores always give the same intervals.

Sources: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (what is
estimated); Student 1908, Welch 1947 and Satterthwaite 1946 (few seeds); Efron 1979 (many); Newcombe 2006, part 2,
method 5 (the interval of a probability of improvement); Zou & Donner 2008 (its mean over environments); Wilson 1927.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BOOTSTRAP_SEEDS",
    "CONFIDENCE",
    "MAX_SEEDS",
    "MIN_SEEDS",
    "Band",
    "Estimate",
    "area",
    "band",
    "difference",
    "estimate",
    "improvement",
    "interpercentile_range",
    "iqm",
    "mean",
    "median",
    "paired_improvement",
    "profile",
    "seeds_to_settle",
]

Floats: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = Sequence[Floats]
Statistic: TypeAlias = Callable[[Scores], Floats]
Method: TypeAlias = Literal["Student t", "bootstrap", "score", "none"]

CONFIDENCE = 0.95
MIN_SEEDS, BOOTSTRAP_SEEDS = 3, 10
"""Fewest seeds for an interval, and fewest seeds for a bootstrap interval."""
RESAMPLES = 5000
MAX_SEEDS = 1000
"""Upper limit of `seeds_to_settle`."""
SEED = 20210830
CHUNK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95% interval. Without an interval, `low` and `high` are None and `reason` says why."""

    value: float
    low: float | None = None
    high: float | None = None
    method: Method = "none"
    reason: str = ""

    def excludes(self, value: float) -> bool:
        """Return whether `value` lies outside the interval; False if there is no interval."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict, as printed by `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class Band:
    """A statistic with its interval at each point of a curve, all `[points]`; the limits are NaN if there is none."""

    value: Floats
    low: Floats
    high: Floats
    method: Method


def iqm(scores: Scores) -> Floats:
    """Return the interquartile mean: the mean of all scores without the lowest and highest quarter.

    The number of scores dropped at each end is rounded down, so the IQM of three scores is their mean. It is NaN if a
    score is NaN.
    """
    pooled = np.concatenate(scores)
    drop = len(pooled) // 4
    kept = np.partition(pooled, (drop, len(pooled) - drop - 1), axis=0)[drop : len(pooled) - drop]
    return np.asarray(np.where(np.isnan(pooled).any(0), np.nan, kept.mean(0)))


def mean(scores: Scores) -> Floats:
    """Return the mean over environments of the mean over seeds."""
    return np.asarray(np.mean([x.mean(0) for x in scores], axis=0))


def median(scores: Scores) -> Floats:
    """Return the median over seeds; with several environments, over environments of the mean over seeds."""
    if len(scores) == 1:
        return np.asarray(np.median(scores[0], axis=0))
    return np.asarray(np.median([x.mean(0) for x in scores], axis=0))


def interpercentile_range(scores: ArrayLike, low: float, high: float, percent: float = 90) -> float:
    """Return the min-max interpercentile range of scores `[n]`: the spread from run to run, as a fraction of a scale.

    It is the distance between the 5th and the 95th percentile (for 90 `percent`), each the score of the nearest run,
    divided by the distance between `low` and `high`, the worst and the best return of the environment.

    Source: Tanaka & Mahmood (2026), Performance variation in deep reinforcement learning.
    """
    tail = (100 - percent) / 2
    below, above = np.percentile(np.asarray(scores, np.float64), [tail, 100 - tail], method="nearest")
    return float((above - below) / (high - low))


def pooled_mean(scores: Scores) -> Floats:
    return np.asarray(np.concatenate(scores).mean(0))


def estimate(scores: Scores, statistic: Statistic = iqm) -> Estimate:
    """Return a statistic of the scores, `[n]` per environment, with its 95% interval.

    With fewer than 3 seeds there is no interval. With 3 to 9 it is `value ± t · SE` (Student t), where SE is
    `s / sqrt(n)` for the mean, and the bootstrap standard error times `sqrt(n / (n - 1))` for other statistics. With
    10 or more it is the percentile interval of the stratified bootstrap, which is too narrow for fewer seeds. Raises
    ValueError if there are no scores.
    """
    found = band(scores, statistic)
    few = min(len(x) for x in scores)
    if found.method == "none":
        return Estimate(float(found.value), reason=too_few(few))
    return Estimate(float(found.value), float(found.low), float(found.high), found.method)


def band(scores: Scores, statistic: Statistic = iqm, resamples: int = RESAMPLES) -> Band:
    """Return a statistic of scores `[n, ...]` with pointwise intervals, computed as in `estimate`."""
    scores = [np.asarray(x, np.float64) for x in scores]
    few = min((len(x) for x in scores), default=0)
    if not few:
        raise ValueError("no scores")
    value = statistic(scores)
    if few < MIN_SEEDS:
        nothing = np.full_like(value, np.nan)
        return Band(value, nothing, nothing, "none")
    if few >= BOOTSTRAP_SEEDS:
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low, high = over_resamples(scores, statistic, lambda x: np.quantile(x, tails, axis=0), resamples)
        # the percentiles of a skewed statistic may exclude the statistic itself by a little
        return Band(value, np.minimum(low, value), np.maximum(high, value), "bootstrap")
    variance = np.array([x.var(0, ddof=1) / len(x) for x in scores])  # [environments, ...]
    if statistic is mean or (statistic is iqm and sum(map(len, scores)) < 4):  # the IQM of three is their mean
        error = np.sqrt(variance.sum(0)) / len(scores)
    else:
        (spread,) = over_resamples(scores, statistic, lambda x: x.std(axis=0, ddof=1)[None], resamples)
        error = spread * np.sqrt(few / (few - 1))
    reach = t_quantile((1 + CONFIDENCE) / 2, freedom(variance, np.array([len(x) for x in scores]))) * error
    return Band(value, value - reach, value + reach, "Student t")


def over_resamples(scores: Scores, statistic: Statistic, reduce: Callable[[Floats], Floats], resamples: int) -> Floats:
    """Bootstrap: resample seeds within each environment and apply `reduce` to the statistics `[resamples, ...]`.

    All points of a curve use the same resamples. Points are processed in chunks to limit memory.
    """
    rng = np.random.default_rng(SEED)
    draws = [rng.integers(0, len(x), (len(x), resamples)) for x in scores]
    flat = [x.reshape(len(x), -1) for x in scores]
    points = flat[0].shape[1]
    size = max(1, CHUNK // (resamples * sum(map(len, scores))))
    parts = []
    for begin in range(0, points, size):
        drawn = [x[i, begin : begin + size] for x, i in zip(flat, draws, strict=True)]  # [n, resamples, points]
        parts.append(reduce(statistic(drawn)))
    return np.concatenate(parts, axis=-1).reshape(-1, *scores[0].shape[1:])


def freedom(variances: Floats, counts: NDArray[np.int64]) -> Floats:
    """Return Satterthwaite's degrees of freedom of a sum of k means, given their `variances [k, ...]`."""
    counts = counts.reshape(-1, *[1] * (variances.ndim - 1))
    below = (variances**2 / (counts - 1)).sum(0)
    pooled = np.full_like(below, (counts - 1).sum())
    return np.asarray(np.divide(variances.sum(0) ** 2, below, out=pooled, where=below > 0))


def t_quantile(level: float, freedom: ArrayLike) -> Any:
    from scipy import special  # a fourth of a second faster than scipy.stats, which uses the same function

    return special.stdtrit(freedom, level)


def too_few(count: int) -> str:
    return f"no interval: {count} seed{'' if count == 1 else 's'}, at least {MIN_SEEDS} needed"


def area(steps: ArrayLike, values: ArrayLike, begin: float, end: float) -> float:
    """Return the mean height of a curve between two steps: the area under it divided by `end - begin`.

    `steps [n]` are ascending. The curve is linear between its points and constant before the first and after the last.
    """
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    inner = x[(x > begin) & (x < end)]
    grid = np.concatenate([[begin], inner, [end]])
    return float(np.trapezoid(np.interp(grid, x, y), grid) / (end - begin))


def wins(a: Floats, b: Floats) -> float:
    """Return U / (n m): the fraction of pairs in which `a [n]` is higher than `b [m]`; ties count half."""
    return float((np.sign(a[:, None] - b[None, :]).mean() + 1) / 2)


def improvement(a: Scores, b: Scores) -> Estimate:
    """Return the probability that a seed of `a` scores higher than a seed of `b`: the mean over environments of U/(nm).

    The interval is Newcombe's, which stays valid when every seed of one side beats every seed of the other. For
    several environments, their intervals are combined with the method of Zou & Donner.
    """
    value = np.array([wins(x, y) for x, y in zip(a, b, strict=True)])
    few = min(min(len(x), len(y)) for x, y in zip(a, b, strict=True))
    if few < MIN_SEEDS:
        return Estimate(float(value.mean()), reason=too_few(few))
    limits = [newcombe(p, len(x), len(y)) for p, x, y in zip(value, a, b, strict=True)]
    low, high = (np.linalg.norm(value - side) / len(value) for side in np.array(limits).T)
    center = float(value.mean())
    return Estimate(center, max(0.0, center - float(low)), min(1.0, center + float(high)), "score")


def newcombe(p: float, n: int, m: int) -> tuple[float, float]:
    """Return the limits θ that solve `|p - θ| = t sqrt(V(θ))`; V is the variance of U/(nm) for exponential scores.

    t is Student's quantile with n + m - 2 degrees of freedom. The normal quantile would be too small for few seeds:
    with three seeds per side, one side wins all nine pairs by chance one time in ten.
    """
    from scipy import optimize

    t, half = t_quantile((1 + CONFIDENCE) / 2, n + m - 2), (n + m) / 2 - 1

    def excess(theta: float) -> float:
        shape = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
        return (p - theta) ** 2 - t**2 * theta * (1 - theta) * shape / (n * m)  # type: ignore[no-any-return]

    low = optimize.brentq(excess, 0.0, p) if 0 < p < 1 else p
    high = optimize.brentq(excess, p, 1.0) if 0 < p < 1 else p
    # at p = 0 or 1 both ends of the bracket are roots: search between them
    if p == 1:
        low = optimize.brentq(excess, 0.0, 1 - 1e-9)
    if p == 0:
        high = optimize.brentq(excess, 1e-9, 1.0)
    return low, high


def paired_improvement(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Return the fraction of seeds for which `a` scores higher than `b`, with Wilson's interval; ties count half.

    `a` and `b` are `[pairs]`; the entries at one index are of the same seed.
    """
    from scipy import special

    gap = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    n, p = len(gap), float(np.mean((np.sign(gap) + 1) / 2))
    if n < MIN_SEEDS:
        return Estimate(p, reason=too_few(n))
    z = float(special.ndtri((1 + CONFIDENCE) / 2))
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Estimate(p, max(0.0, float(center - reach)), min(1.0, float(center + reach)), "score")


def difference(a: Scores, b: Scores) -> Estimate:
    """Return the difference of the means of unpaired scores: Welch's t below 10 seeds, else the bootstrap.

    For paired scores, pass the differences to `estimate` with the statistic `mean`.
    """
    value = float(mean(a) - mean(b))
    few = min(len(x) for x in (*a, *b))
    if few < MIN_SEEDS:
        return Estimate(value, reason=too_few(few))
    if few >= BOOTSTRAP_SEEDS:
        strata, count = [*a, *b], len(a)
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        gap = over_resamples(
            strata, lambda x: mean(x[:count]) - mean(x[count:]), lambda x: np.quantile(x, tails, axis=0), RESAMPLES
        )
        return Estimate(value, min(value, float(gap[0])), max(value, float(gap[1])), "bootstrap")
    variance = np.array([np.var(x, ddof=1) / len(x) for x in (*a, *b)])
    free = freedom(variance, np.array([len(x) for x in (*a, *b)]))
    reach = float(t_quantile((1 + CONFIDENCE) / 2, free)) * float(np.sqrt(variance.sum())) / len(a)
    return Estimate(value, value - reach, value + reach, "Student t")


def seeds_to_settle(effect: float, std: float, *, paired: bool, power: float = 0.8) -> int | None:
    """Return the number of seeds per side needed to detect a difference of `effect`, or None if it exceeds 1,000.

    This is the smallest n with `t(0.975) + t(power) <= |effect| sqrt(n) / std`: with probability `power`, the interval
    of the difference then excludes zero. `std` is the standard deviation of the paired differences, or
    `sqrt(s_a² + s_b²)` for unpaired scores.
    """
    if not effect:
        return None
    n = np.arange(MIN_SEEDS, MAX_SEEDS + 1)
    free = n - 1 if paired else 2 * n - 2
    enough = t_quantile((1 + CONFIDENCE) / 2, free) + t_quantile(power, free) <= abs(effect) * np.sqrt(n) / (
        std or 1e-300
    )
    return int(n[enough.argmax()]) if enough.any() else None


def profile(scores: Scores, thresholds: ArrayLike) -> Band:
    """Return the performance profile: the fraction of runs with a score above each of `thresholds [k]`."""
    above = [(np.asarray(x)[:, None] > np.asarray(thresholds)).astype(np.float64) for x in scores]
    found = band(above, pooled_mean, resamples=1000)
    return Band(found.value, np.clip(found.low, 0, 1), np.clip(found.high, 0, 1), found.method)
