"""The finals of a search: its best trials are trained again with fresh seeds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence

from pgzoo.config import RunConfig
from pgzoo.registry import PluginCatalog
from pgzoo.search.display import Display
from pgzoo.search.options import SearchOptions
from pgzoo.search.result import Finalist, TrialRow
from pgzoo.search.study import Study
from pgzoo.search.trial import Candidate, batches, train_batch

__all__ = ["best_rows", "fresh_seeds", "train_finalists"]

_log = logging.getLogger("pgzoo")


def train_finalists(
    study: Study,
    catalog: PluginCatalog,
    command: str,
    display: Display,
    candidate: Callable[[TrialRow, tuple[int, ...]], Candidate],
) -> tuple[tuple[Finalist, ...], bool]:
    """Train the best trials with fresh seeds; return them, and whether this was interrupted.

    Scores that the study has from an earlier call are used again. `candidate(row, seeds)` returns what is trained for a
    trial.
    """
    seeds = fresh_seeds(study.options, study.base)
    best = best_rows(study.rows(), study.options.top)
    stored = study.optuna.user_attrs
    missing = [row for row in best if stored.get(f"fresh.{row.number}", {}).get("seeds") != list(seeds)]
    interrupted = False
    for group in batches([candidate(row, seeds) for row in missing]):
        with display.training([one.number for one in group], fresh=True):
            done = train_batch(group, study.options.objective, catalog, command=command)
        for outcome in done:
            if outcome.status == "finished":
                about = {"seeds": seeds, "scores": outcome.scores, "run_keys": outcome.run_keys}
                study.optuna.set_user_attr(f"fresh.{outcome.number}", about)
            elif outcome.status == "failed":
                _log.warning("Trial %s failed on fresh seeds: %s", outcome.number, outcome.reason)
        if interrupted := any(outcome.status == "interrupted" for outcome in done):
            break
    stored = study.optuna.user_attrs
    found = [
        Finalist(row.number, row.settings, row.score or 0.0, tuple(about["scores"]), tuple(about["run_keys"]))
        for row in best
        if (about := stored.get(f"fresh.{row.number}")) and about["seeds"] == list(seeds)
    ]
    return tuple(found), interrupted


def fresh_seeds(options: SearchOptions, base: RunConfig) -> tuple[int, ...]:
    """Return the seeds with which the best trials are trained again."""
    count, first = options.fresh_seeds or 2 * len(base.seeds), max(base.seeds) + 1
    return tuple(range(first, first + count))


def best_rows(rows: Sequence[TrialRow], count: int) -> list[TrialRow]:
    """Return the `count` finished trials with the best scores, best first, each setting once."""
    ranked = sorted((row for row in rows if row.score is not None), key=lambda row: (-(row.score or 0.0), row.number))
    distinct = {json.dumps(row.settings, sort_keys=True): row for row in reversed(ranked)}
    return [row for row in ranked if row in distinct.values()][:count]
