"""`pgzoo.compare`: compare runs with seeds as the unit of replication.

comparison = pgzoo.compare("reinforce", "reinforce-baseline", env="CartPole-v1")
comparison.save("report.html")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pgzoo.analysis import report
from pgzoo.analysis.blocks import Block, Profile, Side, across, final_score, within
from pgzoo.analysis.caveats import (
    caveats,
    check_distinct,
    finished,
    newest_setting,
    one_per_seed,
    pooled_algorithms,
    repeated,
    setting_differences,
)
from pgzoo.analysis.comparison import ComparisonData
from pgzoo.analysis.selection import FINAL, ProgressCallback, Run, RunIndex, SelectorKind, load
from pgzoo.errors import UsageError, did_you_mean
from pgzoo.tracking.home import Home

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


__all__ = ["Comparison", "compare"]

CURVE = "train/return_mean"
RETURNS = (CURVE, "eval/return_mean", FINAL)
"""Metrics whose final score is the mean return of the final evaluation with sampled actions."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `pgzoo.compare` returns. In a notebook it shows its figure and its tables."""

    data: ComparisonData
    """All numbers, for `pgzoo.analysis.figures`, `tables`, `report` and `log`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each side, which is its selector."""
        return self.data.labels

    @property
    def envs(self) -> tuple[str, ...]:
        """The ids of the environments."""
        return self.data.envs

    @property
    def title(self) -> str:
        """For example `a vs b on CartPole-v1`."""
        return self.data.title

    @property
    def metric(self) -> str:
        """Name of the metric that the curves show."""
        return self.data.metric

    @property
    def score(self) -> str:
        """Name of the metric whose last value is the final score."""
        return self.data.score

    @property
    def sides(self) -> tuple[Side, ...]:
        """The runs of each side."""
        return self.data.sides

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Scores, curves and pairs in each environment."""
        return self.data.blocks

    @property
    def overall(self) -> Block | None:
        """Normalized scores over all environments; None with one environment."""
        return self.data.overall

    @property
    def profile(self) -> Profile | None:
        """Performance profiles over all environments; None with one environment."""
        return self.data.profile

    @property
    def differences(self) -> Mapping[str, tuple[str, ...]]:
        """Settings in which the sides differ: the values of each side, by name of the setting."""
        return self.data.differences

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons for which the numbers may mislead, and runs that were left out."""
        return self.data.warnings

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serializable dict that `pgzoo compare --json` prints."""
        return self.data.to_dict()

    def to_frame(self, rows: Literal["runs", "scores", "pairs"] = "runs") -> pd.DataFrame:
        """Return a data frame.

        "runs" has one row per run. "scores" has one row per environment and side: IQM, mean and median of the final
        score and of the area under the curve, with the limits of their intervals. "pairs" has one row per environment
        and pair of sides: probability of improvement, difference of means, verdict.

        Raises UsageError for another value of `rows`.
        """
        import pandas as pd

        match rows:
            case "runs":
                return pd.DataFrame(self.data.run_rows())
            case "scores":
                return pd.DataFrame(self.data.score_rows())
            case "pairs":
                return pd.DataFrame(self.data.pair_rows())
        raise UsageError(f'A comparison has the frames "runs", "scores" and "pairs", not "{rows}".')

    def figure(self) -> Figure:
        """Return a matplotlib figure: learning curves and final scores, one row per environment."""
        from pgzoo.analysis.figures import curves_and_scores

        return curves_and_scores(self.data)

    def save(self, path: str | Path) -> Path:
        """Write the comparison as .html, .png, .pdf, .svg, .csv, .tex, .md or .json, and return the path.

        Raises UsageError for another extension, or if the file can't be written.
        """
        return report.save(self.data, path)

    def log(self, command: str = "") -> str:
        """Log the comparison to MLflow as a separate run and return its id. Raises StoreError."""
        from pgzoo.analysis.log import log

        return log(self.data, command)

    def __repr__(self) -> str:
        verdicts = "\n".join(
            f"  {block.env or 'all environments'}: {pair.a} vs {pair.b}: {pair.verdict}"
            for block in self.data.all_blocks
            for pair in block.pairs[:MAX_SHOWN]
        )
        return f"<Comparison {self.title}\n{verdicts}>"

    def _repr_html_(self) -> str:
        return report.notebook_view(self.data)


MAX_SHOWN = 10
"""Pairs per environment in the repr of a comparison."""


class Grouped(Protocol):
    """An object with the name of a group of runs, such as a `Result`."""

    @property
    def group(self) -> str:
        """The name of the group."""
        ...


def compare(
    *selectors: str | Grouped,
    env: str | Sequence[str] | None = None,
    metric: str | None = None,
    tracking_uri: str | None = None,
    progress: ProgressCallback = lambda what, done, total: None,
) -> Comparison:
    """Compare two or more selections of runs, or the settings of one sweep.

    Args:
        selectors: One per side. A selector is a run key, an MLflow run id, a group, a name, an algorithm, an
            experiment, `tag:KEY=VALUE`, `param:KEY=VALUE` or a `Result`. A single selector must be the group or
            name of a sweep; then each of its settings is a side.
        env: The environment or environments to compare in; by default all of them.
        metric: What the curves show; by default `train/return_mean`. The final score of a return is the mean of the
            final evaluation, that of any other metric is its last value.
        tracking_uri: The MLflow store to read beside the journals of this machine.
        progress: Called as `progress(what, done, total)` while runs are read; `total` is None if it is not known.

    Raises:
        UnknownName: A selector matches no run.
        UsageError: The sides can't be compared with each other.
        StoreError: The tracking store can't be read.
    """
    labels = [selector if isinstance(selector, str) else selector.group for selector in selectors]
    index = RunIndex(Home.find(), tracking_uri, progress)
    kinds: dict[str, SelectorKind] = {}
    selected: dict[str, list[Run]] = {}
    for label in labels:
        kinds[label], selected[label] = index.select(label)
    warnings = index.warnings
    if len(labels) == 1 and kinds[labels[0]] in ("group", "name"):
        selected = by_title(selected[labels[0]])
        kinds, labels = dict.fromkeys(selected, "name"), list(selected)
    check_labels(labels)
    envs = environments(selected, [env] if isinstance(env, str) else env)
    chosen = {label: [run for run in runs if run.env in envs] for label, runs in selected.items()}
    warnings += pooled_algorithms(chosen)
    chosen = {label: newest_setting(label, kinds[label], runs, warnings) for label, runs in chosen.items()}
    check_distinct(chosen)
    curve = metric or CURVE
    score = FINAL if curve in RETURNS else curve
    loaded = iter(load([run for runs in chosen.values() for run in runs], curve, progress))
    sides = []
    for label, runs in chosen.items():
        kept = one_per_seed(label, [next(loaded) for _ in runs], list(map(repeated, runs)), score, warnings)
        sides.append(Side(label, kinds[label], finished(label, kept, warnings)))
    check_scores(sides, envs, curve, score)
    for name in envs:
        where = f"{name}: " if len(envs) > 1 else ""
        warnings += [f"{where}{caveat}" for caveat in caveats(sides, name, score, curve)]
    blocks = tuple(within(sides, name, score) for name in envs)
    overall, profile = across(labels, blocks) if len(envs) > 1 else (None, None)
    return Comparison(
        ComparisonData(
            metric=curve,
            score=score,
            sides=tuple(sides),
            blocks=blocks,
            overall=overall,
            profile=profile,
            differences=setting_differences(sides),
            warnings=tuple(warnings),
            home=index.home,
            tracking_uri=index.uri,
        )
    )


def by_title(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Split runs by their name without the seed, which is different for each setting of a sweep."""
    titles = sorted({run.title for run in runs})
    return {title: [run for run in runs if run.title == title] for title in titles}


def check_labels(labels: Sequence[str]) -> None:
    if len(labels) < 2:
        raise UsageError(
            "Give two or more selectors, or the group or name of one sweep, such as: "
            "pgzoo compare reinforce ppo --env CartPole-v1"
        )
    if twice := [label for place, label in enumerate(labels) if label in labels[:place]]:
        raise UsageError(f'"{twice[0]}" is given twice.')


def environments(runs: Mapping[str, Sequence[Run]], requested: Sequence[str] | None) -> list[str]:
    """Return the environments to compare in. Raises UsageError unless every side has runs in each of them."""
    known = {label: sorted({run.env for run in found}) for label, found in runs.items()}
    for env in requested or ():
        for label, names in known.items():
            if env not in names:
                hint = did_you_mean(env, names)
                raise UsageError(f'"{label}" has no run on {env}, only on {", ".join(names)}.{hint}')
    if requested:
        return list(dict.fromkeys(requested))
    shared = sorted(set.intersection(*map(set, known.values())))
    if any(names != shared for names in known.values()):
        listing = "; ".join(f"{label} on {', '.join(names)}" for label, names in known.items())
        advice = f"Choose one with --env {shared[0]}." if shared else "They have none in common."
        raise UsageError(f"The runs are on different environments: {listing}. {advice}")
    return shared


def check_scores(sides: Sequence[Side], envs: Sequence[str], metric: str, score: str) -> None:
    """Raise UsageError if a side has no value of the metric, or no final score, in one of the environments."""
    for side in sides:
        for env in envs:
            here = side.on(env)
            known = sorted({name for run in here for name in run.metrics})
            required = metric if metric != CURVE else score  # a run without training episodes may have an evaluation
            if not any(run.steps.size or (required == score and score in run.metrics) for run in here):
                raise UsageError(
                    f'No run of "{side.label}" on {env} has the metric {metric}.{did_you_mean(metric, known)} '
                    f"There are: {', '.join(known) or 'none'}."
                )
            if all(final_score(run, score) is None for run in here):
                raise UsageError(f'No run of "{side.label}" on {env} has a final score ({score}).')
