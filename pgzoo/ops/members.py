"""The member axis: select, concatenate and freeze members. A member is defined in `pgzoo.types`.

A tree is a NamedTuple or dict of leaves. A leaf is a tensor or array with the member axis first, or a plain tuple with
one entry of any type per member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import repeat
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "concat_members",
    "freeze",
    "map_leaves",
    "one_member",
    "per_member",
    "select",
    "stack_members",
    "surely_empty",
    "to_device",
]

Tree = TypeVar("Tree")


def map_leaves(leaf_fn: Callable[..., Any], *trees: Any) -> Any:
    """Apply `leaf_fn` to the corresponding leaves of trees of the same structure."""
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: map_leaves(leaf_fn, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(map_leaves(leaf_fn, *leaves) for leaves in zip(*trees, strict=True)))
    if hasattr(first, "map"):  # a distribution
        others = zip(*map(_tensors_of, trees[1:]), strict=True) if len(trees) > 1 else repeat(())
        return first.map(lambda leaf: leaf_fn(leaf, *next(others)))
    return leaf_fn(*trees)


def _tensors_of(dist: Any) -> list[Tensor]:
    """Return the tensors of a distribution, in the order in which its `map` visits them."""
    tensors: list[Tensor] = []

    def visit(leaf: Tensor) -> Tensor:
        tensors.append(leaf)
        return leaf

    dist.map(visit)
    return tensors


def select(tree: Tree, rows: Sequence[int]) -> Tree:
    """Return the tree of the members `rows`, in that order."""

    def pick(leaf: Any) -> Any:
        return tuple(leaf[row] for row in rows) if type(leaf) is tuple else leaf[list(rows)]

    return cast(Tree, map_leaves(pick, tree))


def one_member(tree: Tree, row: int) -> Tree:
    """Return the tree of one member without a copy: its tensors and arrays are views, which may not be aligned."""
    return cast(Tree, map_leaves(lambda leaf: leaf[row : row + 1], tree))


def concat_members(trees: Sequence[Tree]) -> Tree:
    """Return one tree with the members of all `trees`, in that order."""

    def stack(*leaves: Any) -> Any:
        if isinstance(leaves[0], Tensor):
            return torch.cat(leaves)
        if type(leaves[0]) is tuple:
            return sum(leaves, ())
        return np.concatenate(leaves)

    return cast(Tree, map_leaves(stack, *trees))


def stack_members(trees: Sequence[Tree]) -> Tree:
    """Stack `trees` of tensors without the member axis, one per member, into one tree."""
    return cast(Tree, map_leaves(lambda *leaves: torch.stack(leaves), *trees))


def freeze(active: NDArray[np.bool_], new: Tree, old: Tree) -> Tree:
    """Return `new` for active members and `old`, bit for bit, for the others."""
    if active.all():
        return new

    @cache
    def mask(device: torch.device) -> Tensor:
        return to_device(torch.from_numpy(active), device)

    def choose(fresh: Any, stale: Any) -> Any:
        if isinstance(fresh, Tensor):
            return torch.where(per_member(mask(fresh.device), fresh), fresh, stale)
        if type(fresh) is tuple:
            return tuple(f if a else s for f, s, a in zip(fresh, stale, active, strict=True))
        return np.where(active.reshape(-1, *[1] * (fresh.ndim - 1)), fresh, stale)

    return cast(Tree, map_leaves(choose, new, old))


def per_member(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `values` (`[S]`, or `[S, 1, 1]`) so that it broadcasts over a leaf `[S, ...]`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def to_device(tree: Tree, device: torch.device) -> Tree:
    """Return the tree with its tensors on `device`. Copies to the CPU block; copies to the device don't."""

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.device.type == device.type:
            return leaf
        if device.type == "cpu":
            return leaf.cpu()
        ready = leaf.pin_memory() if torch.cuda.is_available() else leaf  # a copy from pageable memory would block
        return ready.to(device, non_blocking=True)

    return cast(Tree, map_leaves(move, tree))


def surely_empty(members: Tensor) -> bool:
    """Return True if no member is marked in `members [S]`. On a GPU always False, to avoid waiting for the device."""
    return members.device.type == "cpu" and not members.numpy().any()  # faster than torch's for a few numbers
