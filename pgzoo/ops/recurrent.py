"""Stacked recurrent cells, as pure functions: S members, each with its own weights.

A sequence is `[S, T, B, ...]`, a memory `[S, B, M]`. The input part of the gates is computed by one matrix product for
all steps, the recurrent part by one product of B rows per step. Neither depends on other members or on padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgzoo.ops.elementwise import sigmoid
from pgzoo.ops.nets import Init, linear, orthogonal
from pgzoo.types import Array, Params

__all__ = ["CELLS", "Cell", "CellName", "init_cell", "run", "run_numpy"]

CellName = Literal["gru", "lstm"]


class Cell(NamedTuple):
    """A kind of recurrent cell with M units.

    `gates` is the number of gates; `parts` is the number of vectors of size M in the memory (GRU 1, LSTM 2).
    `step(x, h, memory)` and `step_numpy` take the input part of the gates, `x [S, B, gates * M]`, the recurrent part,
    `h [S, B, gates * M]`, and the memory `[S, B, parts * M]`, of which the first M are the output.
    """

    gates: int
    parts: int
    step: Callable[[Tensor, Tensor, Tensor], Tensor]
    step_numpy: Callable[[Array, Array, Array], Array]


def _gru(x: Tensor, h: Tensor, memory: Tensor) -> Tensor:
    """Compute reset r, update z and candidate n; the reset gate acts on the recurrent part of the candidate.

    h' = (1 - z) n + z h,  n = tanh(xₙ + r hₙ)

    Source: Cho et al. (2014), Learning phrase representations using RNN encoder-decoder, in the variant of cuDNN.
    """
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), h.chunk(3, -1)
    z = sigmoid(x_z + h_z)
    candidate = torch.tanh(x_n + sigmoid(x_r + h_r) * h_n)
    return candidate + z * (memory - candidate)


def _lstm(x: Tensor, h: Tensor, memory: Tensor) -> Tensor:
    """Compute input i, forget f, candidate g and output o.

    c' = f c + i g,  h' = o tanh(c')

    Source: Hochreiter & Schmidhuber (1997), Long short-term memory; the forget gate: Gers et al. (2000).
    """
    i, f, g, o = (x + h).chunk(4, -1)
    cell = sigmoid(f) * memory.chunk(2, -1)[1] + sigmoid(i) * torch.tanh(g)
    return torch.cat([sigmoid(o) * torch.tanh(cell), cell], -1)


def _gru_numpy(x: Array, h: Array, memory: Array) -> Array:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(x, 3, -1), np.split(h, 3, -1)
    z = _sigmoid(x_z + h_z)
    candidate = np.tanh(x_n + _sigmoid(x_r + h_r) * h_n)
    return np.asarray(candidate + z * (memory - candidate))


def _lstm_numpy(x: Array, h: Array, memory: Array) -> Array:
    i, f, g, o = np.split(x + h, 4, -1)
    cell = _sigmoid(f) * np.split(memory, 2, -1)[1] + _sigmoid(i) * np.tanh(g)
    return np.concatenate([_sigmoid(o) * np.tanh(cell), cell], -1)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


CELLS: Mapping[CellName, Cell] = {"gru": Cell(3, 1, _gru, _gru_numpy), "lstm": Cell(4, 2, _lstm, _lstm_numpy)}


def init_cell(rng: np.random.Generator, name: CellName, memory: int, init: Init) -> Params:
    """Return one member's recurrent layer, `weight [M, gates * M]` and `bias`.

    `orthogonal` makes each gate's block orthogonal, with zero biases; `default` is torch's default for these cells,
    uniform in +-1/sqrt(M). The bias of an LSTM's forget gate is 1 in both, so that the gate is open initially.

    Source of the forget bias: Jozefowicz, Zaremba & Sutskever (2015), An empirical exploration of recurrent network
    architectures, section 2.2.
    """
    gates = CELLS[name].gates
    if init == "orthogonal":
        weight = np.concatenate([orthogonal(rng, memory, memory) for _ in range(gates)], 1)
        bias = np.zeros(gates * memory)
    else:
        bound = memory**-0.5
        weight = rng.uniform(-bound, bound, (memory, gates * memory))
        bias = rng.uniform(-bound, bound, gates * memory)
    if name == "lstm":
        bias[memory : 2 * memory] = 1.0
    return {"weight": torch.from_numpy(weight.astype(np.float32)), "bias": torch.from_numpy(bias.astype(np.float32))}


def run(cell: Cell, x: Tensor, weight: Tensor, bias: Tensor, memory: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Run a cell over a sequence; return its output at each step, `[S, T, B, M]`, and the memory after the last.

    Args:
        cell: the kind of cell.
        x: the input part of the gates, `[S, T, B, gates * M]`.
        weight: `[S, M, gates * M]`.
        bias: `[S, gates * M]`.
        memory: before the first step, `[S, B, parts * M]`.
        starts: `[S, T, B]`; the memory is reset to zero before each step that starts an episode.
    """
    size, keep, outputs = weight.shape[-2], 1.0 - starts.to(x.dtype).unsqueeze(-1), []
    for t in range(x.shape[1]):
        memory = memory * keep[:, t]
        memory = cell.step(x[:, t], linear(memory[..., :size], weight, bias), memory)
        outputs.append(memory[..., :size])
    return torch.stack(outputs, 1), memory


def run_numpy(cell: Cell, x: Array, weight: Array, bias: Array, memory: Array, starts: Array) -> Array:
    """Take one step and return the memory `[S, B, parts * M]`.

    Shapes: `x [S, B, gates * M]`, `starts [S, B]`, `bias [S, 1, gates * M]`.
    """
    memory = np.where(starts[..., None], np.float32(0), memory)
    return cell.step_numpy(x, memory[..., : weight.shape[-2]] @ weight + bias, memory)
