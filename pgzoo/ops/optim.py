"""Optimizers as pure functions, with a step count for each member.

They work on one vector per member, `[S, P]`, not on single tensors: for a small network, the overhead of an operation
exceeds the cost of its arithmetic. They equal torch's optimizers up to rounding (tested). torch's own can't be used
because the member axis, frozen members and compiled steps need updates without hidden state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.types import Params

__all__ = [
    "NO_OPTIMIZER",
    "Optimizer",
    "clip_by_member_norm",
    "count_parameters",
    "flatten",
    "make_optimizer",
    "searched",
    "unflatten",
    "unflatten_candidates",
    "with_searched",
]

Leaf = TypeVar("Leaf")

PIECE = 2**17
"""Numbers in a piece of a large vector: half a megabyte."""


class Optimizer(NamedTuple):
    """`init(vector) -> state`, and `step(vector, gradient, state, learning_rate) -> (vector, state)`.

    Shapes: vectors `[S, P]`, the learning rate `[S]` or `[S, P]`; leaves of the state are `[S]`, or
    `[S, P]` if they belong to parameters (`[S, 1]` if all parameters share them).
    """

    init: Callable[[Tensor], Params]
    step: Callable[[Tensor, Tensor, Params, Tensor], tuple[Tensor, Params]]


def flatten(leaves: Iterable[Tensor]) -> Tensor:
    """Concatenate each member's leaves `[S, ...]` to one vector: `[S, P]`."""
    return torch.cat([leaf.reshape(len(leaf), -1) for leaf in leaves], dim=1)


def unflatten(vector: Tensor, like: Params) -> Params:
    """Split `[S, P]` into leaves of the names and shapes of `like` (which may have another S); they are views."""
    sizes = [leaf.shape[1:].numel() for leaf in like.values()]
    pieces = vector.split_with_sizes(sizes, dim=1)
    members = vector.shape[0]
    each = zip(like.items(), pieces, strict=True)
    return {name: piece.view(members, *leaf.shape[1:]) for (name, leaf), piece in each}


class Views(NamedTuple):
    """Makes what `unflatten` returns for many vectors of one shape, in half the time."""

    shape: torch.Size
    strides: tuple[int, ...]
    each: Mapping[str, tuple[torch.Size, tuple[int, ...], int]]
    """The shape, the strides and the offset of each leaf."""

    @classmethod
    def of(cls, vector: Tensor, like: Params) -> Views:
        """Return the views of `vector [S, P]` as leaves with the names and shapes of `like`."""
        first, leaves = vector.storage_offset(), unflatten(vector, like)
        each = {
            name: (leaf.shape, leaf.stride(), int(leaf.storage_offset()) - int(first)) for name, leaf in leaves.items()
        }
        return cls(vector.shape, vector.stride(), each)

    def fit(self, vector: Tensor) -> bool:
        """Return whether a vector is stored like the one that these views were made for."""
        return vector.shape == self.shape and vector.stride() == self.strides

    def __call__(self, vector: Tensor) -> Params:
        """Return the leaves of a vector that fits."""
        first = vector.storage_offset()
        return {
            name: vector.as_strided(shape, strides, first + offset)
            for name, (shape, strides, offset) in self.each.items()
        }


def searched(params: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """Return the parameters, by name, that a search by greedy episodes can train: all but `log_std`.

    The most likely action doesn't depend on a standard deviation, so a search would change it at random.
    """
    return {name: value for name, value in params.items() if name.rpartition(".")[2] != "log_std"}


def with_searched(vector: Tensor, params: Params) -> Tensor:
    """Return the vector `[S, P]` of all `params` in which the `searched` ones have the numbers of `vector`."""
    like = searched(params)
    device = next(iter(like.values())).device
    return flatten((params | unflatten(vector.to(device), like)).values())


def count_parameters(params: Params, algorithm: str) -> int:
    """Return the number of parameters that `algorithm` searches through. Raises UnfitError if there are none."""
    if size := sum(value.numel() for value in searched(params).values()):
        return size
    raise UnfitError(
        f'Algorithm "{algorithm}" searches in parameter space, but the policy has no parameters. Choose another policy.'
    )


def unflatten_candidates(vectors: Tensor, like: Params) -> Params:
    """Split `[S, N, P]`, N variants of each member, into leaves `[S, N, ...]` with the names and shapes of `like`."""
    members, count = vectors.shape[:2]
    wide = {name: leaf.expand(members, *leaf.shape[1:]).repeat_interleave(count, 0) for name, leaf in like.items()}
    flat = unflatten(vectors.flatten(0, 1), wide)
    return {name: leaf.reshape(members, count, *leaf.shape[1:]) for name, leaf in flat.items()}


def clip_by_member_norm(gradient: Tensor, max_norm: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale each member's gradient `[S, P]` to at most `max_norm [S]`; return it with the norm `[S]` before."""
    norm, factor = member_norm(gradient, max_norm)
    return _scaled(gradient, factor), norm


def member_norm(gradient: Tensor, max_norm: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the norm `[S]` of each member's gradient, and the factor `[S]` that clips it; None without a maximum."""
    norm = gradient.square().sum(1).sqrt()
    return norm, None if max_norm is None else stored((max_norm / (norm + 1e-6)).clamp(max=1.0))


def _scaled(gradient: Tensor, factor: Tensor | None) -> Tensor:
    return gradient if factor is None else gradient * factor[:, None]


def _init(*slots: str) -> Callable[[Tensor], Params]:
    def init(vector: Tensor) -> Params:
        state = {slot: torch.zeros_like(vector) for slot in slots}
        return {"step": vector.new_zeros(len(vector)), **state}

    return init


def _adam_init(vector: Tensor) -> Params:
    share = vector.new_zeros(len(vector), 1, dtype=torch.float64)
    return _init("mean", "square")(vector) | {"filled1": share, "filled2": share}


def stored(numbers: Tensor) -> Tensor:
    """Return some numbers; compiled code then stores them, and doesn't compute them again for each of their uses."""
    return numbers.as_strided(numbers.shape, numbers.stride())


def _per_parameter(learning_rate: Tensor) -> Tensor:
    """Return a learning rate `[S]` as `[S, 1]`; one that is `[S, P]` is returned unchanged."""
    return learning_rate[:, None] if learning_rate.ndim == 1 else learning_rate


def _adam(
    vector: Tensor, gradient: Tensor, state: Params, learning_rate: Tensor, *, eps: float
) -> tuple[Tensor, Params]:
    """Adam (Kingma & Ba 2015, algorithm 1), beta = (0.9, 0.999)."""
    beta1, beta2 = 0.9, 0.999
    mean = beta1 * state["mean"] + (1 - beta1) * gradient
    square = beta2 * state["square"] + (1 - beta2) * gradient.square()
    # 1 - beta^t by recursion: torch's pow rounds differently depending on the position in a tensor
    filled1, filled2 = beta1 * state["filled1"] + (1 - beta1), beta2 * state["filled2"] + (1 - beta2)
    scale = stored(_per_parameter(learning_rate) / filled1.float())
    denominator = square.sqrt() / stored(filled2.sqrt().float()) + eps
    counts = {"step": state["step"] + 1, "filled1": filled1, "filled2": filled2}
    return vector - scale * mean / denominator, {**counts, "mean": mean, "square": square}


def _rmsprop(
    vector: Tensor, gradient: Tensor, state: Params, learning_rate: Tensor, *, eps: float
) -> tuple[Tensor, Params]:
    """RMSprop (Tieleman & Hinton 2012), alpha = 0.99, eps outside the root."""
    alpha = 0.99
    square = alpha * state["square"] + (1 - alpha) * gradient.square()
    moved = vector - _per_parameter(learning_rate) * gradient / (square.sqrt() + eps)
    return moved, {"step": state["step"] + 1, "square": square}


def _sgd(vector: Tensor, gradient: Tensor, state: Params, learning_rate: Tensor) -> tuple[Tensor, Params]:
    """Plain stochastic gradient descent."""
    return vector - _per_parameter(learning_rate) * gradient, {"step": state["step"] + 1}


def step_in_pieces(
    optimizer: Optimizer,
    vector: Tensor,
    gradient: Tensor,
    state: Params,
    learning_rate: Tensor,
    *,
    factor: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Params]:
    """Return what `optimizer.step` returns for the gradient multiplied by `factor [S]`, with the same bits.

    A large vector is handled in pieces of about `PIECE` numbers: intermediate results stay in the processor's cache and
    take little memory. The new vector is then written to `out [S, P]`, which may be the gradient.
    """
    members, size = vector.shape
    if members * size <= PIECE or size <= members:
        return optimizer.step(vector, _scaled(gradient, factor), state, learning_rate)
    split = {name for name, leaf in state.items() if leaf.shape == vector.shape}
    moved, after = torch.empty_like(vector) if out is None else out, {n: torch.empty_like(state[n]) for n in split}
    new: Params = {}
    width = max(1, PIECE // members)
    for first in range(0, size, width):
        columns = slice(first, first + width)
        part = {name: leaf[:, columns] if name in split else leaf for name, leaf in state.items()}
        rate = learning_rate if learning_rate.ndim == 1 else learning_rate[:, columns]
        moved[:, columns], new = optimizer.step(vector[:, columns], _scaled(gradient[:, columns], factor), part, rate)
        for name in split:
            after[name][:, columns] = new[name]
    return moved, {name: after.get(name, leaf) for name, leaf in new.items()}


NO_OPTIMIZER = Optimizer(lambda vector: {}, _sgd)
"""An optimizer without state, for algorithms that take no gradient steps."""


def make_optimizer(name: str, eps: float | None = None) -> Optimizer:
    """Return an optimizer: "adam", "rmsprop" or "sgd"; `eps` keeps the denominators of the first two from 0."""
    match name:
        case "adam":
            return Optimizer(_adam_init, partial(_adam, eps=1e-8 if eps is None else eps))
        case "rmsprop":
            return Optimizer(_init("square"), partial(_rmsprop, eps=1e-5 if eps is None else eps))
        case "sgd":
            return Optimizer(_init(), _sgd)
    raise ValueError(f"no optimizer {name!r}")
