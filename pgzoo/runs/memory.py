"""Estimates of the memory that a run needs, to refuse a run that can't fit before it starts."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from pgzoo.config import RunConfig
from pgzoo.errors import UsageError
from pgzoo.protocols import Policy
from pgzoo.tracking.ledger import plural
from pgzoo.training.gradients import GROUP_ROWS
from pgzoo.types import Collection, Spec, Steps

__all__ = ["check_memory", "name_lack_of_memory", "needed_memory", "note_memory", "return_freed_images"]

_log = logging.getLogger("pgzoo")

FLOAT = 4
"""Bytes of a float32."""

BYTES_PER_PARAMETER = 16
"""Bytes per parameter: parameter, gradient and two Adam moments in float32."""

VECTORS = 11
"""Vectors of all parameters in memory during a gradient step: parameters and two Adam moments before the update, before
the step and after it, the gradient, and aligned copies of the parameters."""

LIBRARIES = 40 * 2**20
"""Code and workspaces of libraries that are loaded in the first update."""

IMAGE_BYTES = 4096
"""Size from which an observation counts as an image."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""

LARGE_BLOCK = 3 * 2**20
"""Size in bytes from which freed blocks are returned at once: below that of 32 images of 4 x 84 x 84 in float32."""

KEPT_AT_THE_END = 64 * 2**20
"""Bytes of freed memory at the end of the heap that are kept, as many as glibc keeps by default at most."""

NOTED = 2**30
"""Size in bytes from which what a run adds to this process is mentioned before it starts."""


class Needed(NamedTuple):
    """Estimate of the memory that a run needs, in bytes.

    Attributes:
        rollouts: the observations of all members, as they are collected and as they are cut into batches; 0 for whole
            episodes, whose lengths aren't known. Other parts of a rollout are much smaller than images.
        policy: parameters, gradients, moments, and what a forward pass keeps for the backward pass.
        process: Python and the libraries.
    """

    rollouts: int
    policy: int
    process: int


def needed_memory(
    config: RunConfig, spec: Spec, collection: Collection, members: int, policy: Policy | None = None
) -> Needed:
    """Return an estimate for a run with all members in one process. Without a policy, its part is 0."""
    process = _resident() + LIBRARIES
    if not isinstance(collection, Steps):
        return Needed(0, 0, process)
    steps = collection.count * config.num_envs
    batch = -(-steps // getattr(config.settings, "minibatches", 1))
    rollouts = members * (steps + config.num_envs + batch) * _observation_bytes(spec)
    if config.device != "cpu":
        return Needed(rollouts, 0, process)
    parameters, kept = getattr(policy, "footprint", (_hidden_parameters(config, spec), 0)) if policy else (0, 0)
    together = min(members, max(1, GROUP_ROWS // batch))  # members that are differentiated at once
    return Needed(rollouts, FLOAT * (VECTORS * members * parameters + together * batch * kept), process)


def check_memory(
    config: RunConfig, spec: Spec, collection: Collection, members: int, policy: Policy | None = None
) -> None:
    """Check that the run, or without a policy its rollouts and hidden layers, can fit into this machine's memory.

    Raises:
        UsageError: they can't.
    """
    memory = _machine_memory()
    if not memory:
        return
    parameters = _hidden_parameters(config, spec)
    if parameters * members * BYTES_PER_PARAMETER > memory:
        raise UsageError(
            f"policy.hidden: {plural(members, 'network')} of {_count(parameters)} parameters would need "
            f"{_gib(parameters * members * BYTES_PER_PARAMETER)}, and this machine has {_gib(memory)}. Choose smaller "
            "layers or fewer seeds."
        )
    needed = needed_memory(config, spec, collection, members, policy)
    if sum(needed) > memory:
        raise UsageError(
            f"This run would need {_described(needed, config, spec, collection, members)}. This machine has "
            f"{_gib(memory)}. Use fewer seeds, a smaller num_envs or a smaller rollout_steps."
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


def note_memory(config: RunConfig, spec: Spec, collection: Collection, members: int, policy: Policy) -> None:
    """Log how much memory the run needs, if it is much."""
    needed = needed_memory(config, spec, collection, members, policy)
    if needed.rollouts + needed.policy >= NOTED:  # a program that is large itself isn't mentioned
        _log.warning("This run needs about %s.", _described(needed, config, spec, collection, members))


def return_freed_images(spec: Spec) -> None:
    """If observations are images, make glibc return large blocks of memory to the system as soon as they are freed.

    By default it keeps them, puts smaller blocks in them, and takes new memory for the next large one: training from
    images then needs up to 40 MiB more. Returning costs 10 to 20% of the time of an update. It affects the whole
    process. Nothing happens with another C library, or if the environment variables of glibc's allocator are set.
    """
    configured = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if configured or not sys.platform.startswith("linux") or _observation_bytes(spec) < IMAGE_BYTES:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT_AT_THE_END)  # setting the other threshold would reduce this one to 128 KiB


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


def _described(needed: Needed, config: RunConfig, spec: Spec, collection: Collection, members: int) -> str:
    parts = [f"{_gib(needed.process)} for Python"]
    if needed.policy:
        parts.insert(0, f"{_gib(needed.policy)} for the policy and its optimizer")
    if isinstance(collection, Steps):
        parts.insert(
            0,
            f"{_gib(needed.rollouts)} for rollouts of {_count(collection.count)} steps in {_count(config.num_envs)} "
            f"environments for {plural(members, 'seed')}, with observations of {_observation_bytes(spec):,} bytes",
        )
    return f"{_gib(sum(needed))} of memory: {', '.join(parts[:-1])}{', and ' * (len(parts) > 1)}{parts[-1]}"


def _resident() -> int:
    """Return the bytes of main memory that this process takes now; 0 if that is unknown."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _machine_memory() -> int:
    """Return the bytes of this machine's memory; 0 if that is unknown."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _count(number: int) -> str:
    """Format a number; one with over 18 digits only by its lower bound, because it may have hundreds."""
    return f"{number:,}" if number <= 10**18 else "over 10^18"


def _gib(size: int) -> str:
    return f"{_count((size + 2**29) // 2**30)} GiB" if size >= 10 * 2**30 else f"{size / 2**30:,.1f} GiB"
