"""Take many gradient steps with a compiled step, with as little Python between them as possible.

A compiled step is a function of a list of tensors. From one step to the next, only two parts of the list are replaced:
the tensors that a step changes, and the tensors of the batch, which are views of a stack of batches. Many members are
trained in groups whose intermediate results stay in the processor's cache. A member's results don't depend on its
group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count, cycle, islice
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgzoo.ops.members import concat_members, map_leaves
from pgzoo.ops.optim import unflatten
from pgzoo.training.compiling import Compiled, FlatFunction, leaves_of, own_copy
from pgzoo.training.gradient_step import GradientStepResult, StepInput
from pgzoo.training.minibatches import Minibatches, batch_of, batch_rows, stack_of
from pgzoo.training.step_loop import Kept, Places
from pgzoo.training.update_record import UpdateRecord
from pgzoo.types import Batch, Params

__all__ = ["StepsResult", "in_groups", "take_steps"]

GROUP_ROWS = 2048
"""Number of rows differentiated together: with 64 hidden units, each intermediate result takes 512 kilobytes."""


class StepsResult(NamedTuple):
    """The parameters `vector [S, P]` and the optimizer's state after some steps.

    `stepping [S]` (bool) are the members that no step has halted.
    """

    vector: Tensor
    optimizer: Params
    stepping: Tensor


def take_steps(
    step: Compiled, start: StepInput, batches: Iterable[Batch], record: UpdateRecord, like: Params
) -> StepsResult | None:
    """Take a step on each batch in turn from `start`, whose batch is None; return None if there are no batches.

    Metrics and failures are added to `record`. `like` has the names and shapes of the parameters.
    """
    groups, members = list[_Group](), len(start.vector)
    if isinstance(batches, Minibatches) and batches.lengths:
        groups = [_Group(start, rows) for rows in _split_by_length(start.stepping.tolist(), batches.lengths)]
        for group in groups:
            for stack in batches.select(group.rows.ids).stacks():
                group.advance(step, stack, record, like)
    else:
        for stack in batches.stacks() if isinstance(batches, Minibatches) else map(stack_of, batches):
            groups = groups or [_Group(start, rows) for rows in _split(members, stack.weights[0, 0].numel())]
            for group in groups:
                group.advance(step, group.rows.of(stack, 1), record, like)
    if not groups or not groups[0].batches:
        return None
    total, names = groups[0].batches, next(group.names for group in groups if group.names)
    metrics, counted = zip(*(group.metrics(total, len(names)) for group in groups), strict=True)
    none = Kept.zeros(total, len(names), members)
    record.metrics.add(names, _join(groups, metrics, none.metrics, 2), _join(groups, counted, none.counted, 1))
    return StepsResult(
        _join(groups, [group.now.vector for group in groups], start.vector),
        {
            name: _join(groups, [group.now.optimizer[name] for group in groups], leaf)
            for name, leaf in start.optimizer.items()
        },
        _join(groups, [group.now.stepping for group in groups], start.stepping),
    )


def in_groups(function: Callable[[Any], Any], tree: Any, members: int, rows: int) -> Any:
    """Return `function(tree)`, computed for groups of the members, which have `rows` rows each.

    The member axis is the first axis of every tensor in `tree` and in the result.
    """
    groups = _split(members, rows)
    if len(groups) == 1:
        return function(tree)
    parts = (map_leaves(itemgetter(group.own), function(group.of(tree, 0))) for group in groups)
    return concat_members(list(parts))


class _Rows(NamedTuple):
    """The members `ids` of a group, of all `members`.

    The results of those in the slice `own` are kept; the others only fill the group up, and occur elsewhere.
    """

    ids: tuple[int, ...]
    own: slice
    members: int

    def of(self, tree: Any, axis: int) -> Any:
        """Return the part of a tree that belongs to the members of the group; `axis` is the member axis."""
        first, size = self.ids[0], len(self.ids)
        if self.ids != tuple(range(first, first + size)):
            index = torch.tensor(self.ids)
            return map_leaves(lambda leaf: leaf.index_select(axis, index), tree)
        return tree if size == self.members else map_leaves(lambda leaf: leaf.narrow(axis, first, size), tree)

    def widen(self, leaf: Tensor) -> Tensor:
        """Return a tensor of the group's members as one of all members, with zeros for the others."""
        wide = leaf.new_zeros(self.members, *leaf.shape[1:])
        wide[list(self.ids)] = leaf
        return wide


def _split(members: int, rows: int) -> list[_Rows]:
    """Split members with `rows` rows each into groups of equal size, so that all use the same compiled function.

    A member in a group of its own would be computed with other rounding, so there is none, unless it trains alone.
    """
    groups = -(-members // max(2, GROUP_ROWS // rows))
    size = -(-members // groups)
    firsts = [min(k * size, members - size) for k in range(groups)]
    indices = [tuple(range(first, first + size)) for first in firsts]
    return [_Rows(index, slice(k * size - index[0], size), members) for k, index in enumerate(indices)]


def _split_by_length(stepping: Sequence[bool], lengths: Sequence[int]) -> list[_Rows]:
    """Split the members that take steps into groups of similar `lengths`, whose batches need little padding.

    The size of a group depends on its longest member, so that few functions are compiled; the members of the last group
    are repeated up to this size.
    """
    members = len(lengths)
    left = sorted((m for m in range(members) if stepping[m]), key=lambda m: lengths[m])
    groups = list[_Rows]()
    while left:
        size = min(members, max(2, GROUP_ROWS // batch_rows(lengths[left[-1]])))
        left, own = left[:-size], sorted(left[-size:])
        ids = tuple(islice(cycle(own), size))
        groups.append(_Rows(ids, slice(0, len(own)), members))
    return groups


def _join(groups: Sequence[_Group], parts: Sequence[Tensor], others: Tensor, axis: int = 0) -> Tensor:
    """Join the tensors of all groups along the member axis; `others` has what members in no group get."""
    if groups[0].rows.ids == tuple(range(others.shape[axis])):
        return own_copy(parts[0])
    joined = others.clone()
    for group, part in zip(groups, parts, strict=True):
        own = group.rows.own
        joined.index_copy_(axis, torch.tensor(group.rows.ids[own]), part.narrow(axis, own.start, own.stop - own.start))
    return joined


class _Group:
    """Some of the members, and the input of their next step."""

    def __init__(self, start: StepInput, rows: _Rows) -> None:
        self.rows, self.names = rows, tuple[str, ...]()
        self.now: StepInput = rows.of(start, 0)
        self._batch: list[torch.Size] = []
        self._flat: FlatFunction | None = None
        self._kept: list[Kept] = []
        self.batches = 0
        """The number of batches that it was given."""
        self._any_stepping = bool(self.now.stepping.any())

    def advance(self, step: Compiled, stack: Batch, record: UpdateRecord, like: Params) -> None:
        """Take a step on each batch of the group's stack `[K, S, T, B, ...]`, until all members are halted."""
        self.batches += len(stack.weights)
        if not self._any_stepping:
            return
        stack_leaves = leaves_of(stack)
        first = 1 + len(self.now.optimizer) + len(self.now.buffers)  # the position of the batch among the leaves
        leaves = leaves_of(self.now)
        leaves[first:first] = [leaf[0] for leaf in stack_leaves]
        shapes = [leaf.shape for leaf in stack_leaves]
        if self._flat is None or shapes != self._batch:
            self._flat, self._batch = step.flat(lambda: self.now._replace(batch=batch_of(stack, 0)), leaves), shapes
        outputs = self._flat.result(count())
        carried = list(enumerate([outputs.vector, *(outputs.optimizer[name] for name in self.now.optimizer)]))
        if outputs.stepping is not None:
            carried.append((len(leaves) - 1, outputs.stepping))
        self.names = outputs.names
        places = Places(first, tuple(carried), outputs.flags, outputs.metrics, outputs.counted)
        loop, k, steps = step.loop(self._flat), 0, len(stack.weights)
        kept = Kept.zeros(steps, len(self.names), len(self.now.vector))
        self._kept.append(kept)
        while k < steps and self._any_stepping:
            if loop is not None:
                taken = loop(leaves, stack_leaves, places, k, kept)
                k, self._any_stepping = taken.next, taken.going
                for (place, _), leaf in zip(carried, taken.carried, strict=True):
                    leaves[place] = leaf
                if k == steps or not self._any_stepping:
                    break
            # without a loop in C, and where a member fails in the next step, which is reported
            leaves[first : first + len(stack_leaves)] = [leaf[k] for leaf in stack_leaves]
            results = self._flat.run(leaves)
            kept.metrics[k], kept.counted[k] = results[places.metrics], results[places.counted]
            any_failed, self._any_stepping = results[places.flags].tolist()
            if any_failed:
                self._report(record, batch_of(stack, k), leaves[0], self._flat.result(results), like)
            for place, result in carried:
                leaves[place] = results[result]
            k += 1
        optimizer = dict(zip(self.now.optimizer, leaves[1:], strict=False))
        self.now = self.now._replace(vector=leaves[0], optimizer=optimizer, stepping=leaves[-1])

    def _report(
        self, record: UpdateRecord, batch: Batch, before: Tensor, result: GradientStepResult, like: Params
    ) -> None:
        """Record a step from `before` that made something of a member not finite."""
        widen = self.rows.widen
        params, tensors = unflatten(widen(before), like), (result.value, result.gradient, result.norm, result.reached)
        record.add_failed_step(widen(result.failed), lambda: map_leaves(widen, batch), params, *map(widen, tensors))

    def metrics(self, steps: int, names: int) -> tuple[Tensor, Tensor]:
        """Return the metrics of K steps, `[K, M, S]`, and whose metrics count, `[K, S]` (bool).

        `names` is M. No member counts in steps after the group's last step.
        """
        missing = steps - sum(len(kept.counted) for kept in self._kept)
        metrics, counted = zip(*self._kept, Kept.zeros(missing, names, len(self.now.vector)), strict=True)
        return torch.cat(metrics), torch.cat(counted)
