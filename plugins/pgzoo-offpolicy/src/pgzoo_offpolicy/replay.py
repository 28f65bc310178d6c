"""A replay buffer: tensors in the buffers of a train state, so that they are part of every checkpoint.

Every tensor has the member axis first, `[S, capacity, ...]`. Writing returns new tensors. Because copying the whole
buffer in every update would be slow, transitions are first written to a small block, `[S, block, ...]`; when the block
is full, it is copied into the buffer. Both are read as one ring of `capacity` transitions.

Each update of a member writes the same number of transitions, so the write position follows from the member's number of
updates. Steps that only reset an environment are stored, too, with `valid` False.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.types import Array, Params, TrainState, Trajectory

__all__ = ["Transitions", "allocate", "read", "size_in_bytes", "stored", "transitions_of", "write"]

RING, BLOCK = "replay.", "replay.block."
"""Prefixes of the names of the tensors in `TrainState.buffers`."""

BLOCK_SIZE = 1024
"""Approximate size of the block, in transitions."""


class Transitions(NamedTuple):
    """Transitions; every leaf is `[S, B, ...]`.

    `next_obs` is the true final observation at the end of an episode. `valid` is False for steps that only reset an
    environment.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    terminated: Tensor
    valid: Tensor


def allocate(capacity: int, written: int, obs: Tensor, action_size: int) -> Params:
    """Return one member's empty buffer, without the member axis.

    Args:
        capacity: number of transitions, rounded up to a multiple of the block.
        written: number of transitions that each update writes.
        obs: an observation; only its shape and dtype are used.
        action_size: number of action dimensions.
    """
    block = written * max(1, min(BLOCK_SIZE, capacity) // written)
    sizes = {RING: -(-capacity // block) * block, BLOCK: block}
    return {
        prefix + name: torch.zeros(size, *shape, dtype=dtype)
        for prefix, size in sizes.items()
        for name, shape, dtype in (
            ("obs", obs.shape, obs.dtype),
            ("actions", (action_size,), torch.float32),
            ("rewards", (), torch.float32),
            ("next_obs", obs.shape, obs.dtype),
            ("terminated", (), torch.bool),
            ("valid", (), torch.bool),
        )
    }


def size_in_bytes(capacity: int, obs: Tensor, action_size: int) -> int:
    """Return about how many bytes one member's buffer takes; arguments as in `allocate`."""
    return capacity * (2 * obs.numel() * obs.element_size() + 4 * action_size + 4 + 2)


def transitions_of(trajectory: Trajectory, actions: Tensor) -> Transitions:
    """Return the steps of a trajectory `[S, T, N, ...]` as transitions `[S, T * N, ...]`, with `actions` as stored."""

    def rows(leaf: Tensor) -> Tensor:
        return leaf.flatten(1, 2)

    return Transitions(
        obs=rows(trajectory.obs[:, :-1]),
        actions=rows(actions),
        rewards=rows(trajectory.rewards),
        next_obs=rows(trajectory.obs[:, 1:]),
        terminated=rows(trajectory.terminated),
        valid=rows(trajectory.valid),
    )


def write(state: TrainState, new: Transitions) -> TrainState:
    """Return the state with the transitions of the current update written to the buffer, overwriting the oldest."""
    written = new.rewards.shape[1]
    block, capacity = (state.buffers[prefix + "rewards"].shape[1] for prefix in (BLOCK, RING))
    first = state.updates * written
    members = np.arange(len(first))
    rows = first[:, None] % block + np.arange(written)
    full = np.flatnonzero((first + written) % block == 0)
    to = (first[full, None] + written - block) % capacity + np.arange(block)
    changed = {}
    for name, leaf in new._asdict().items():
        device, known = leaf.device, state.buffers[BLOCK + name]
        fresh = known.index_put(_index(members, rows, device), leaf.to(known.dtype))
        changed[BLOCK + name] = fresh
        if full.size:
            ring = state.buffers[RING + name]
            changed[RING + name] = ring.index_put(_index(full, to, device), fresh[torch.from_numpy(full).to(device)])
    return state._replace(buffers=state.buffers | changed)


def stored(state: TrainState, written: int) -> NDArray[np.int64]:
    """Return the number of transitions that can be read after `write` in the current update, `[S]`."""
    return np.minimum((state.updates + 1) * written, state.buffers[RING + "rewards"].shape[1])


def read(state: TrainState, written: int, slots: Array) -> Transitions:
    """Return the transitions in `slots [S, B]`, integers from 0 to `stored(state, written)` - 1, after `write`."""
    block, capacity = (state.buffers[prefix + "rewards"].shape[1] for prefix in (BLOCK, RING))
    count = (state.updates + 1) * written
    offset = slots - (count - count % block)[:, None] % capacity
    recent = (offset >= 0) & (offset < (count % block)[:, None])  # these slots haven't been copied to the ring yet
    members = np.arange(len(slots))
    leaves = {}
    for name in Transitions._fields:
        ring = state.buffers[RING + name]
        leaf = ring[_index(members, slots, ring.device)]
        if recent.any():
            at = _index(members, np.where(recent, offset, 0), ring.device)
            chosen = torch.from_numpy(recent).to(ring.device).reshape(*slots.shape, *[1] * (leaf.ndim - 2))
            leaf = torch.where(chosen, state.buffers[BLOCK + name][at], leaf)
        leaves[name] = leaf
    return Transitions(**leaves)


def _index(members: Array, rows: Array, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the index of `rows [M, B]` of the `members [M]`."""
    return torch.from_numpy(members[:, None]).to(device), torch.from_numpy(rows).to(device)
