"""Selecting, concatenating and freezing members of a tree."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgzoo.ops.members import concat_members, freeze, map_leaves, per_member, select


class Tree(NamedTuple):
    params: dict[str, torch.Tensor]
    steps: Any
    worlds: tuple[str, ...]
    nothing: None


def tree(members: int, shift: int = 0) -> Tree:
    numbers = torch.arange(members) + shift
    return Tree(
        {"w": numbers[:, None] * torch.ones(members, 3), "b": numbers.double()},
        np.arange(members) + shift,
        tuple(f"world {k}" for k in numbers.tolist()),
        None,
    )


def same(a: Tree, b: Tree) -> bool:
    pairs = [(a.params[name], b.params[name]) for name in a.params]
    tensors = all(torch.equal(x, y) and x.dtype == y.dtype for x, y in pairs)
    return tensors and np.array_equal(a.steps, b.steps) and a.worlds == b.worlds and b.nothing is None


@given(st.data())
def test_splitting_and_concatenating_members_restores_the_tree(data: st.DataObject) -> None:
    members = data.draw(st.integers(1, 6))
    cut = data.draw(st.integers(1, members))
    parts = [part for part in (range(cut), range(cut, members)) if len(part)]
    assert same(concat_members([select(tree(members), list(part)) for part in parts]), tree(members))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_select_returns_members_in_the_requested_order(rows: list[int]) -> None:
    chosen = select(tree(5), rows)
    assert chosen.steps.tolist() == rows
    assert chosen.params["b"].tolist() == rows
    assert chosen.worlds == tuple(f"world {row}" for row in rows)


@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_freeze_takes_new_values_for_active_members_and_old_ones_otherwise(active: list[bool]) -> None:
    old, new = tree(3), tree(3, shift=10)
    frozen = freeze(np.array(active), new, old)
    expected = [10 + k if a else k for k, a in enumerate(active)]
    assert frozen.steps.tolist() == expected
    assert frozen.params["w"][:, 2].tolist() == expected
    assert frozen.worlds == tuple(f"world {k}" for k in expected)


def test_nan_in_the_new_values_does_not_reach_a_frozen_member() -> None:
    old, new = {"w": torch.ones(2, 3)}, {"w": torch.full((2, 3), torch.nan)}
    assert torch.equal(freeze(np.array([False, True]), new, old)["w"][0], torch.ones(3))


def test_mapping_over_trees_of_different_structure_is_an_error() -> None:
    with pytest.raises(KeyError):
        map_leaves(lambda a, b: a, {"x": 1}, {"y": 1})


def test_one_number_per_member_broadcasts_to_leaves_of_any_shape() -> None:
    values = torch.tensor([1.0, 2.0])
    for shape in ((2,), (2, 3), (2, 3, 4)):
        assert (per_member(values, torch.ones(shape)) * torch.ones(shape))[1].unique().tolist() == [2.0]
    assert per_member(values.reshape(2, 1, 1), torch.ones(2, 3)).shape == (2, 1)
