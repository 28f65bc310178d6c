"""The result of a search: its trials, and the best of them on fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo.analysis.statistics import Estimate, estimate
from pgzoo.search.space import choice_label

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Finalist", "SweepResult", "TrialRow", "format_settings"]


def format_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as `learning_rate=0.0003 estimator=gae`."""
    return " ".join(f"{key}={choice_label(value)}" for key, value in settings.items())


@dataclass(frozen=True)
class TrialRow:
    """A trial. `scores` has one number per seed; `score`, their interquartile mean, is None if it didn't finish.

    `status` is finished, pruned or failed.
    """

    number: int
    settings: Mapping[str, Any]
    status: str
    score: float | None
    scores: tuple[float, ...]
    reason: str
    run_keys: tuple[str, ...]
    env_steps: int

    def format_settings(self) -> str:
        """Return the settings as text."""
        return format_settings(self.settings)


@dataclass(frozen=True)
class Finalist:
    """One of the best trials, trained again with fresh seeds. `scores` has one number per fresh seed."""

    number: int
    settings: Mapping[str, Any]
    search_score: float
    scores: tuple[float, ...]
    run_keys: tuple[str, ...]

    @property
    def fresh(self) -> Estimate:
        """The interquartile mean over the fresh seeds, with its 95% interval."""
        return estimate([np.asarray(self.scores, np.float64)])

    @property
    def fresh_score(self) -> float:
        """The interquartile mean over the fresh seeds."""
        return self.fresh.value

    @property
    def shrinkage(self) -> float:
        """How much lower the score on fresh seeds is than the score in the search."""
        return self.search_score - self.fresh_score

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
        fresh = self.fresh
        return {
            "trial": self.number,
            "settings": dict(self.settings),
            "search_score": self.search_score,
            "fresh_score": fresh.value,
            "fresh_low": fresh.low,
            "fresh_high": fresh.high,
            "shrinkage": self.shrinkage,
            "fresh_scores": list(self.scores),
            "run_keys": list(self.run_keys),
        }


@dataclass(frozen=True)
class SweepResult:
    """What `pgzoo.sweep` returns.

    Attributes:
        study: name of the study; the same command with this name continues it.
        trials: a row per trial that has ended, in order.
        finalists: the best trials on fresh seeds, best first; empty if the search was interrupted before.
        winner: the finalist with the best score on fresh seeds.
        interrupted: whether Ctrl-C ended the search.
        planned: the number of trials that were asked for, or that have ended if these are more.
        folder: folder of the study.
        files: tables and plots in it.
        preset: the file with the winner's settings, if one was asked for.
        run_id: id of the study's MLflow run, if it was logged.
    """

    study: str
    algorithm: str
    env: str
    objective: str
    seeds: tuple[int, ...]
    trials: tuple[TrialRow, ...]
    finalists: tuple[Finalist, ...]
    winner: Finalist | None
    interrupted: bool
    planned: int
    folder: Path
    files: tuple[Path, ...] = ()
    preset: Path | None = None
    run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serializable dict that `--json` prints."""
        return {
            "study": self.study,
            "algorithm": self.algorithm,
            "env": self.env,
            "objective": self.objective,
            "statistic": "iqm",
            "seeds": list(self.seeds),
            "interrupted": self.interrupted,
            "planned": self.planned,
            "winner": self.winner.to_dict() if self.winner else None,
            "finalists": [finalist.to_dict() for finalist in self.finalists],
            "trials": [
                {
                    "trial": row.number,
                    "status": row.status,
                    "score": row.score,
                    "settings": dict(row.settings),
                    "scores": list(row.scores),
                    "reason": row.reason,
                    "run_keys": list(row.run_keys),
                    "env_steps": row.env_steps,
                }
                for row in self.trials
            ],
            "folder": str(self.folder),
            "files": [str(file) for file in self.files],
            "preset": str(self.preset) if self.preset else None,
            "run_id": self.run_id,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a data frame with one row per trial, and a column per searched setting."""
        import pandas as pd

        labels = [{key: choice_label(value) for key, value in row.settings.items()} for row in self.trials]
        return pd.DataFrame(
            [
                {"trial": row.number, "status": row.status, "score": row.score, **settings, "reason": row.reason}
                for row, settings in zip(self.trials, labels, strict=True)
            ]
        )

    def __repr__(self) -> str:
        best = f", winner {format_settings(self.winner.settings)}" if self.winner else ""
        return f"<SweepResult {self.study}: {len(self.trials)} of {self.planned} trials{best}>"
