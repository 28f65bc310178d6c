"""Scores of the settings of sweeps, read from runs: what `analysis.sensitivity` is computed from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo.analysis.blocks import final_score
from pgzoo.analysis.caveats import finished, one_per_seed, without_evaluation
from pgzoo.analysis.compare import CURVE, RETURNS, Grouped
from pgzoo.analysis.report import image_bytes
from pgzoo.analysis.selection import FINAL, ProgressCallback, Run, RunIndex, load
from pgzoo.analysis.sensitivity import Grid, Sensitivity, Values, analyze
from pgzoo.analysis.statistics import MIN_SEEDS
from pgzoo.analysis.wording import plural
from pgzoo.config.sweep import Setting, parse_setting
from pgzoo.errors import UsageError
from pgzoo.tracking.home import Home, display_uri
from pgzoo.tracking.ledger import SWEEP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ENDINGS", "SweepAnalysis", "sensitivity"]

ENDINGS = (".png", ".pdf", ".svg", ".json")

IGNORED = ("seed", "env", "algorithm")
"""Parameters that may differ between the runs of a sweep, besides the swept ones."""


@dataclass(frozen=True)
class SweepAnalysis:
    """The sensitivity of one or several algorithms, and reasons for which the numbers may mislead.

    `grids` are the scores that `algorithms` was computed from, in the same order; `experiments` those of the runs.
    """

    score: str
    algorithms: tuple[Sensitivity, ...]
    warnings: tuple[str, ...]
    tracking_uri: str
    grids: tuple[Grid, ...]
    experiments: frozenset[str]
    home: Home

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serializable dict that `pgzoo compare --sensitivity --json` prints."""
        return {
            "score": self.score,
            "sensitivity": [found.to_dict() for found in self.algorithms],
            "warnings": list(self.warnings),
            "tracking_uri": display_uri(self.tracking_uri),
        }

    def figure(self) -> Figure:
        """Return a matplotlib figure: scores over the values of each hyperparameter, and what tuning gains."""
        from pgzoo.analysis.sensitivity_figure import sensitivity_figure

        return sensitivity_figure(self.grids, self.algorithms, self.score)

    def render(self, ending: str) -> bytes:
        """Return the content of a file with one of the extensions `ENDINGS`."""
        if ending == ".json":
            return json.dumps(self.to_dict(), allow_nan=False, indent=2).encode()
        return image_bytes(self.figure(), ending[1:])

    def save(self, path: str | Path) -> Path:
        """Write the figure (.png, .pdf or .svg) or the numbers (.json), and return the path.

        Raises UsageError for another extension, or if the file can't be written.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending not in ENDINGS:
            raise UsageError(f"{path}: the extension must be one of {', '.join(ENDINGS)}.")
        try:
            path.write_bytes(self.render(ending))
        except OSError as error:
            raise UsageError(f"Can't write {path}: {error.strerror}.") from error
        return path

    def log(self, command: str = "") -> str:
        """Log the figure and the numbers to MLflow as a separate run, and return its id.

        `command` is logged as the source of the run. Raises StoreError if the store can't be written.
        """
        from pgzoo.analysis.log import log_run

        numbers: dict[str, float] = {}
        params = {"score": self.score}
        for found in self.algorithms:
            known = {"tuned": found.tuned, "shared": found.shared, "sensitivity": found.sensitivity}
            known["effective_dimensionality"] = found.dimensionality
            numbers |= {f"{found.algorithm}/{name}": float(x) for name, x in known.items() if x is not None}
            params[f"{found.algorithm}.hyperparameters"] = ",".join(found.axes)
        names = ", ".join(found.algorithm for found in self.algorithms)
        return log_run(
            self.tracking_uri,
            self.home,
            self.experiments,
            name=f"sensitivity of {names}",
            command=command,
            note="Hyperparameter sensitivity: see report.png and report.json.",
            numbers=numbers,
            params=params,
            files={f"report{ending}": self.render(ending) for ending in (".png", ".json")},
        )


def sensitivity(
    *selectors: str | Grouped,
    env: Sequence[str] | None = None,
    metric: str | None = None,
    tracking_uri: str | None = None,
    progress: ProgressCallback = lambda what, done, total: None,
) -> SweepAnalysis:
    """Return the hyperparameter sensitivity of the algorithms in one or several sweeps.

    Args:
        selectors: Selectors of runs, such as the groups of `pgzoo run --sweep-axis`; groups of the same algorithm in
            different environments belong together.
        env: The environments to use; by default all of them.
        metric: The score is the mean return of the final evaluation for returns, else the last value of the metric.
        tracking_uri: The MLflow store to read beside the journals of this machine.
        progress: Called as `progress(what, done, total)` while runs are read.

    Raises:
        UnknownName: A selector matches no run.
        UsageError: The runs are not those of sweeps over the same hyperparameters.
        StoreError: The tracking store can't be read.
    """
    home = Home.find()
    index = RunIndex(home, tracking_uri, progress)
    labels = [selector if isinstance(selector, str) else selector.group for selector in selectors]
    if not labels:
        raise UsageError("Give at least one group of a sweep, such as: pgzoo compare --sensitivity GROUP GROUP")
    chosen: dict[str, Run] = {}
    for label in labels:
        found = [run for run in index.select(label)[1] if is_scored(run) and (not env or run.env in env)]
        if not found:
            where = f" in {', '.join(env)}" if env else ""
            raise UsageError(
                f'No run of "{label}"{where} belongs to a sweep. Give the group of a run with --sweep-axis KEY=A,B,...'
            )
        chosen |= {run.run_key: run for run in found}
    curve = metric or CURVE
    score = FINAL if curve in RETURNS else curve
    warnings = index.warnings
    runs = finished("the sweep", load(list(chosen.values()), curve, progress), warnings)
    grids = [
        grid_of(name, [run for run in runs if run.algorithm == name], score, warnings)
        for name in sorted({run.algorithm for run in runs})
    ]
    experiments = frozenset(run.experiment for run in runs)
    return SweepAnalysis(score, analyze(grids), tuple(warnings), index.uri, tuple(grids), experiments, home)


def is_scored(run: Run) -> bool:
    """Return whether a run belongs to a sweep, and isn't one of a search's best trials on fresh seeds.

    Settings are compared over the same seeds.
    """
    return SWEEP in run.tags and run.tags.get("pgzoo.seeds") != "fresh"


def grid_of(algorithm: str, runs: Sequence[Run], score: str, warnings: list[str]) -> Grid:
    """Return the scores of one algorithm's settings, each the mean over its seeds."""
    settings = {run.run_key: parse_setting(run.tags[SWEEP]) for run in runs}
    axes = tuple(sorted({key for setting in settings.values() for key in setting}))
    for run in runs:
        if lacking := [key for key in axes if key not in settings[run.run_key]]:
            raise UsageError(
                f"{algorithm}: some runs sweep {', '.join(lacking)} and others, such as {run.run_key}, don't. "
                "Give groups with the same --sweep-axis keys."
            )
    scores: dict[str, dict[Values, float]] = {}
    for env in sorted({run.env for run in runs}):
        trained = sorted((run for run in runs if run.env == env), key=lambda run: run.started)
        keys = [(values_of(settings[r.run_key], axes), r.seed if r.seed >= 0 else r.run_key) for r in trained]
        here = one_per_seed(f"{algorithm} on {env}", trained, keys, score, warnings)
        warn_of_differences(algorithm, env, here, axes, warnings)
        for status, count in sorted(Counter(run.status for run in here).items()):
            if status not in ("finished", "stopped"):
                warnings.append(f"{algorithm} on {env}: {plural(count, 'run')} {status}; scored at the last step.")
        warnings += without_evaluation(f"{algorithm} on {env}", here, score)
        kept: dict[Values, list[float]] = {}
        for run in here:
            of = kept.setdefault(values_of(settings[run.run_key], axes), [])
            of += [] if (value := final_score(run, score)) is None else [value]
        if lost := sum(not of for of in kept.values()):
            warnings.append(f"{algorithm} on {env}: {plural(lost, 'setting')} left out, no final score.")
        scores[env] = {setting: float(np.mean(of)) for setting, of in kept.items() if of}
        if not scores[env]:
            raise UsageError(f"No run of {algorithm} on {env} has a final score ({score}).")
        few = min(len(of) for of in kept.values() if of)
        if few < MIN_SEEDS:
            warnings.append(
                f"{algorithm} on {env}: {plural(few, 'seed')} per setting; the best of several settings is partly luck "
                "with so few, which makes the sensitivity too large."
            )
    return Grid(algorithm, axes, scores)


def values_of(setting: Setting, axes: Sequence[str]) -> Values:
    return tuple(setting[key] for key in axes)


def warn_of_differences(
    algorithm: str, env: str, runs: Sequence[Run], axes: Sequence[str], warnings: list[str]
) -> None:
    """Warn of parameters that differ between runs although they weren't swept."""
    keys = sorted({key for run in runs for key in run.params} - {*IGNORED, *axes})
    for key in keys:
        if len(values := sorted({run.params.get(key, "-") for run in runs})) > 1:
            warnings.append(f"{algorithm} on {env}: {key} is {' and '.join(values)}, but it is not swept.")
