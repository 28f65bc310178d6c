"""The result of a comparison as plain data: what the figures, the tables, the report and the MLflow log are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgzoo.analysis.blocks import Block, Profile, ScoreSummary, Side, final_score
from pgzoo.analysis.selection import Run
from pgzoo.analysis.statistics import CONFIDENCE
from pgzoo.tracking.home import Home, display_uri

__all__ = ["ComparisonData"]


@dataclass(frozen=True)
class ComparisonData:
    """Two or more sides, compared in each environment and, if there are several environments, over all of them."""

    metric: str
    """Name of the metric that the curves show."""
    score: str
    """Name of the metric whose last value is the final score."""
    sides: tuple[Side, ...]
    blocks: tuple[Block, ...]
    """One per environment."""
    overall: Block | None
    """All environments together on normalized scores; None with one environment."""
    profile: Profile | None
    """Performance profiles over all environments; None with one environment."""
    differences: Mapping[str, tuple[str, ...]]
    """Settings in which the sides differ: the values of each side, by name of the setting."""
    warnings: tuple[str, ...]
    home: Home
    tracking_uri: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each side."""
        return tuple(side.label for side in self.sides)

    @property
    def envs(self) -> tuple[str, ...]:
        """The ids of the environments."""
        return tuple(block.env for block in self.blocks if block.env is not None)

    @property
    def title(self) -> str:
        """For example `a vs b on CartPole-v1`."""
        return f"{' vs '.join(self.labels)} on {', '.join(self.envs)}"

    @property
    def all_blocks(self) -> tuple[Block, ...]:
        """The block of each environment, then the one over all environments if there is one."""
        return (*self.blocks, *((self.overall,) if self.overall else ()))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serializable dict that `--json` prints."""
        return {
            "envs": list(self.envs),
            "metric": self.metric,
            "score": self.score,
            "confidence": CONFIDENCE,
            "sides": [
                {"label": side.label, "kind": side.kind, "runs": [self.run_row(run) for run in side.runs]}
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

    def run_row(self, run: Run) -> dict[str, Any]:
        """Return one run's score, status and names."""
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

    def run_rows(self) -> list[dict[str, Any]]:
        """Return one row per run."""
        return [{"side": side.label, **self.run_row(run)} for side in self.sides for run in side.runs]

    def score_rows(self) -> list[dict[str, Any]]:
        """Return one row per environment and side: IQM, mean and median of the scores, with the limits of each.

        Rows over all environments have "all" as their environment and normalized scores. The columns of the area
        under the curve are None where there are no curves.
        """
        rows = []
        for block in self.all_blocks:
            for place, label in enumerate(self.labels):
                row: dict[str, Any] = {"env": block.env or "all", "side": label, "seeds": block.final[place].seeds}
                row |= estimate_columns("", block.final[place])
                row |= estimate_columns("area_", block.area[place] if block.area else None)
                rows.append(row)
        return rows

    def pair_rows(self) -> list[dict[str, Any]]:
        """Return one row per environment and pair of sides: probability of improvement, difference of means."""
        rows = []
        for block in self.all_blocks:
            for pair in block.pairs:
                row: dict[str, Any] = {"env": block.env or "all", "a": pair.a, "b": pair.b}
                for name, found in (("improvement", pair.improvement), ("difference", pair.difference)):
                    row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
                row |= {"settled": pair.settled, "more_seeds": pair.more_seeds, "verdict": pair.verdict}
                rows.append(row)
        return rows


def estimate_columns(prefix: str, summary: ScoreSummary | None) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for name in ("iqm", "mean", "median"):
        found = getattr(summary, name) if summary else None
        columns[f"{prefix}{name}"] = found.value if found else None
        columns[f"{prefix}{name}_low"] = found.low if found else None
        columns[f"{prefix}{name}_high"] = found.high if found else None
    return columns
