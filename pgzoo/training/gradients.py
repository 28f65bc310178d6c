"""Differentiate a loss, for all members at once.

Members don't depend on each other: the gradient of the sum of their losses is each one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgzoo.ops.members import join, map_leaves, per_member
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.ops.optim import flatten, unflatten
from pgzoo.ops.order import sums_in_any_order
from pgzoo.types import Batch, Hyper, Loss, LossFunction, Params

__all__ = ["Evidence", "bad_rewards", "gradient", "hessian_product"]

GROUP_ROWS = 4096
"""Rows that are differentiated at once: with 64 hidden units, a megabyte for each intermediate result."""


def gradient(
    loss: LossFunction,
    policy: Any,
    params: Params,
    buffers: Params,
    batch: Batch,
    hyper: Hyper,
    only: str | tuple[str, ...] = "",
    *,
    padded: bool = True,
) -> tuple[Loss, Tensor]:
    """Differentiate `loss`: what it gives, and each member's gradient end to end, `[S, P]`.

    The gradient is 0 for parameters whose names don't begin with `only`, or with any of several.

    Members are taken in groups whose intermediate results stay in the processor's cache, each with no more padding than
    its own longest member needs. As members don't depend on each other, neither do the numbers. Unless it is
    `padded`, a batch is taken as it is, and summed in any order.
    """
    parts = []
    groups = _groups(batch) if padded else [(slice(None), batch.weights.shape[-1])]
    for rows, columns in groups:
        part = batch if len(groups) == 1 else _cut_group(batch, rows, columns)
        leaves = {name: value[rows].detach() for name, value in params.items()}
        learned = [leaf.requires_grad_() for name, leaf in leaves.items() if name.startswith(only)]
        everything = leaves | {name: value[rows] for name, value in buffers.items()}
        with sums_in_any_order(not padded):
            found = loss(policy, everything, part, hyper if len(groups) == 1 else Hyper.rows(hyper, rows))
        result = found if isinstance(found, Loss) else Loss(found, {})
        check_shape("a loss", result.value, part.weights.shape[:1])
        for name, metric in result.metrics.items():
            check_shape(f"metric {name}", metric, result.value.shape)
        gradients = iter(torch.autograd.grad(result.value.sum(), learned, materialize_grads=True))
        pieces = [next(gradients) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves.values()]
        parts.append((map_leaves(Tensor.detach, result), flatten(pieces)))
    results, vectors = zip(*parts, strict=True)
    return join(results), torch.cat(vectors)


def hessian_product(
    scalar: Callable[[Any, Params, Batch, Hyper], Tensor],
    policy: Any,
    params: Params,
    buffers: Params,
    batch: Batch,
    hyper: Hyper,
    only: str = "",
) -> Callable[[Tensor], Tensor]:
    """Return the product with the Hessian of `scalar`, `[S, P] -> [S, P]`, by differentiating twice.

    `scalar` is `[S]`, as a loss is. Rows and columns of parameters whose names don't begin with `only` are 0.

    Source: Pearlmutter (1994), Fast exact multiplication by the Hessian.
    """
    leaves = {name: value.detach() for name, value in params.items()}
    names = [name for name in leaves if name.startswith(only)]
    learned = [leaves[name].requires_grad_() for name in names]
    value = scalar(policy, leaves | buffers, batch, hyper).sum()
    first = torch.autograd.grad(value, learned, create_graph=True, materialize_grads=True)

    def product(vector: Tensor) -> Tensor:
        parts = unflatten(vector, params)
        along = torch.stack([(g * parts[name]).sum() for g, name in zip(first, names, strict=True)]).sum()
        second = torch.autograd.grad(along, learned, retain_graph=True, materialize_grads=True)
        found = dict(zip(names, second, strict=True))
        return flatten(found.get(name, torch.zeros_like(leaf)) for name, leaf in leaves.items())

    return product


def check_shape(what: str, value: Tensor, expected: Sequence[int]) -> None:
    """Raise ValueError if `value` hasn't the shape `[S]` that is expected of a loss or metric."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{what} is one number per member, shape {list(expected)}; got {list(value.shape)}")


def _cut_group(batch: Batch, rows: slice, columns: int) -> Batch:
    """Some members' part of a batch, and of that the first columns."""
    part: Batch = map_leaves(itemgetter(rows), batch)
    if columns == batch.weights.shape[-1]:
        return part
    part = part._replace(inputs=part.inputs._replace(memory=None))
    return map_leaves(lambda leaf: leaf[:, :, :columns], part)  # type: ignore[no-any-return]


def _groups(batch: Batch) -> list[tuple[slice, int]]:
    """Cut the members into groups of about `GROUP_ROWS` rows; each comes with the columns it needs of `[S, T, B]`."""
    weights = batch.weights
    if weights.numel() <= GROUP_ROWS or len(weights) == 1:
        return [(slice(None), weights.shape[-1])]
    groups = []
    steps, width = weights.shape[1:]
    if batch.inputs.memory is not None or width % ROW_BLOCK:  # sequences, and batches of a size of their own
        needed = [width] * len(weights)
    else:
        filled = (weights.amax(1) > 0).numpy()
        needed = [-(-int(row.nonzero()[0].max(initial=0) + 1) // ROW_BLOCK) * ROW_BLOCK for row in filled]
    first, longest = 0, 0
    for member, columns in enumerate(needed):
        size = (member - first + 1) * max(longest, columns) * steps
        if member > first and size > GROUP_ROWS:
            groups.append((slice(first, member), longest))
            first, longest = member, 0
        longest = max(longest, columns)
    return [*groups, (slice(first, len(needed)), longest)]


class Evidence(NamedTuple):
    """What a step came upon, of the members in `bad [S]`, which it left non-finite; in the order of the computation.

    `obs` and `advantages` are the largest of the batch in size, `[S]`; `before`, `gradient` and `reached` are `[S, P]`.
    """

    bad: Tensor
    obs: Tensor
    advantages: Tensor
    before: Tensor
    value: Tensor
    gradient: Tensor
    norm: Tensor
    reached: Tensor

    @classmethod
    def of(
        cls, bad: Tensor, batch: Batch, params: Params, value: Tensor, gradient: Tensor, norm: Tensor, reached: Tensor
    ) -> Evidence:
        """That of a step from `params` on a batch."""
        before = flatten(params.values())
        return cls(bad, largest(batch.inputs.obs), largest(batch.advantages), before, value, gradient, norm, reached)

    def over(self, earlier: Evidence) -> Evidence:
        """Keep of the members that aren't bad here what was found earlier."""
        found: Evidence = map_leaves(lambda new, old: torch.where(per_member(self.bad, new), new, old), self, earlier)
        return found

    def first(self, row: int, rewards: Tensor | None, like: Params) -> str:
        """Name the first tensor of a member that is not finite; `rewards` come before all others."""
        parts = (unflatten(vector, like) for vector in (self.before, self.gradient, self.reached))
        before, gradient, reached = parts
        candidates: list[tuple[str, Tensor]] = [
            *([] if rewards is None else [("rewards", rewards)]),
            ("observations", self.obs),
            ("advantages", self.advantages),
            *((f"parameter {name}", value) for name, value in before.items()),
            ("loss", self.value),
            *((f"gradient of {name}", value) for name, value in gradient.items()),
            ("norm of the gradient", self.norm),
            *((f"parameter {name}", value) for name, value in reached.items()),
        ]
        for name, value in candidates:
            if not torch.isfinite(value[row]).all():
                return non_finite(name, value[row])
        raise AssertionError("called for a member that is finite")


def bad_rewards(rewards: Tensor) -> dict[int, str]:
    """Return what is wrong with the `rewards [S, T, N]` of each member that has one that isn't finite."""
    if torch.isfinite(rewards).all():
        return {}
    bad = ~torch.isfinite(rewards).all(-1).all(-1)
    return {int(row): non_finite("rewards", rewards[row]) for row in bad.nonzero().flatten()}


def non_finite(name: str, values: Tensor) -> str:
    """Return the reason of a failure: the name of a tensor, and whether it holds a NaN or only infinities."""
    return f"{name}: {'NaN' if torch.isnan(values).any() else 'infinite'}"


def largest(x: Tensor) -> Tensor:
    """The largest of `x [S, ...]` in size, `[S]`: NaN where anything is, infinite where anything else is."""
    return x.abs().flatten(1).amax(1) if x.is_floating_point() else torch.zeros(len(x), device=x.device)
