"""Estimates of the memory that a run needs, to refuse a run that can't fit before it starts."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from pgzoo.config import RunConfig
from pgzoo.errors import UsageError
from pgzoo.tracking.ledger import plural
from pgzoo.types import Collection, Spec, Steps

__all__ = ["check_memory", "name_lack_of_memory", "note_memory", "rollout_bytes"]

_log = logging.getLogger("pgzoo")

BYTES_PER_PARAMETER = 16
"""Bytes per parameter: parameter, gradient and two Adam moments in float32."""

COPIES = 2
"""How often a rollout is in memory at once: as it was collected, and again in the batches that are cut from it."""

NOTED = 2**30
"""Size in bytes from which a run's rollouts are mentioned before it starts."""


def check_memory(config: RunConfig, spec: Spec, collection: Collection, members: int) -> None:
    """Check that the rollouts, and the hidden layers of the policy, can fit into this machine's memory.

    Raises:
        UsageError: they can't.
    """
    memory = _machine_memory()
    if not memory:
        return
    rollouts = rollout_bytes(config, spec, collection, members)
    if rollouts > memory:
        raise UsageError(
            f"{_rollouts(config, spec, collection, members)} need {_gib(rollouts)}, and this machine has "
            f"{_gib(memory)}. Use fewer seeds, a smaller num_envs or a smaller rollout_steps."
        )
    parameters = _hidden_parameters(config, spec)
    needed = parameters * members * BYTES_PER_PARAMETER
    if needed > memory:
        raise UsageError(
            f"policy.hidden: {plural(members, 'network')} of {_count(parameters)} parameters would need "
            f"{_gib(needed)}, and this machine has {_gib(memory)}. Choose smaller layers or fewer seeds."
        )


@contextmanager
def name_lack_of_memory() -> Iterator[None]:
    """Turn a failed allocation, by numpy or by torch, into a UsageError that says what to make smaller.

    Raises:
        UsageError: the body needs more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first_line = str(error).partition("\n")[0]
        if isinstance(error, RuntimeError) and "memory" not in first_line:  # torch has no class of its own for a CPU
            raise
        raise UsageError(
            f"The policy and its environments don't fit into memory: {first_line}. Choose a smaller policy, fewer "
            "seeds or fewer environments."
        ) from error


def note_memory(config: RunConfig, spec: Spec, collection: Collection, members: int) -> None:
    """Log how much memory the rollouts need, if it is much."""
    needed = rollout_bytes(config, spec, collection, members)
    if needed >= NOTED:
        _log.warning("%s need %s of memory.", _rollouts(config, spec, collection, members), _gib(needed))


def rollout_bytes(config: RunConfig, spec: Spec, collection: Collection, members: int) -> int:
    """Return the bytes of the observations of all members' rollouts, `COPIES` times; 0 for whole episodes.

    How long whole episodes are isn't known in advance. Other parts of a rollout are much smaller than images.
    """
    if not isinstance(collection, Steps):
        return 0
    return COPIES * members * config.num_envs * (collection.count + 1) * _observation_bytes(spec)


def _observation_bytes(spec: Spec) -> int:
    space = spec.observation_space
    return math.prod(space.shape or (1,)) * np.dtype(space.dtype or np.float32).itemsize


def _hidden_parameters(config: RunConfig, spec: Spec) -> int:
    """Return the number of weights of the policy's hidden layers; behind convolutions, without those of the first."""
    settings: Any = config.policy.settings
    hidden = getattr(settings, "hidden", ())
    if not (isinstance(hidden, tuple) and hidden):
        return 0
    inputs = 1 if hasattr(settings, "filters") else math.prod(spec.observation_space.shape or (1,))
    return sum(before * after for before, after in pairwise((inputs, *hidden)))


def _rollouts(config: RunConfig, spec: Spec, collection: Collection, members: int) -> str:
    assert isinstance(collection, Steps)
    return (
        f"Rollouts of {_count(collection.count)} steps in {_count(config.num_envs)} environments for "
        f"{plural(members, 'seed')}, with observations of "
        f"{_observation_bytes(spec):,} bytes, stored once and once more in batches,"
    )


def _machine_memory() -> int:
    """Return the bytes of this machine's memory; 0 if that is unknown."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _count(number: int) -> str:
    """Format a number; one with over 18 digits only by its lower bound, because it may have hundreds."""
    return f"{number:,}" if number <= 10**18 else "over 10^18"


def _gib(size: int) -> str:
    return f"{_count((size + 2**29) // 2**30)} GiB" if size >= 10 * 2**30 else f"{size / 2**30:,.1f} GiB"
