"""Recurrent cells: the same values as torch's cells, and bits that don't depend on other members or padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgzoo.ops.recurrent import CELLS, CellName, init_cell, run, run_numpy

NAMES: list[CellName] = ["gru", "lstm"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def scene(name: CellName, members: int, steps: int, size: int, rows: int = 16) -> dict[str, Any]:
    cell = CELLS[name]
    return {
        "x": noise(members, steps, rows, cell.gates * size),
        "weight": noise(members, size, cell.gates * size, seed=1) / 2,
        "bias": noise(members, cell.gates * size, seed=2),
        "memory": noise(members, rows, cell.parts * size, seed=3).tanh(),
        "starts": noise(members, steps, rows, seed=4) > 0.8,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_step_matches_the_cell_of_torch(name: CellName) -> None:
    size, given = 5, scene(name, 2, 1, 5)
    after = run(CELLS[name], **given | {"starts": torch.zeros(2, 1, 16, dtype=torch.bool)})[1]
    for member in range(2):
        theirs = (nn.GRUCell if name == "gru" else nn.LSTMCell)(CELLS[name].gates * size, size)
        with torch.no_grad():  # the input weights are the identity, because x is already projected
            theirs.weight_ih.copy_(torch.eye(CELLS[name].gates * size))
            theirs.bias_ih.zero_()
            theirs.weight_hh.copy_(given["weight"][member].T)
            theirs.bias_hh.copy_(given["bias"][member])
        parts = given["memory"][member].split(size, -1)
        found = theirs(given["x"][member, 0], parts[0] if name == "gru" else tuple(parts))
        expected = found if name == "gru" else torch.cat(found, -1)
        torch.testing.assert_close(after[member], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_memory_computed_with_numpy_matches_torch(name: CellName) -> None:
    given = scene(name, 3, 9, 7)
    outputs, last = run(CELLS[name], **given)
    weight, bias, memory = given["weight"].numpy(), given["bias"].numpy()[:, None], given["memory"].numpy()
    for t in range(9):
        memory = run_numpy(CELLS[name], given["x"][:, t].numpy(), weight, bias, memory, given["starts"][:, t].numpy())
        np.testing.assert_allclose(memory[..., :7], outputs[:, t], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(memory, last, rtol=1e-4, atol=1e-5)
    assert memory.dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_start_blocks_memory_and_gradients_from_earlier_steps(name: CellName) -> None:
    given = scene(name, 2, 6, 5)
    given["starts"][:] = False
    given["starts"][:, 3] = True
    x, memory = given["x"].requires_grad_(), given["memory"].requires_grad_()
    outputs, _ = run(CELLS[name], **given)
    late = torch.autograd.grad(outputs[:, 3:].sum(), [x, memory], retain_graph=True)
    assert not late[0][:, :3].any() and not late[1].any() and late[0][:, 3:].any(-1).all()
    early = torch.autograd.grad(outputs[:, :3].sum(), [x, memory])
    assert early[0][:, :3].any() and early[1].any() and not early[0][:, 3:].any()
    fresh = {**given, "x": x[:, 3:], "starts": given["starts"][:, 3:], "memory": torch.zeros_like(memory)}
    assert torch.equal(run(CELLS[name], **fresh)[0], outputs[:, 3:])


def slopes(name: CellName, given: dict[str, Any], pull: Tensor) -> list[Tensor]:
    leaves = {key: given[key].clone().requires_grad_() for key in ("weight", "bias", "memory")}
    outputs, _ = run(CELLS[name], **given | leaves)
    return list(torch.autograd.grad((outputs * pull).sum(), list(leaves.values())))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [64, 5, 1, 33])
def test_other_members_and_padding_leave_gradients_bit_identical(name: CellName, size: int) -> None:
    given, pull = scene(name, 10, 20, size), noise(10, 20, 16, size, seed=9)
    pull[7, 6:] = 0
    among = slopes(name, given, pull)
    one = slice(7, 8)
    alone = {key: value[one].clone() for key, value in given.items()}
    alone |= {key: alone[key][:, :6].clone() for key in ("x", "starts")}
    for together, apart in zip(among, slopes(name, alone, pull[one, :6]), strict=True):
        assert torch.equal(together[7], apart[0])


@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_derivatives_of_a_cell_are_correct(name: CellName) -> None:
    given = {k: v if k == "starts" else v.double() for k, v in scene(name, 2, 3, 2, rows=2).items()}
    leaves = [given[key].requires_grad_() for key in ("weight", "bias")]

    def outputs(weight: Tensor, bias: Tensor) -> Tensor:
        return run(CELLS[name], **given | {"weight": weight, "bias": bias})[0]

    assert torch.autograd.gradcheck(outputs, leaves)
    assert torch.autograd.gradgradcheck(outputs, leaves)


@pytest.mark.parametrize("name", NAMES)
def test_gate_weights_are_initialized_orthogonal_and_the_lstm_forget_bias_is_1(name: CellName) -> None:
    made = init_cell(np.random.default_rng(0), name, 8, "orthogonal")
    for block in made["weight"].double().chunk(CELLS[name].gates, -1):
        torch.testing.assert_close(block @ block.T, torch.eye(8, dtype=torch.float64), atol=1e-6, rtol=0)
    assert made["bias"].chunk(CELLS[name].gates)[1].tolist() == [1.0 if name == "lstm" else 0.0] * 8
    assert made["bias"].sum() == (8 if name == "lstm" else 0)
    default = init_cell(np.random.default_rng(0), name, 16, "default")
    assert 0.24 < float(default["weight"].abs().max()) <= 0.25
