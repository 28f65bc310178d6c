"""Differentiation of a loss, for all members at once.

The loss of a member depends only on its own parameters, so the gradient of the summed losses consists of every member's
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from pgzoo.ops.members import concat_members, map_leaves
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.ops.optim import flatten, unflatten
from pgzoo.ops.order import sums_in_any_order
from pgzoo.types import Batch, Hyper, Loss, LossFunction, Params

__all__ = ["check_metrics", "check_shape", "gradient", "hessian_product"]

RETURN = "return a tensor [S], or pgzoo.types.Loss(value, metrics)"
REDUCE = "Reduce over the rows only: weighted_mean(x, batch.weights) of pgzoo.ops.losses returns one number per seed"
"""Advice on what a loss function returns, for messages."""

GROUP_ROWS = 4096
"""Number of rows differentiated together: with 64 hidden units, each intermediate result takes a megabyte."""


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
    """Return the loss and each member's gradient as one vector, `[S, P]`.

    The gradient is 0 for parameters whose names don't start with `only`, or with any of them if it is a tuple.

    With `padded`, members are differentiated in groups small enough that intermediate results stay in the processor's
    cache, each with no more padding than its longest member needs; results don't depend on the grouping. Without it,
    the batch is differentiated as a whole, and sums use the fastest order.
    """
    check_prefixes(only, params)
    parts = []
    groups = _groups(batch) if padded else [(slice(None), batch.weights.shape[-1])]
    for rows, columns in groups:
        part, mine, fixed = batch, params, buffers
        if len(groups) > 1:
            part = _cut_group(batch, rows, columns)
            mine, fixed = map_leaves(itemgetter(rows), params), map_leaves(itemgetter(rows), buffers)
        leaves = {name: value.detach() for name, value in mine.items()}
        learned = [leaf.requires_grad_() for name, leaf in leaves.items() if name.startswith(only)]
        everything = leaves | fixed
        with sums_in_any_order(not padded):
            found = loss(policy, everything, part, hyper if len(groups) == 1 else Hyper.rows(hyper, rows))
        result = _checked(found, part.weights.shape[:1])
        gradients = iter(torch.autograd.grad(result.value.sum(), learned, materialize_grads=True))
        pieces = [next(gradients) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves.values()]
        parts.append((map_leaves(Tensor.detach, result), flatten(pieces)))
    if len(parts) == 1:
        return parts[0]
    results, vectors = zip(*parts, strict=True)
    return concat_members(results), torch.cat(vectors)


def hessian_product(
    scalar: Callable[[Any, Params, Batch, Hyper], Tensor],
    policy: Any,
    params: Params,
    buffers: Params,
    batch: Batch,
    hyper: Hyper,
    only: str | tuple[str, ...] = "",
) -> Callable[[Tensor], Tensor]:
    """Return the function that multiplies a vector `[S, P]` by the Hessian of `scalar`, by differentiating twice.

    `scalar` returns `[S]`, as a loss does. Rows and columns of parameters whose names don't start with `only` are 0.

    Source: Pearlmutter (1994), Fast exact multiplication by the Hessian.
    """
    check_prefixes(only, params)
    leaves = {name: value.detach() for name, value in params.items()}
    names = [name for name in leaves if name.startswith(only)]
    learned = [leaves[name].requires_grad_() for name in names]
    value = scalar(policy, leaves | buffers, batch, hyper).sum()
    first = torch.autograd.grad(value, learned, create_graph=True, materialize_grads=True)

    def product(vector: Tensor) -> Tensor:
        parts = unflatten(vector, params)
        along = torch.stack([(g * parts[name]).sum() for g, name in zip(first, names, strict=True)]).sum()
        if not along.requires_grad:  # `scalar` is linear in the parameters
            return torch.zeros_like(vector)
        second = torch.autograd.grad(along, learned, retain_graph=True, materialize_grads=True)
        found = dict(zip(names, second, strict=True))
        return flatten(found.get(name, torch.zeros_like(leaf)) for name, leaf in leaves.items())

    return product


def not_a_loss(found: Any) -> str:
    """Describe what a loss function has returned if it is neither a tensor nor a `Loss` with one, else return ""."""
    value = found.value if isinstance(found, Loss) else found
    if isinstance(value, Tensor):
        return ""
    what = "None" if value is None else type(value).__name__
    return f"a Loss whose value is {what}" if isinstance(found, Loss) else what


def _checked(found: Any, shape: Sequence[int]) -> Loss:
    """Return what a loss function has returned as a `Loss`. Raises TypeError or ValueError if that isn't one."""
    result = found if isinstance(found, Loss) else Loss(found, {})
    if other := not_a_loss(found):
        raise TypeError(f"the loss function returns {other}; {RETURN}")
    check_shape("a loss", result.value, shape)
    if not result.value.requires_grad:
        raise ValueError("the loss doesn't depend on the parameters: compute it from the argument params")
    check_metrics(result.metrics, shape)
    if result.halt is not None:
        if not isinstance(result.halt, Tensor) or result.halt.dtype != torch.bool:
            got = result.halt.dtype if isinstance(result.halt, Tensor) else type(result.halt).__name__
            raise TypeError(f"halt must be a tensor [S] of bool; got {got}")
        check_shape("halt", result.halt, shape)
    return result


def check_prefixes(only: str | tuple[str, ...], params: Params) -> None:
    """Raise ValueError if no parameter's name starts with `only`, or with one of the prefixes in it."""
    for prefix in (only,) if isinstance(only, str) else only:
        if prefix and not any(name.startswith(prefix) for name in params):
            raise ValueError(f'only="{prefix}": no parameter has a name that starts so. There are: {", ".join(params)}')
    if only == ():
        raise ValueError('only=() selects no parameter; only="" selects all')


def check_shape(what: str, value: Tensor, expected: Sequence[int]) -> None:
    """Raise ValueError if `value` doesn't have the shape `[S]` that is expected of a loss or metric."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{what} is one number per seed, shape {list(expected)}; got {list(value.shape)}. {REDUCE}")


def check_metrics(metrics: Mapping[str, Tensor], expected: Sequence[int]) -> None:
    """Raise TypeError if a metric isn't a tensor or its name isn't a text, ValueError if its shape isn't `[S]`."""
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a metric must be a text such as loss/policy; got {name!r}")
        if not isinstance(metric, Tensor):
            raise TypeError(f"metric {name} is a {type(metric).__name__}; it must be a tensor [S]")
        check_shape(f"metric {name}", metric, expected)


def _cut_group(batch: Batch, rows: slice, columns: int) -> Batch:
    """Return the part of a batch that belongs to the members `rows`, cut to the first `columns` of the axis B."""
    part: Batch = map_leaves(itemgetter(rows), batch)
    if columns == batch.weights.shape[-1]:
        return part
    part = part._replace(inputs=part.inputs._replace(memory=None))
    return map_leaves(lambda leaf: leaf[:, :, :columns], part)  # type: ignore[no-any-return]


def _groups(batch: Batch) -> list[tuple[slice, int]]:
    """Split the members into groups of about `GROUP_ROWS` rows; return each with the columns of B that it needs."""
    weights = batch.weights
    if weights.numel() <= GROUP_ROWS or len(weights) == 1:
        return [(slice(None), weights.shape[-1])]
    groups = []
    steps, width = weights.shape[1:]
    if batch.inputs.memory is not None or width % ROW_BLOCK:  # sequences, and batches that aren't padded to blocks
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
