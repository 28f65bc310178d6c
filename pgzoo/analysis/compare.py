"""Comparing runs: seeds are the unit of replication, and every number comes with what is known about it.

comparison = pgzoo.compare("reinforce", "reinforce-baseline", env="CartPole-v1")
comparison.save("report.html")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pgzoo.analysis.blocks import Block, Profile, Side, across, final_score, within
from pgzoo.analysis.caveats import caveats, check_distinct, finished, narrowed, settings_apart
from pgzoo.analysis.selection import ProgressCallback, Run, RunIndex, SelectorKind, load
from pgzoo.analysis.statistics import CONFIDENCE
from pgzoo.errors import UsageError, did_you_mean
from pgzoo.tracking.home import Home, display_uri

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["Comparison", "compare"]

CURVE, FINAL = "train/return_mean", "summary/return_final"
RETURNS = (CURVE, "eval/return_mean", FINAL)
"""Metrics whose final score is the final evaluation's mean with sampled actions."""


@dataclass(frozen=True)
class Comparison:
    """Sides, compared in every environment that they share and, where there are several, over all of them."""

    metric: str
    """What the curves are of."""
    score: str
    """What the final scores are the last values of."""
    sides: tuple[Side, ...]
    blocks: tuple[Block, ...]
    overall: Block | None
    profile: Profile | None
    differences: Mapping[str, tuple[str, ...]]
    """Settings that tell the sides apart, with each side's values."""
    warnings: tuple[str, ...]
    home: Home
    tracking_uri: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The selectors."""
        return tuple(side.label for side in self.sides)

    @property
    def envs(self) -> tuple[str, ...]:
        """The environments."""
        return tuple(block.env for block in self.blocks if block.env is not None)

    @property
    def title(self) -> str:
        """`a vs b on CartPole-v1`."""
        return f"{' vs '.join(self.labels)} on {', '.join(self.envs)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {
            "envs": list(self.envs),
            "metric": self.metric,
            "score": self.score,
            "confidence": CONFIDENCE,
            "sides": [
                {"label": side.label, "kind": side.kind, "runs": [self.row(run) for run in side.runs]}
                for side in self.sides
            ],
            "comparisons": [block.to_dict(self.labels) for block in self.blocks],
            "overall": self.overall.to_dict(self.labels) if self.overall else None,
            "differences": {
                key: dict(zip(self.labels, values, strict=True)) for key, values in self.differences.items()
            },
            "warnings": list(self.warnings),
            "tracking_uri": display_uri(self.tracking_uri),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row per run as a data frame."""
        import pandas as pd

        return pd.DataFrame([{"side": side.label, **self.row(run)} for side in self.sides for run in side.runs])

    def save(self, path: str | Path) -> Path:
        """Write the comparison as its ending says: .html, .png or .json. Raises UsageError if that can't be."""
        from pgzoo.analysis.report import render

        path = Path(path)
        try:
            path.write_bytes(render(self, path.suffix))
        except OSError as error:
            raise UsageError(f"Can't write {path}: {error.strerror}.") from error
        return path

    def log(self, command: str = "") -> str:
        """Log the comparison to MLflow as a run of its own and return its id. Raises StoreError."""
        from pgzoo.analysis.log import log

        return log(self, command)

    def row(self, run: Run) -> dict[str, Any]:
        """Return what is told of one run."""
        return {
            "env": run.env,
            "seed": run.seed if run.seed >= 0 else None,
            "score": final_score(run, self.score),
            "status": run.status,
            "last_step": int(run.steps[-1]) if run.steps.size else None,
            "name": run.name,
            "algorithm": run.algorithm,
            "group": run.group,
            "run_key": run.run_key,
            "run_id": run.run_id,
        }


class Grouped(Protocol):
    """What one command started, such as a `Result`."""

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
    """Compare the runs that two or more selectors mean, or the settings of one sweep, which a group alone means.

    A selector is a run key, an MLflow run id, a group, a name, an algorithm, an experiment, `tag:KEY=VALUE`,
    `param:KEY=VALUE` or a `Result`. `metric` is what the curves show (`train/return_mean`); the final score of a
    return is the mean of the final evaluation, of any other metric its last value. `progress(what, done, total)` hears
    how reading goes on.

    Raises UnknownName for a selector that means nothing, UsageError for one that can't be compared with the others,
    StoreError if the tracking store can't be read.
    """
    labels = [selector if isinstance(selector, str) else selector.group for selector in selectors]
    catalog = RunIndex(Home.find(), tracking_uri, progress)
    warnings = catalog.warnings
    kinds: dict[str, SelectorKind] = {}
    meant: dict[str, list[Run]] = {}
    for label in labels:
        kinds[label], meant[label] = catalog.select(label)
    if list(kinds.values()) == ["group"]:
        meant = by_title(meant[labels[0]])
        kinds, labels = dict.fromkeys(meant, "name"), list(meant)
    check_labels(labels)
    envs = environments(meant, [env] if isinstance(env, str) else env)
    chosen = {
        label: narrowed(label, kinds[label], [run for run in runs if run.env in envs], warnings)
        for label, runs in meant.items()
    }
    check_distinct(chosen)
    curve = metric or CURVE
    score = FINAL if curve in RETURNS else curve
    everything = load([run for runs in chosen.values() for run in runs], curve, progress)
    loaded = iter(everything)
    sides = [
        Side(label, kinds[label], finished(label, [next(loaded) for _ in runs], warnings))
        for label, runs in chosen.items()
    ]
    check_scores(sides, envs, curve, score, everything)
    for name in envs:
        where = f"{name}: " if len(envs) > 1 else ""
        warnings += [f"{where}{caveat}" for caveat in caveats(sides, name, score, curve)]
    blocks = tuple(within(sides, name, score) for name in envs)
    overall, profile = across(labels, blocks) if len(envs) > 1 else (None, None)
    return Comparison(
        metric=curve,
        score=score,
        sides=tuple(sides),
        blocks=blocks,
        overall=overall,
        profile=profile,
        differences=settings_apart(sides),
        warnings=tuple(warnings),
        home=catalog.home,
        tracking_uri=catalog.uri,
    )


def by_title(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of a group by setting, which in a sweep have a name each."""
    titles = sorted({run.title for run in runs})
    return {title: [run for run in runs if run.title == title] for title in titles}


def check_labels(labels: Sequence[str]) -> None:
    if len(labels) < 2:
        raise UsageError(
            "Give two or more selectors, or one sweep's group, such as: pgzoo compare reinforce ppo --env CartPole-v1"
        )
    if twice := [label for place, label in enumerate(labels) if label in labels[:place]]:
        raise UsageError(f'"{twice[0]}" is given twice.')


def environments(runs: Mapping[str, Sequence[Run]], wanted: Sequence[str] | None) -> list[str]:
    """Return the environments to compare in. Raises UsageError unless every side was run in each of them."""
    known = {label: sorted({run.env for run in found}) for label, found in runs.items()}
    for env in wanted or ():
        for label, of in known.items():
            if env not in of:
                raise UsageError(f'"{label}" has no run on {env}, only on {", ".join(of)}.{did_you_mean(env, of)}')
    if wanted:
        return list(dict.fromkeys(wanted))
    shared = sorted(set.intersection(*map(set, known.values())))
    if any(of != shared for of in known.values()):
        listing = "; ".join(f"{label} on {', '.join(of)}" for label, of in known.items())
        advice = f"Choose with --env {shared[0]}." if shared else "They have none in common."
        raise UsageError(f"The runs are on different environments: {listing}. {advice}")
    return shared


def check_scores(sides: Sequence[Side], envs: Sequence[str], metric: str, score: str, runs: Iterable[Run]) -> None:
    """Raise UsageError if a side has nothing to compare in an environment."""
    known = sorted({name for run in runs for name in run.metrics})
    for side in sides:
        for env in envs:
            here = side.on(env)
            asked = metric if metric != CURVE else score  # without a training episode there may be an evaluation
            if not any(run.steps.size or (asked == score and score in run.metrics) for run in here):
                raise UsageError(
                    f'No run of "{side.label}" on {env} has the metric {metric}.{did_you_mean(metric, known)} '
                    f"There are: {', '.join(known) or 'none'}."
                )
            if all(final_score(run, score) is None for run in here):
                raise UsageError(f'No run of "{side.label}" on {env} has a final score ({score}).')
