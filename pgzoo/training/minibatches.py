"""Cut a trajectory and its targets into batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.ops.members import map_leaves, to_device
from pgzoo.ops.nets import ROW_ALIGN, ROW_BLOCK
from pgzoo.types import Batch, Inputs, PolicyEvaluation, Targets, Trajectory

__all__ = ["Batcher", "Minibatches", "batch_rows", "flatten_steps", "padded_blocks"]

STACK_BYTES = 2**23
"""Minibatches are cut from a trajectory together, with one operation per leaf, if they take at most this many bytes."""

FINE_BLOCKS = 48
"""Smallest number of blocks that is no power of two, among the few numbers that batches are padded to."""

Order = Callable[[int, int], NDArray[np.int64]]
"""`order(member, n)` returns a permutation of n rows for a member."""


class Batcher:
    """Cuts a trajectory into batches, with a separate order of rows per member.

    For a policy without memory, rows are steps, `[S, 1, B]`: all steps of a window, or the valid steps of whole
    episodes. For a policy with memory, rows are environments, `[S, T, B]`. B is padded to a multiple of `ROW_ALIGN`
    with rows of weight 0.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        targets: Targets,
        evaluated: PolicyEvaluation | None,
        *,
        window: bool,
        sequences: bool,
        needs: frozenset[str],
        extra: dict[str, Tensor] | None = None,
        few_sizes: bool = False,
        valid: NDArray[np.bool_] | None = None,
    ) -> None:
        """`window`: whether the trajectory is a window of steps. `sequences`: whether the policy has memory.

        Leaves of `extra` are `[S, T, N, ...]`. With `few_sizes`, B is padded to one of few numbers of blocks, so that
        few shapes have to be compiled. `valid` is `trajectory.valid` as an array, if the caller has it.
        """
        self._few_sizes, self._in_order = few_sizes, None
        members, steps, num_envs = trajectory.valid.shape
        self._device = trajectory.valid.device
        self.members, self.num_envs = members, num_envs
        self._ids = np.arange(members)
        self._unused = self._ids * 0 if sequences else self._ids * num_envs
        """The row of each member that fills its batches up, with weight 0."""
        self.sequences = sequences
        asked = evaluated and needs & {"log_probs", "old"}
        values = None if evaluated is None or evaluated.values is None else evaluated.values[:, :steps]
        everything = Batch(
            inputs=Inputs(
                obs=trajectory.obs[:, :steps],
                action_mask=None if trajectory.action_mask is None else trajectory.action_mask[:, :steps],
                starts=trajectory.starts[:, :steps] if sequences else None,
            ),
            actions=trajectory.actions,
            timestep=trajectory.timestep,
            advantages=targets.advantages,
            returns=targets.returns,
            weights=targets.weights,
            values=values,
            log_probs=evaluated.log_probs if evaluated and asked else None,
            old=evaluated.dist if evaluated and "old" in needs else None,
            extra=extra,
            info=trajectory.info,
        )
        if sequences:
            self._leaves, self._memory = everything, trajectory.memory
            self._rows: list[NDArray[np.int64]] = [np.arange(num_envs)] * members
            self._align = ROW_ALIGN
            return
        self._in_order = everything if window else None
        # rows are stored by time, then member, then environment
        self._leaves = map_leaves(_by_time, everything)
        stored = np.arange(steps * members * num_envs).reshape(steps, members, num_envs)
        if window:
            self._rows, self._align = [stored[:, member].ravel() for member in range(members)], ROW_ALIGN
        else:
            known = trajectory.valid.cpu().numpy() if valid is None else valid
            self._rows, self._align = [stored[:, member][known[member]] for member in range(members)], ROW_BLOCK

    def select(self, members: Sequence[int]) -> Batcher:
        """Return the batcher of only these members, for steps of whole episodes."""
        part, chosen = copy.copy(self), list(members)
        part.members, part._rows = len(chosen), [self._rows[member] for member in chosen]
        part._ids, part._unused = self._ids[chosen], self._unused[chosen]
        return part

    def whole(self) -> Batch:
        """Return the whole trajectory as one batch, in the order of time."""
        if self._in_order is None:
            return batch_of(self._cut([self._rows], self._columns(self._rows)), 0)
        batch: Batch = map_leaves(partial(flatten_steps, align=self._align), self._in_order)
        batch.weights[..., self._in_order.weights.shape[1:].numel() :] = 0.0
        return batch

    def minibatches(self, orders: Iterable[Order], count: int) -> Minibatches:
        """Return an iterator over `count` minibatches for each of the orders, one per epoch.

        The minibatches of an epoch contain every row once. A single minibatch keeps the order of time. Sequences are
        cut by environment, so there are at most as many minibatches as environments.
        """
        if self.sequences:
            count = min(count, self.num_envs)
        each = list(orders)
        stacks = self._same(each) if count == 1 else self._shuffled(each, count)
        if not self._few_sizes or self.sequences:
            return Minibatches(stacks)
        lengths = tuple(map(len, self._rows))
        return Minibatches(stacks, lengths, lambda members: self.select(members).minibatches(each, count))

    def _same(self, orders: Iterable[Order]) -> Iterator[Batch]:
        """Yield a stack of the whole trajectory, once for each of the orders."""
        everything = stack_of(self.whole())
        for _ in orders:
            yield everything

    def _shuffled(self, orders: Iterable[Order], count: int) -> Iterator[Batch]:
        """Yield stacks of `count` minibatches for each of the orders."""
        rows = len(self._rows[0])
        if self._in_order is not None and rows % (count * self._align) == 0:
            yield from self._equal_parts(orders, count, rows // count)
            return
        for columns, group in groupby(self._parts(orders, count), self._columns):
            together = 1
            if not self.sequences:  # whose minibatches aren't aligned to multiples of 64 bytes
                together = self._together(columns)
            while chosen := list(islice(group, together)):
                yield self._cut(chosen, columns)

    def _equal_parts(self, orders: Iterable[Order], count: int, columns: int) -> Iterator[Batch]:
        """Yield the same for a window that is cut into equal parts, with less Python: `columns` rows of each member."""
        together, each = self._together(columns), iter(orders)
        while epochs := list(islice(each, max(1, together // count))):
            index = np.array([[rows[order(k, len(rows))] for k, rows in enumerate(self._rows)] for order in epochs])
            index = index.reshape(len(epochs), self.members, count, columns).swapaxes(1, 2)
            index = index.reshape(-1, self.members, columns)
            for first in range(0, len(index), together):
                yield self._rows_of(index[first : first + together])

    def _together(self, columns: int) -> int:
        """Return how many minibatches of this size are cut at a time."""
        return max(1, STACK_BYTES // (self._row_bytes * self.members * columns))

    def _parts(self, orders: Iterable[Order], count: int) -> Iterator[list[NDArray[np.int64]]]:
        """Yield the rows of each member in each minibatch."""
        for order in orders:
            both = zip(self._ids, self._rows, strict=True)
            shuffled = [rows[order(int(member), len(rows))] for member, rows in both]
            for k in range(count):
                yield [rows[len(rows) * k // count : len(rows) * (k + 1) // count] for rows in shuffled]

    @cached_property
    def _row_bytes(self) -> int:
        """The number of bytes of a step in all leaves."""
        sizes: list[int] = []
        map_leaves(lambda leaf: sizes.append(leaf.nbytes // leaf.shape[0]), self._leaves)
        return sum(sizes)

    def _columns(self, chosen: Sequence[NDArray[np.int64]]) -> int:
        """Return B of the batch of these rows of each member."""
        longest = max(map(len, chosen))
        return batch_rows(longest) if self._few_sizes else self._align * -(-max(1, longest) // self._align)

    def _cut(self, chosen: Sequence[Sequence[NDArray[np.int64]]], columns: int) -> Batch:
        """Return a stack of batches with B = `columns`, each of some rows of each member."""
        if all(len(rows) == columns for of_members in chosen for rows in of_members):
            return self._rows_of(np.array(chosen))
        index = np.empty((len(chosen), self.members, columns), np.int64)
        index[:], present = self._unused[:, None], np.zeros(index.shape, np.float32)
        for k, of_members in enumerate(chosen):
            for member, rows in enumerate(of_members):
                index[k, member, : len(rows)], present[k, member, : len(rows)] = rows, 1.0
        batch = self._rows_of(index)
        return batch._replace(weights=batch.weights * self._to_device(present).unsqueeze(2))

    def _rows_of(self, index: NDArray[np.int64]) -> Batch:
        """Return a stack of batches of the rows `index [K, S, B]`; one batch of sequences."""
        return stack_of(self._sequences(index[0])) if self.sequences else self._single_steps(index)

    def _single_steps(self, index: NDArray[np.int64]) -> Batch:
        """Return steps by their rows, `[K, S, B] -> [K, S, 1, B, ...]`."""
        flat = self._to_device(index.ravel())

        def cut(leaf: Tensor) -> Tensor:
            return leaf.index_select(0, flat).reshape(len(index), self.members, 1, -1, *leaf.shape[1:])

        batch: Batch = map_leaves(cut, self._leaves)
        return batch

    def _sequences(self, index: NDArray[np.int64]) -> Batch:
        """Return environments of each member by their indices, `[S, B] -> [S, T, B, ...]`."""
        member, env = torch.arange(self.members, device=self._device).unsqueeze(1), self._to_device(index)

        def cut(leaf: Tensor) -> Tensor:
            return leaf[member, :, env].transpose(1, 2)  # [S, B, T, ...] -> [S, T, B, ...]

        batch: Batch = map_leaves(cut, self._leaves)
        memory = None if self._memory is None else self._memory[member, env]
        return batch._replace(inputs=batch.inputs._replace(memory=memory))

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        return to_device(torch.from_numpy(array), self._device)


class Minibatches:
    """An iterator over batches that are stored in stacks; `stacks` yields them with leaves `[K, S, T, B, ...]`."""

    def __init__(
        self,
        stacks: Iterator[Batch],
        lengths: Sequence[int] = (),
        select: Callable[[Sequence[int]], Minibatches] | None = None,
    ) -> None:
        """`lengths` and `select` are given if B depends on the member with the most rows; see the methods."""
        self._lengths, self._select = lengths, select
        self._stacks = stacks
        self._stack: Batch | None = None
        self._next = 0

    def __iter__(self) -> Minibatches:
        return self

    def __next__(self) -> Batch:
        """Return the next batch, with leaves `[S, T, B, ...]`."""
        if self._stack is None or self._next == len(self._stack.weights):
            self._stack, self._next = next(self._stacks), 0
        self._next += 1
        return batch_of(self._stack, self._next - 1)

    @property
    def lengths(self) -> Sequence[int]:
        """How many rows each member has, if B depends on it and no batch was taken yet; else empty."""
        return self._lengths if self._stack is None else ()

    def select(self, members: Sequence[int]) -> Minibatches:
        """Return the batches of only these members, whose B may be smaller."""
        assert self._select is not None
        return self._select(members)

    def stacks(self) -> Iterator[Batch]:
        """Yield the remaining batches as stacks of K."""
        if self._stack is not None and self._next < len(self._stack.weights):
            rest, self._stack = map_leaves(itemgetter(slice(self._next, None)), self._stack), None
            yield rest
        yield from self._stacks


def stack_of(batch: Batch) -> Batch:
    """Return the stack of one batch: leaves `[1, S, T, B, ...]`."""
    stack: Batch = map_leaves(lambda leaf: leaf.unsqueeze(0), batch)
    return stack


def batch_of(stack: Batch, k: int) -> Batch:
    """Return batch `k` of a stack."""
    batch: Batch = map_leaves(itemgetter(k), stack)
    return batch


def flatten_steps(leaf: Tensor, align: int) -> Tensor:
    """Reshape `[S, T, N, ...]` to `[S, 1, B, ...]` in the order of time, padded to a multiple of `align`."""
    rows = leaf.flatten(1, 2)
    extra = -rows.shape[1] % align
    if extra:
        rows = torch.cat([rows, rows[:, :1].expand(-1, extra, *rows.shape[2:])], dim=1)
    return rows.unsqueeze(1)


def batch_rows(rows: int) -> int:
    """Return B of a compiled batch of steps of whole episodes, of which some member has this many, and none more."""
    return ROW_BLOCK * padded_blocks(-(-max(1, rows) // ROW_BLOCK))


def padded_blocks(blocks: int) -> int:
    """Round a number of blocks up to a power of two; from `FINE_BLOCKS` on, also to 1.5 times a power of two.

    Each size takes seconds to compile. The sizes in between save time only with large batches, whose padding is large.
    """
    power = 1 << (blocks - 1).bit_length()
    between = power // 4 * 3
    return between if between >= max(blocks, FINE_BLOCKS) else power


def _by_time(leaf: Tensor) -> Any:
    """Reshape `[S, T, N, ...]` to `[T * S * N, ...]`, the order in which a collection is stored: no copy is made."""
    return leaf.transpose(0, 1).reshape(-1, *leaf.shape[3:])
