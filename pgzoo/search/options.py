"""The options of a search."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pgzoo.errors import ConfigError, UsageError
from pgzoo.extras import present
from pgzoo.search.trial import Objective

__all__ = ["PRUNERS", "SAMPLERS", "Pruner", "Sampler", "SearchOptions", "require_optuna"]

Sampler = Literal["tpe", "random", "grid", "cmaes", "qmc"]
Pruner = Literal["median", "hyperband", "none"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "random", "grid", "cmaes", "qmc")
PRUNERS: tuple[Pruner, ...] = ("median", "hyperband", "none")

STUDY_NAME = re.compile(r"\w[\w.-]{0,99}")


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search. See `sweep`."""

    space: Sequence[str] | Mapping[str, Any]
    trials: int = 40
    objective: Objective = "final"
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    storage: str | None = None
    study: str | None = None
    max_hours: float | None = None
    save_preset: str | None = None
    top: int = 3
    fresh_seeds: int | None = None
    batch: int | None = None
    sampler_seed: int = 0
    jobs: int = 1

    def check(self) -> None:
        """Raise ConfigError for an option that can't be used."""
        numbers = {"trials": self.trials, "top": self.top, "fresh_seeds": self.fresh_seeds, "batch": self.batch}
        numbers["jobs"] = self.jobs
        for name, number in numbers.items():
            whole = isinstance(number, int) and not isinstance(number, bool)
            if number is not None and not (whole and number >= 1):
                raise ConfigError(f"--{name.replace('_', '-')} must be a whole number of 1 or greater, got {number!r}.")
        if not isinstance(self.sampler_seed, int):
            raise ConfigError(f"--sampler-seed must be a whole number, got {self.sampler_seed!r}.")
        if self.max_hours is not None and not (isinstance(self.max_hours, int | float) and self.max_hours > 0):
            raise ConfigError(f"--max-hours must be greater than 0, got {self.max_hours!r}.")
        for name, value, known in (
            ("objective", self.objective, ("final", "auc")),
            ("sampler", self.sampler, SAMPLERS),
            ("pruner", self.pruner, PRUNERS),
        ):
            if value not in known:
                raise ConfigError(f"--{name} must be one of {', '.join(known)}, got {value!r}.")
        if self.study is not None and not STUDY_NAME.fullmatch(self.study):
            raise ConfigError(f"--study {self.study}: use letters, digits, '.', '_' and '-' (100 at most).")


def require_optuna() -> None:
    """Raise UsageError if Optuna isn't installed."""
    if not present("sweep"):
        raise UsageError('A hyperparameter search needs Optuna, which isn\'t installed: pip install "pgzoo[sweep]"')
