"""The numbers of a comparison, in one environment or over several: scores, curves and pairs of sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pgzoo.analysis import statistics
from pgzoo.analysis.selection import Run, SelectorKind
from pgzoo.analysis.statistics import MAX_SEEDS, MIN_SEEDS, Band, Estimate, Scores
from pgzoo.analysis.wording import plural

__all__ = ["Block", "Curve", "Pair", "Profile", "ScoreSummary", "Side", "across", "final_score", "within"]

Floats: TypeAlias = NDArray[np.float64]
POINTS = 200
"""Largest number of points of a learning curve."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: the runs that a selector matches, in one or several environments."""

    label: str
    kind: SelectorKind
    runs: tuple[Run, ...]

    def on(self, env: str) -> list[Run]:
        """Return the runs in one environment, sorted by seed."""
        return [run for run in self.runs if run.env == env]


@dataclass(frozen=True)
class ScoreSummary:
    """Statistics of the scores of one side. `seeds` is their number, the smallest one over environments."""

    seeds: int
    iqm: Estimate
    mean: Estimate
    median: Estimate

    @classmethod
    def of(cls, scores: Scores) -> ScoreSummary:
        """Compute the statistics of scores, one array `[n]` per environment."""
        few = min(len(x) for x in scores)
        return cls(few, *(statistics.estimate(scores, s) for s in (statistics.iqm, statistics.mean, statistics.median)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
        estimates = {name: getattr(self, name).to_dict() for name in ("iqm", "mean", "median")}
        return {"seeds": self.seeds, **estimates}


@dataclass(frozen=True)
class Curve:
    """The learning curves of seeds, `[n, points]`, at `steps [points]`."""

    steps: Floats
    seeds: Floats

    @cached_property
    def band(self) -> Band:
        """The IQM over seeds. Only figures need it, and for 500 seeds it takes as long as all scores together."""
        resamples = int(np.clip(200_000 // len(self.seeds), 200, 1000))
        return statistics.band([self.seeds], resamples=resamples)


@dataclass(frozen=True)
class Pair:
    """The final scores of side `a` compared with those of side `b`."""

    a: str
    b: str
    improvement: Estimate
    """Probability that a seed of `a` scores higher than a seed of `b`."""
    matched: int
    """Number of seeds that both sides have."""
    paired: Estimate | None
    """Fraction of the matched seeds for which `a` scores higher; None if there are no matched seeds."""
    difference: Estimate
    """Mean of `a` minus mean of `b`; paired by seed if all seeds match."""
    more_seeds: int | None
    """Estimated number of additional seeds per side for the interval of the difference to exclude zero.

    0 if it already does; None if more than 1,000 seeds are needed or there is no interval.
    """

    @property
    def settled(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        return self.difference.excludes(0.0)

    @property
    def verdict(self) -> str:
        """Which side is higher or, if that is undecided, how many more seeds it takes."""
        if self.settled:
            return f"{self.a if self.difference.value > 0 else self.b} is higher"
        if self.difference.low is None:
            return f"undecided: needs {MIN_SEEDS} seeds per side"
        if self.more_seeds is None:
            same = self.difference.low == self.difference.high == 0
            return "equal" if same else f"undecided: needs over {MAX_SEEDS:,} seeds per side"
        return f"undecided: needs {plural(self.more_seeds, 'more seed')} per side"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
        return {
            "a": self.a,
            "b": self.b,
            "improvement": self.improvement.to_dict(),
            "matched_seeds": self.matched,
            "paired_improvement": self.paired and self.paired.to_dict(),
            "difference": self.difference.to_dict(),
            "settled": self.settled,
            "more_seeds": self.more_seeds,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Scored:
    """Scores `[n]` of one side in one environment, and their seeds."""

    seeds: tuple[int, ...]
    values: Floats

    def scaled(self, zero: float, one: float) -> Scored:
        """Return the scores rescaled linearly: the score `zero` becomes 0, the score `one` becomes 1."""
        return Scored(self.seeds, (self.values - zero) / (one - zero))


@dataclass(frozen=True)
class Block:
    """The comparison in one environment, or over all environments on normalized scores (then `env` is None)."""

    env: str | None
    scores: tuple[tuple[Scored, ...], ...]
    """Final scores of each side, one `Scored` per environment."""
    final: tuple[ScoreSummary, ...]
    area: tuple[ScoreSummary, ...]
    """Area under the learning curve of each side; empty if there are no curves."""
    pairs: tuple[Pair, ...]
    curves: tuple[Curve, ...] = ()
    areas: tuple[Floats, ...] = ()

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return a JSON-serializable dict without the curves."""
        return {
            "env": self.env,
            "final": {label: s.to_dict() for label, s in zip(labels, self.final, strict=True)},
            "area": {label: s.to_dict() for label, s in zip(labels, self.area, strict=True)} if self.area else None,
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


@dataclass(frozen=True)
class Profile:
    """The performance profile of each side over several environments: fractions of runs above `thresholds [k]`."""

    thresholds: Floats
    bands: tuple[Band, ...]


def final_score(run: Run, score: str) -> float | None:
    """Return the last value of the metric `score`, else the last value of the curve, else None."""
    value = run.metrics.get(score, run.values[-1] if run.values.size else None)
    return float(value) if value is not None and np.isfinite(value) else None


def within(sides: Sequence[Side], env: str, score: str) -> Block:
    """Compare the sides in one environment, in which each must have a final score."""
    scores = tuple((scored(side.on(env), score),) for side in sides)
    curves, areas = learning([[run for run in side.on(env) if run.steps.size] for side in sides])
    return Block(
        env,
        scores,
        tuple(ScoreSummary.of([s.values for s in of]) for of in scores),
        tuple(ScoreSummary.of([a]) for a in areas),
        pairs_of([side.label for side in sides], scores),
        curves,
        areas,
    )


def scored(runs: Sequence[Run], score: str) -> Scored:
    found = [(run.seed, value) for run in runs if (value := final_score(run, score)) is not None]
    return Scored(tuple(seed for seed, _ in found), np.array([value for _, value in found]))


def learning(sides: Sequence[Sequence[Run]]) -> tuple[tuple[Curve, ...], tuple[Floats, ...]]:
    """Return each side's curve and areas, over the steps that all sides reached; nothing if that is a single point.

    A run that ended earlier (stopped, failed, killed) keeps its last value: without it, the curve would be biased
    towards the runs that survived.
    """
    if not all(sides):
        return (), ()
    begin = min(run.steps[0] for runs in sides for run in runs)
    end = min(max(run.steps[-1] for run in runs) for runs in sides)
    if end <= begin:
        return (), ()
    grid = np.unique(np.concatenate([run.steps for runs in sides for run in runs]).clip(begin, end)).astype(float)
    if len(grid) > POINTS:
        grid = grid[np.unique(np.linspace(0, len(grid) - 1, POINTS).astype(int))]
    curves, areas = [], []
    for runs in sides:
        seeds = np.array([np.interp(grid, run.steps, run.values) for run in runs])
        curves.append(Curve(grid, seeds))
        areas.append(np.array([statistics.area(run.steps, run.values, begin, end) for run in runs]))
    return tuple(curves), tuple(areas)


def pairs_of(labels: Sequence[str], scores: Sequence[Sequence[Scored]]) -> tuple[Pair, ...]:
    return tuple(pair(labels[i], labels[j], scores[i], scores[j]) for i, j in combinations(range(len(labels)), 2))


def pair(a: str, b: str, of_a: Sequence[Scored], of_b: Sequence[Scored]) -> Pair:
    """Compare the scores of two sides, paired by seed if all seeds match."""
    x, y = [s.values for s in of_a], [s.values for s in of_b]
    gaps = [matched(s, t) for s, t in zip(of_a, of_b, strict=True)]
    count = sum(map(len, gaps))
    paired = all(len(g) == len(p) == len(q) for g, p, q in zip(gaps, x, y, strict=True))
    found = statistics.estimate(gaps, statistics.mean) if paired else statistics.difference(x, y)
    more = None
    if found.excludes(0.0):
        more = 0
    elif found.low is not None:
        strata = gaps if paired else [*x, *y]
        std = float(np.sqrt(sum(np.var(g, ddof=1) for g in strata))) / len(x)
        needed = statistics.seeds_to_settle(found.value, std, paired=paired)
        more = None if needed is None else max(1, needed - min(map(len, [*x, *y])))
    all_gaps = np.concatenate(gaps)
    by_seed = statistics.paired_improvement(all_gaps, np.zeros(count)) if count else None
    return Pair(a, b, statistics.improvement(x, y), count, by_seed, found, more)


def matched(a: Scored, b: Scored) -> Floats:
    """Return the differences `[n]` over the seeds that both have; none if a seed is unknown or has several runs."""
    some, others = dict(zip(a.seeds, a.values, strict=True)), dict(zip(b.seeds, b.values, strict=True))
    if min(*some, *others) < 0 or len(some) < len(a.seeds) or len(others) < len(b.seeds):
        return np.zeros(0)
    return np.array([some[seed] - others[seed] for seed in some if seed in others])


def across(labels: Sequence[str], blocks: Sequence[Block]) -> tuple[Block, Profile]:
    """Compare over several environments on normalized scores: 0 is the start of training, 1 the best run.

    The start of training is the mean of the first points of all curves. If no run improved on it, or there are no
    curves, 0 is the worst run.
    """
    scales = [scale(block) for block in blocks]
    scores = tuple(
        tuple(block.scores[side][0].scaled(*s) for block, s in zip(blocks, scales, strict=True))
        for side in range(len(labels))
    )
    area: tuple[ScoreSummary, ...] = ()
    if all(block.areas for block in blocks):
        area = tuple(
            ScoreSummary.of(
                [(block.areas[i] - zero) / (one - zero) for block, (zero, one) in zip(blocks, scales, strict=True)]
            )
            for i in range(len(labels))
        )
    final = tuple(ScoreSummary.of([s.values for s in of]) for of in scores)
    lowest = min(float(s.values.min()) for of in scores for s in of)
    thresholds = np.linspace(min(0.0, lowest), 1.0, 101)
    profiles = tuple(statistics.profile([s.values for s in of], thresholds) for of in scores)
    return Block(None, scores, final, area, pairs_of(labels, scores)), Profile(thresholds, profiles)


def scale(block: Block) -> tuple[float, float]:
    finals = np.concatenate([of[0].values for of in block.scores])
    low, high = float(finals.min()), float(finals.max())
    if block.curves:
        first = float(np.concatenate([curve.seeds[:, 0] for curve in block.curves]).mean())
        low = first if first < high else low
    return (low, high) if high > low else (low - 1.0, high)
