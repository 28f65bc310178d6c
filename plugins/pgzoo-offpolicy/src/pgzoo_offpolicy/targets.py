"""Targets of the critics, and target networks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.ops.optim import flatten, unflatten
from pgzoo.types import Params, TrainState

__all__ = ["move_targets", "select_named", "target_params", "td_target"]


def td_target(rewards: Tensor, terminated: Tensor, next_values: Tensor, gamma: Tensor) -> Tensor:
    """Return r + γ V(s'), or r where the episode was terminated, `[S, T, B]`.

    The value after a truncation counts: the episode would have continued.
    """
    return torch.where(terminated, rewards, rewards + gamma * next_values)


def select_named(params: Params, prefixes: tuple[str, ...]) -> Params:
    """Return the tensors whose names start with one of the prefixes."""
    return {name: leaf for name, leaf in params.items() if name.startswith(prefixes)}


def target_params(state: TrainState, name: str, prefixes: tuple[str, ...]) -> Params:
    """Return the target networks, the buffer `name [S, P]`, under the names of the parameters that they follow."""
    return unflatten(state.buffers[name], select_named(state.params, prefixes))


def move_targets(
    state: TrainState, name: str, prefixes: tuple[str, ...], tau: Tensor, moving: NDArray[np.bool_]
) -> TrainState:
    """Return the state with the target networks moved toward the parameters by θ' ← θ' + τ (θ - θ').

    Shapes: `tau [S]`; `moving [S]` are the members whose targets move. The buffer `name [S, P]` holds the targets.
    """
    target = state.buffers[name]
    learned = flatten(select_named(state.params, prefixes).values())
    moved = target + tau[:, None] * (learned - target)
    mask = torch.from_numpy(moving[:, None]).to(target.device)
    return state._replace(buffers=state.buffers | {name: torch.where(mask, moved, target)})
