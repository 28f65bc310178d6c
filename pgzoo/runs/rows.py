"""Checks that a gradient step gets enough rows: a row is one step of one environment."""

from __future__ import annotations

import logging
from typing import Any

from pgzoo.config import RunConfig
from pgzoo.errors import ConfigError
from pgzoo.types import Collection, Steps

__all__ = ["FEW_ROWS", "check_rows", "few_rows", "warn_of_few_rows"]

_log = logging.getLogger("pgzoo")

FEW_ROWS = 8
"""A mean and a standard deviation of fewer rows are mostly noise."""

REMEDY = "Lower minibatches, or raise num_envs or rollout_steps"


def check_rows(config: RunConfig, collection: Collection, memory: bool) -> None:
    """Raise an error for empty minibatches, and for standardized advantages of one row.

    Collections of whole episodes aren't checked, because their number of rows isn't known in advance.

    Raises:
        ConfigError: there are more minibatches than rows, or no minibatch has the two rows that standardizing needs.
    """
    sizes = _minibatch_sizes(config, collection, memory)
    if sizes is None:
        return
    smallest, largest = sizes
    settings: Any = config.settings
    minibatches = getattr(settings, "minibatches", 1)
    what = f'Algorithm "{config.algorithm}": an update collects {_rows(config, collection)}'
    if smallest < 1:
        raise ConfigError(f"{what}, too few for minibatches={minibatches}. {REMEDY}.")
    if largest < 2 and _standardizes(config):
        cut = f", cut into minibatches={minibatches}" if minibatches > 1 else ""
        raise ConfigError(
            f"{what}{cut}: one row per gradient step. The advantage of a single row can't be "
            f"standardized. {REMEDY}, or set normalize_advantages to false."
        )


def few_rows(config: RunConfig, collection: Collection, memory: bool) -> str:
    """Return a warning where advantages are standardized over fewer than `FEW_ROWS` rows; else an empty string."""
    sizes = _minibatch_sizes(config, collection, memory)
    if sizes is None or sizes[0] >= FEW_ROWS or not _standardizes(config):
        return ""
    return (
        f'Algorithm "{config.algorithm}": an update collects {_rows(config, collection)}, {sizes[0]} per gradient '
        f"step. Advantages standardized over so few rows are mostly noise. {REMEDY}."
    )


def warn_of_few_rows(config: RunConfig, collection: Collection, memory: bool) -> None:
    """Log what `few_rows` returns, if anything."""
    if text := few_rows(config, collection, memory):
        _log.warning("%s", text)


def _minibatch_sizes(config: RunConfig, collection: Collection, memory: bool) -> tuple[int, int] | None:
    """The numbers of rows of the smallest and the largest minibatch; None where they depend on the episodes.

    A policy with memory gets whole environments, and no more minibatches than there are environments.
    """
    if not isinstance(collection, Steps):
        return None
    count, steps, width = getattr(config.settings, "minibatches", 1), collection.count, config.num_envs
    if memory:
        count = min(count, width)
        return steps * (width // count), steps * -(-width // count)
    return steps * width // count, -(-steps * width // count)


def _standardizes(config: RunConfig) -> bool:
    return bool(getattr(config.settings, "normalize_advantages", False))


def _rows(config: RunConfig, collection: Collection) -> str:
    assert isinstance(collection, Steps)
    steps, rows = collection.count, collection.count * config.num_envs
    return f"{rows} row{'s' * (rows != 1)} ({steps} step{'s' * (steps != 1)} of num_envs={config.num_envs})"
