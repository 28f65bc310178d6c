"""Optimizers compared with torch's, and members stepped together compared with each one alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pgzoo.ops.optim import PIECE, Views, clip_by_member_norm, flatten, make_optimizer, step_in_pieces, unflatten

TORCHS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "rmsprop": lambda params, lr: torch.optim.RMSprop(params, lr=lr, eps=1e-5),
    "sgd": torch.optim.SGD,
}


def some(members: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(members, 19, generator=torch.Generator().manual_seed(seed))


def walk(name: str, members: int, rates: Tensor, steps: int, pick: slice = slice(None)) -> Tensor:
    """Take steps with random gradients; `pick` selects the members that take part."""
    vector = some(members, 0)[pick]
    state = make_optimizer(name).init(vector)
    for t in range(steps):
        vector, state = make_optimizer(name).step(
            vector, some(members, 1 + t, 10.0 ** -(t % 6))[pick], state, rates[pick]
        )
    return vector


@pytest.mark.parametrize("name", TORCHS)
def test_an_optimizer_matches_that_of_torch(name: str) -> None:
    theirs = some(1, 0).requires_grad_()
    optimizer = TORCHS[name]([theirs], lr=1e-2)
    for t in range(300):
        theirs.grad = some(1, 1 + t, 10.0 ** -(t % 6))
        optimizer.step()
    torch.testing.assert_close(walk(name, 1, torch.tensor([1e-2]), 300), theirs.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TORCHS)
@pytest.mark.parametrize("members", [3, 16, 33])
def test_a_members_steps_are_bit_identical_alone_and_among_others(name: str, members: int) -> None:
    rates = torch.linspace(1e-3, 1e-1, members)
    together = walk(name, members, rates, 60)
    for row in (0, 1, members - 1):
        assert torch.equal(walk(name, members, rates, 60, slice(row, row + 1))[0], together[row])


def test_sgd_uses_the_learning_rate_of_each_member() -> None:
    vector, gradient = torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [2.0]])
    sgd = make_optimizer("sgd")
    moved, _ = sgd.step(vector, gradient, sgd.init(vector), torch.tensor([0.5, 0.25]))
    assert moved.tolist() == [[0.0], [0.5]]


def test_clipping_matches_values_computed_by_hand() -> None:
    clipped, norm = clip_by_member_norm(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor([1.0, 1.0]))
    assert norm.tolist() == pytest.approx([5.0, 0.5])
    assert clipped.flatten().tolist() == pytest.approx([0.6, 0.8, 0.3, 0.4])


def test_clipping_members_together_matches_clipping_each_with_torch() -> None:
    gradient, limits = some(4, 3, scale=2.0), torch.tensor([0.1, 1.0, 5.0, 1e9])
    clipped, norm = clip_by_member_norm(gradient, limits)
    for row in range(4):
        alone = torch.nn.Parameter(torch.zeros(19))
        alone.grad = gradient[row].clone()
        torch.testing.assert_close(torch.nn.utils.clip_grad_norm_([alone], float(limits[row])), norm[row])
        torch.testing.assert_close(alone.grad, clipped[row])


def test_without_a_limit_the_gradient_is_returned_unchanged() -> None:
    gradient = some(2, 0)
    assert clip_by_member_norm(gradient, None)[0] is gradient


def test_unflatten_reverses_flatten() -> None:
    leaves = {"w": torch.arange(12.0).reshape(2, 3, 2), "b": torch.arange(2.0)}
    vector = flatten(leaves.values())
    assert vector[1].tolist() == [6, 7, 8, 9, 10, 11, 1]
    back = unflatten(vector, leaves)
    assert all(torch.equal(back[name], leaves[name]) for name in leaves)


@pytest.mark.parametrize("first", [0, 3])
def test_views_equal_the_result_of_unflatten_and_share_the_vectors_memory(first: int) -> None:
    like = {"w": torch.zeros(2, 3, 2), "b": torch.zeros(2)}
    vector, other = torch.arange(20.0)[first : first + 14].view(2, 7), torch.rand(2, 7)
    views = Views.of(torch.zeros(2, 7), like)
    for whole in (vector, other):
        assert views.fit(whole)
        expected, made = unflatten(whole, like), views(whole)
        assert list(made) == list(expected)
        for name, leaf in made.items():
            assert torch.equal(leaf, expected[name]) and leaf.stride() == expected[name].stride()
            assert leaf.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    assert not views.fit(torch.rand(1, 7)) and not views.fit(torch.rand(7, 2).T)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_stepping_a_large_vector_in_pieces_is_bit_identical(name: str) -> None:
    optimizer, size = make_optimizer(name), PIECE // 2 + 1003
    vector, rate = torch.randn(3, size), torch.tensor([0.1, 0.01, 0.001])
    state, other = optimizer.init(vector), optimizer.init(vector)
    moved = vector
    for _ in range(2):
        gradient = torch.randn(3, size)
        vector, state = optimizer.step(vector, gradient, state, rate)
        moved, other = step_in_pieces(optimizer, moved, gradient, other, rate, out=gradient)
    assert torch.equal(moved, vector)
    assert all(torch.equal(other[key], leaf) for key, leaf in state.items()) and list(other) == list(state)
