"""Natural-gradient steps compared with dense linear algebra, and backtracking compared with a hand computation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgzoo.ops.distributions import Categorical
from pgzoo.ops.natural import backtrack, conjugate_gradient, damped, mean_kl, natural_step
from pgzoo.training.gradients import hessian_product
from pgzoo.types import Batch, Hyper, Inputs, Output, Params


def positive_definite(members: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    root = torch.randn(members, size, size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return root @ root.mT + 0.1 * torch.eye(size, dtype=dtype)


def times(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda vector: (matrix @ vector[..., None])[..., 0]


def some(members: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(members, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def test_conjugate_gradient_with_two_unknowns_matches_a_hand_computation() -> None:
    """The first step is b / 2 with b = (1, 1), because bb / bAb = 2 / 4; the second gives the exact solution."""
    matrix, b = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]]), torch.tensor([[1.0, 1.0]])
    assert conjugate_gradient(times(matrix), b, 1).tolist() == [[0.5, 0.5]]
    assert conjugate_gradient(times(matrix), b, 2).flatten().tolist() == pytest.approx([1 / 3, 1])


@pytest.mark.parametrize("members", [1, 5])
def test_conjugate_gradient_converges_to_the_exact_solution(members: int) -> None:
    matrix, b = positive_definite(members, 7), some(members, 7)
    found = conjugate_gradient(times(matrix), b, 40, tolerance=1e-24)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-10)


def test_each_conjugate_gradient_step_reduces_the_error_in_the_matrix_norm() -> None:
    matrix, b = positive_definite(3, 12), some(3, 12)
    exact = torch.linalg.solve(matrix, b)

    def error(steps: int) -> Tensor:
        off = conjugate_gradient(times(matrix), b, steps) - exact
        return (off * times(matrix)(off)).sum(1)

    errors = torch.stack([error(steps) for steps in range(13)])
    assert (errors.diff(dim=0) < 0).all()


def test_a_converged_member_stays_unchanged_while_others_continue() -> None:
    """The member with the identity matrix needs one step, the one with b = 0 needs none, and the third needs more."""
    matrix, b = positive_definite(3, 6, torch.float32), some(3, 6, torch.float32)
    matrix[0], b[1] = torch.eye(6), 0.0
    found = conjugate_gradient(times(matrix), b, 30)
    assert torch.equal(found[0], b[0])
    assert not found[1].any()
    torch.testing.assert_close(found[2], torch.linalg.solve(matrix[2], b[2]), rtol=1e-3, atol=1e-4)


def test_no_products_are_computed_once_all_members_have_converged() -> None:
    asked = []

    def identity(vector: Tensor) -> Tensor:
        asked.append(vector)
        return vector

    conjugate_gradient(identity, some(4, 3), 10)
    assert len(asked) == 1


def test_each_member_has_its_own_damping() -> None:
    product = damped(lambda vector: 2 * vector, torch.tensor([0.5, 0.0]))
    assert product(torch.ones(2, 2)).tolist() == [[2.5, 2.5], [2.0, 2.0]]


def test_a_natural_step_follows_the_natural_gradient_with_the_requested_size() -> None:
    matrix, gradient, size = positive_definite(4, 5), some(4, 5), torch.tensor([0.01, 0.1, 1.0, 0.5]).double()
    step = natural_step(times(matrix), gradient, size, 20)
    torch.testing.assert_close(0.5 * (step * times(matrix)(step)).sum(1), size)
    steepest = torch.linalg.solve(matrix, gradient)
    torch.testing.assert_close(torch.cosine_similarity(step, steepest), torch.ones(4).double())
    assert ((step * gradient).sum(1) > 0).all()


def test_a_zero_gradient_gives_a_zero_step() -> None:
    step = natural_step(times(positive_definite(2, 3)), torch.zeros(2, 3).double(), torch.ones(2).double(), 5)
    assert not step.any()


def test_backtracking_matches_a_hand_computation() -> None:
    """Steps of 8 from 1: the first member is accepted at 9, the second at 3, the third at none of the tried points."""
    limit = torch.tensor([10.0, 3.5, 1.5])
    start, step = torch.ones(3, 1), torch.full((3, 1), 8.0)
    place, accepted, tried = backtrack(start, step, lambda at: at[:, 0] <= limit, 0.5, 4)
    assert place.tolist() == [[9.0], [3.0], [1.0]]
    assert accepted.tolist() == [True, True, False]
    assert tried.tolist() == [1, 3, 4]


def test_backtracking_keeps_the_first_accepted_point() -> None:
    asked = []

    def accept(at: Tensor) -> Tensor:
        asked.append(at[:, 0].tolist())
        return at[:, 0] <= torch.tensor([4.0, 1.0])

    place, _, _ = backtrack(torch.zeros(2, 1), torch.full((2, 1), 4.0), accept, 0.5, 10)
    assert place.tolist() == [[4.0], [1.0]]
    assert len(asked) == 3


def test_backtracking_does_not_accept_nan() -> None:
    start = torch.zeros(1, 1)
    place, accepted, _ = backtrack(start, torch.full((1, 1), torch.nan), lambda at: at[:, 0] <= 1, 0.5, 3)
    assert place.tolist() == [[0.0]] and accepted.tolist() == [False]


class Table:
    """A tabular policy over two states, with the parameters `logits [S, 2 states, 3 actions]`."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return Output(Categorical(params["policy.logits"][:, inputs.obs[0, 0]].unsqueeze(1)))


def test_the_hessian_of_the_kl_divergence_is_the_fisher_matrix() -> None:
    """For a softmax it is diag(p) - ppᵀ. Three of the four rows have state 0; the padding row has weight 0."""
    params = {"policy.logits": torch.tensor([[[0.0, 1.0, -1.0], [0.5, 0.0, 0.0]]]), "critic.bias": torch.ones(1, 2)}
    inputs = Inputs(torch.tensor([[[0, 0, 1, 0, 1]]]))
    weights, nothing = torch.tensor([[[1.0, 1.0, 1.0, 1.0, 0.0]]]), torch.zeros(1, 1, 5)
    old = Table().apply(params, inputs).dist
    batch = Batch(inputs, nothing.long(), nothing.long(), nothing, nothing, weights, old=old)
    product = hessian_product(mean_kl, Table(), params, {}, batch, Hyper({}), "policy.")

    expected = np.zeros((8, 8))
    for state, share in ((0, 3 / 4), (1, 1 / 4)):
        p = torch.softmax(params["policy.logits"][0, state], -1).numpy()
        rows = slice(3 * state, 3 * state + 3)
        expected[rows, rows] = share * (np.diag(p) - np.outer(p, p))
    columns = [product(torch.eye(8)[None, i]).numpy()[0] for i in range(8)]
    np.testing.assert_allclose(np.stack(columns), expected, atol=1e-6)
    assert mean_kl(Table(), params, batch, Hyper({})).item() == 0.0


def test_the_hessian_of_a_linear_function_is_zero() -> None:
    params = {"policy.logits": torch.tensor([[[0.0, 1.0, -1.0], [0.5, 0.0, 0.0]]])}
    nothing = torch.zeros(1, 1, 1)
    batch = Batch(Inputs(nothing.long()), nothing.long(), nothing.long(), nothing, nothing, nothing)

    def linear(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
        return 3 * params["policy.logits"].sum((1, 2))

    product = hessian_product(linear, Table(), params, {}, batch, Hyper({}))
    assert product(torch.ones(1, 6)).tolist() == [[0.0] * 6]
