"""Hyperparameter sensitivity: how much the performance of an algorithm depends on tuning it for each environment.

The score p(e, h) of a setting h in an environment e is the mean over seeds. Scores are normalized in each environment
by their percentiles over the settings of all algorithms, so that environments are comparable:

    Γ(e, h) = (p(e, h) - p₅(e)) / (p₉₅(e) - p₅(e))

The sensitivity is what tuning for each environment gains over the best single setting h*:

    Φ = 1/|E| Σₑ max_h Γ(e, h) - max_h 1/|E| Σₑ Γ(e, h)

The effective dimensionality is the smallest number of hyperparameters that reach 95% of the tuned score, the first
term of Φ, if only they are tuned for each environment and all others keep their values in h*.

Source: Adkins, Bowling & White (2024), A method for evaluating hyperparameter sensitivity in reinforcement learning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pgzoo.analysis.wording import plural
from pgzoo.errors import UsageError

__all__ = ["NEAR_PEAK", "EnvironmentScores", "Grid", "Sensitivity", "Tuned", "analyze"]

Floats: TypeAlias = NDArray[np.float64]
Values: TypeAlias = tuple[float, ...]

NEAR_PEAK = 0.95
"""Fraction of the tuned score that the effective dimensionality must reach."""
PERCENTILES = (5, 95)


@dataclass(frozen=True)
class Grid:
    """The scores of one algorithm: `scores[env][values]` is the mean over seeds of one setting.

    `axes` are the names of the hyperparameters; `values` of a setting are in the same order.
    """

    algorithm: str
    axes: tuple[str, ...]
    scores: Mapping[str, Mapping[Values, float]]


@dataclass(frozen=True)
class EnvironmentScores:
    """The scores of an algorithm's settings in one environment, not normalized."""

    env: str
    settings: int
    worst: float
    low: float
    median: float
    high: float
    best: float
    best_setting: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
        return {**vars(self), "best_setting": dict(self.best_setting)}


@dataclass(frozen=True)
class Tuned:
    """The best hyperparameters of their number to tune for each environment, and the normalized score they give."""

    axes: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class Sensitivity:
    """The result for one algorithm. Scores are normalized, except in `environments`.

    Attributes:
        tuned: score with the best setting of each environment.
        shared: score of the best single setting; `shared_setting` are its values.
        subsets: for 0, 1, ... all hyperparameters, the best ones to tune for each environment. Empty unless the
            settings are a full grid.
        missing: why a number is missing: what the runs don't allow to compute.
    """

    algorithm: str
    axes: tuple[str, ...]
    environments: tuple[EnvironmentScores, ...]
    tuned: float | None
    shared: float | None
    shared_setting: Mapping[str, float]
    subsets: tuple[Tuned, ...]
    missing: tuple[str, ...]

    @property
    def sensitivity(self) -> float | None:
        """Φ, the gain of tuning for each environment; None with a single environment."""
        return None if self.tuned is None or self.shared is None else self.tuned - self.shared

    @property
    def dimensionality(self) -> int | None:
        """Number of hyperparameters to tune for each environment to get 95% of the tuned score; None if unknown."""
        return None if (enough := self.enough) is None else len(enough.axes)

    @property
    def enough(self) -> Tuned | None:
        """The smallest subset of hyperparameters that reaches 95% of the tuned score."""
        if self.tuned is None or self.tuned <= 0:
            return None
        target = NEAR_PEAK * self.tuned
        return next((subset for subset in self.subsets if subset.score >= target), None)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
        return {
            "algorithm": self.algorithm,
            "hyperparameters": list(self.axes),
            "environments": [scores.to_dict() for scores in self.environments],
            "tuned_score": self.tuned,
            "shared_score": self.shared,
            "shared_setting": dict(self.shared_setting),
            "sensitivity": self.sensitivity,
            "effective_dimensionality": self.dimensionality,
            "tuned_subsets": [{"hyperparameters": list(s.axes), "score": s.score} for s in self.subsets],
            "missing": list(self.missing),
        }


def analyze(grids: Sequence[Grid]) -> tuple[Sensitivity, ...]:
    """Return the sensitivity of each algorithm; all grids together determine the percentiles of an environment.

    An algorithm is analyzed over its environments. Settings without a score in one of them are left out. Raises
    UsageError for an algorithm without a setting that has a score in each of its environments.
    """
    scales: dict[str, tuple[float, float]] = {}
    for env in dict.fromkeys(env for grid in grids for env in grid.scores):
        pooled = [score for grid in grids for score in grid.scores.get(env, {}).values()]
        low, high = np.percentile(pooled, PERCENTILES)
        scales[env] = float(low), float(high)
    return tuple(analyze_grid(grid, scales) for grid in grids)


def analyze_grid(grid: Grid, scales: Mapping[str, tuple[float, float]]) -> Sensitivity:
    settings = sorted(set.intersection(*(set(found) for found in grid.scores.values())))
    if not settings:
        raise UsageError(
            f"{grid.algorithm}: no setting has a score in all of its environments: {', '.join(grid.scores)}. "
            "Run the same --sweep-axis in each of them, or choose environments with --env."
        )
    missing = []
    if lost := len({values for found in grid.scores.values() for values in found}) - len(settings):
        missing.append(f"{plural(lost, 'setting')} left out, without a score in every environment")
    flat = [env for env in grid.scores if scales[env][0] == scales[env][1]]
    if flat:
        missing.append(f"{', '.join(flat)} left out, because all settings have the same score there")
    envs = [env for env in grid.scores if env not in flat]
    environments = tuple(describe(env, grid.axes, grid.scores[env]) for env in grid.scores)
    if len(envs) < 2:
        missing.append(
            "the sensitivity needs two environments: run the same --sweep-axis with another --env, and give both groups"
        )
        return Sensitivity(grid.algorithm, grid.axes, environments, None, None, {}, (), tuple(missing))
    scores = np.array([[grid.scores[env][values] for values in settings] for env in envs])
    low, high = np.array([scales[env] for env in envs]).T[..., None]
    normalized = (scores - low) / (high - low)  # [E, H]
    best = int(normalized.mean(0).argmax())
    subsets = tune_subsets(grid.axes, settings, normalized, best)
    if not subsets:
        missing.append("the effective dimensionality needs a full grid: every combination of the values")
    return Sensitivity(
        algorithm=grid.algorithm,
        axes=grid.axes,
        environments=environments,
        tuned=float(normalized.max(1).mean()),
        shared=float(normalized[:, best].mean()),
        shared_setting=dict(zip(grid.axes, settings[best], strict=True)),
        subsets=subsets,
        missing=tuple(missing),
    )


def describe(env: str, axes: Sequence[str], scores: Mapping[Values, float]) -> EnvironmentScores:
    values = np.array(list(scores.values()))
    low, median, high = (float(x) for x in np.percentile(values, (PERCENTILES[0], 50, PERCENTILES[1])))
    best = max(scores, key=lambda setting: scores[setting])
    return EnvironmentScores(
        env, len(scores), float(values.min()), low, median, high, scores[best], dict(zip(axes, best, strict=True))
    )


def tune_subsets(axes: Sequence[str], settings: Sequence[Values], normalized: Floats, best: int) -> tuple[Tuned, ...]:
    """Return the best subset of each size to tune for each environment; empty unless the settings are a full grid.

    The hyperparameters that are not tuned have the values of the setting with the index `best`.
    """
    table = np.array(settings)  # [H, axes]
    if len(settings) != math.prod(len(set(column)) for column in table.T):
        return ()
    found = []
    for size in range(len(axes) + 1):
        tried = []
        for tuned in combinations(range(len(axes)), size):
            fixed = [axis for axis in range(len(axes)) if axis not in tuned]
            allowed = (table[:, fixed] == table[best, fixed]).all(1)
            tried.append(Tuned(tuple(axes[i] for i in tuned), float(normalized[:, allowed].max(1).mean())))
        found.append(max(tried, key=lambda subset: subset.score))
    return tuple(found)
