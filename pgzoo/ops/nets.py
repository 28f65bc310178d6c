"""Stacked networks: one weight tensor `[S, in, out]` holds the weights of S members, for one batched product."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.ops import elementwise
from pgzoo.ops.order import any_order
from pgzoo.types import Array, Params

__all__ = [
    "ACTIVATIONS",
    "MAX_LAYERS",
    "ROW_ALIGN",
    "ROW_BLOCK",
    "Activation",
    "Init",
    "init_mlp",
    "init_norms",
    "last_layer",
    "last_layer_numpy",
    "layer_norm",
    "layer_norm_numpy",
    "layers_of",
    "linear",
    "mlp",
    "mlp_numpy",
    "norms_of",
    "numpy_layers",
    "numpy_norms",
    "orthogonal",
    "trunk",
    "trunk_numpy",
]

ROW_BLOCK = 256
"""Batches whose size depends on the longest episode of any member are padded to a multiple of this number of rows, and
multiplied in blocks of this size."""

SUM_LANES = 4
"""Number of partial sums that torch uses for a reduction over an outer axis."""

ROW_ALIGN = 16
"""Batches of fixed size are padded to a multiple of this number of rows, so that every column has a multiple of 64
bytes."""

MAX_LAYERS = 1000
"""Maximum number of hidden layers or residual blocks that a policy's settings accept."""

NORM_EPS = 1e-5
"""Added to the variance in layer normalization, as in `torch.nn.LayerNorm`."""

Activation = Literal["tanh", "relu", "leaky_relu", "elu", "silu", "gelu", "softplus", "identity"]
Init = Literal["orthogonal", "default"]


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


ACTIVATIONS: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Array], Array], float]] = {
    # name: (torch, numpy (may overwrite its argument), gain for the orthogonal initialization of the preceding layer)
    "tanh": (torch.tanh, lambda x: np.tanh(x, out=x), 5 / 3),
    "relu": (torch.relu, lambda x: np.maximum(x, 0.0, out=x), 2**0.5),
    "leaky_relu": (F.leaky_relu, lambda x: np.maximum(x, 0.01 * x), 2**0.5),
    "elu": (elementwise.elu, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))), 1.0),
    "silu": (elementwise.silu, lambda x: x / (1.0 + np.exp(np.minimum(-x, 80.0))), 1.0),
    "gelu": (elementwise.gelu, _gelu, 1.0),
    "softplus": (elementwise.softplus, lambda x: np.logaddexp(x, 0.0), 1.0),
    "identity": (lambda x: x, lambda x: x, 1.0),
}


def init_mlp(
    rng: np.random.Generator, sizes: tuple[int, ...], *, activation: Activation, init: Init, last_gain: float
) -> Params:
    """Return the layers of one member's network, `weight.i [in, out]` and `bias.i [out]`.

    `orthogonal` is the initialization of Saxe et al. (2014) with zero biases and the last layer scaled by
    `last_gain`; `default` is torch's own for linear layers, uniform in +-1/sqrt(in) for weights and biases.
    """
    params: Params = {}
    gain = ACTIVATIONS[activation][2]
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        if init == "orthogonal":
            weight = orthogonal(rng, fan_in, fan_out) * (last_gain if i == len(sizes) - 2 else gain)
            bias = np.zeros(fan_out)
        else:
            bound = fan_in**-0.5
            weight = rng.uniform(-bound, bound, (fan_in, fan_out))
            bias = rng.uniform(-bound, bound, fan_out)
        params[f"weight.{i}"] = torch.from_numpy(weight.astype(np.float32))
        params[f"bias.{i}"] = torch.from_numpy(bias.astype(np.float32))
    return params


def init_norms(hidden: tuple[int, ...]) -> Params:
    """Return one member's layer normalization of hidden layers: `scale.i [size]` of 1 and `shift.i [size]` of 0."""
    scales = {f"scale.{i}": torch.ones(size) for i, size in enumerate(hidden)}
    return scales | {f"shift.{i}": torch.zeros(size) for i, size in enumerate(hidden)}


def norms_of(params: Params, prefix: str = "") -> Params:
    """Select the layer normalization under a prefix from a policy's parameters, as `trunk` takes it."""
    kinds = (f"{prefix}scale.", f"{prefix}shift.")
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(kinds)}


def layers_of(params: Params, prefix: str = "") -> Params:
    """Select the layers under a prefix from a policy's parameters, as `mlp` takes them."""
    kinds = (f"{prefix}weight.", f"{prefix}bias.")
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(kinds)}


def trunk(layers: Params, x: Tensor, activation: Activation, norms: Params | None = None) -> Tensor:
    """Apply all layers but the last: `x [S, B, in] -> [S, B, features]`.

    With `norms` (see `init_norms`), the inputs of each activation function are normalized.
    """
    act = ACTIVATIONS[activation][0]
    for i in range(len(layers) // 2 - 1):
        x = linear(x, layers[f"weight.{i}"], layers[f"bias.{i}"])
        if norms:
            x = _scaled(layer_norm(x), norms[f"scale.{i}"], norms[f"shift.{i}"])
        x = act(x)
    return x


def last_layer(layers: Params, features: Tensor) -> Tensor:
    """Apply the last layer: `features [S, B, features] -> [S, B, out]`."""
    i = len(layers) // 2 - 1
    return linear(features, layers[f"weight.{i}"], layers[f"bias.{i}"])


def mlp(layers: Params, x: Tensor, activation: Activation) -> Tensor:
    """Apply the network: `x [S, B, in] -> [S, B, out]`."""
    return last_layer(layers, trunk(layers, x, activation))


def numpy_layers(params: Mapping[str, Array]) -> list[tuple[Array, Array]]:
    """Return weights `[S, in, out]` and biases `[S, 1, out]` in order, for `mlp_numpy`, without copies."""
    return [(params[f"weight.{i}"], params[f"bias.{i}"][:, None, :]) for i in range(len(params) // 2)]


def numpy_norms(params: Mapping[str, Array]) -> list[tuple[Array, Array]]:
    """Return scales and shifts `[S, 1, size]` in order, for `mlp_numpy`, without copies."""
    return [(params[f"scale.{i}"][:, None], params[f"shift.{i}"][:, None]) for i in range(len(params) // 2)]


def mlp_numpy(
    layers: list[tuple[Array, Array]], x: Array, activation: Activation, norms: list[tuple[Array, Array]] | None = None
) -> Array:
    """Apply the network in numpy, 3 to 4 times faster than torch for small batches: `[S, N, in] -> [S, N, out]`."""
    return last_layer_numpy(layers, trunk_numpy(layers, x, activation, norms))


def trunk_numpy(
    layers: list[tuple[Array, Array]], x: Array, activation: Activation, norms: list[tuple[Array, Array]] | None = None
) -> Array:
    """Apply all layers but the last in numpy: `[S, N, in] -> [S, N, features]`."""
    act = ACTIVATIONS[activation][1]
    for i, (weight, bias) in enumerate(layers[:-1]):
        x = x @ weight
        x += bias
        if norms:
            x = layer_norm_numpy(x) * norms[i][0] + norms[i][1]
        x = act(x)
    return x


def last_layer_numpy(layers: list[tuple[Array, Array]], features: Array) -> Array:
    """Apply the last layer in numpy: `[S, N, features] -> [S, N, out]`."""
    weight, bias = layers[-1]
    outputs: Array = features @ weight
    outputs += bias
    return outputs


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `[S, B, in] @ [S, in, out] + [S, out]`, such that a member's gradient doesn't depend on the others.

    Matrix kernels choose their order of summation by three things that depend on the other members:

    - the number of rows, which includes the padding: so rows are multiplied in blocks of one size, and the gradient of
      a weight is the sum over a multiple of `SUM_LANES` blocks (a remainder would be added in a different order);
    - the alignment of the result: so zeros are appended until each matrix of the stack starts at a multiple of 64
      bytes;
    - for one input or one output, whether S is 1: so these products are explicit products and sums.

    If sums may use any order (in compiled functions), the bias is added separately, which can be fused with the next
    operation, and narrow products are widened to 16 columns, for which kernels are faster.
    """
    if x.ndim != 3:
        raise ValueError(f"x is [S, rows, D]; got {list(x.shape)}. Merge the axes between S and D: x.flatten(1, -2)")
    members, rows, fan_in = x.shape
    width = weight.shape[-1]
    if width == 1:
        return (x * weight.transpose(-1, -2)).sum(-1, keepdim=True) + bias.unsqueeze(-2)
    if fan_in == 1:
        return x * weight + bias.unsqueeze(-2)
    if rows % ROW_ALIGN:  # not a training batch: no guarantee for its gradients
        return torch.baddbmm(bias.unsqueeze(-2), x, weight)
    count = 1 if rows % ROW_BLOCK else rows // ROW_BLOCK
    any_sum = any_order()
    if extra := -width % (16 if any_sum else 16 // math.gcd(fan_in, 16)):
        weight, bias = F.pad(weight, (0, extra)), F.pad(bias, (0, extra))
    if count > 1:
        x = x.reshape(members * count, rows // count, fan_in)
        # rounds up without negative numbers, for which ONNX defines division differently
        lanes = (count + SUM_LANES - 1) // SUM_LANES * SUM_LANES
        weight = weight.unsqueeze(1).expand(-1, lanes, -1, -1)[:, :count].flatten(0, 1)
        bias = bias.unsqueeze(1).expand(-1, lanes, -1)[:, :count].flatten(0, 1)
    wide = bias.unsqueeze(-2)
    product = (torch.bmm(x, weight) + wide if any_sum else torch.baddbmm(wide, x, weight)).view(members, rows, -1)
    return product[..., :width].contiguous() if extra else product


def layer_norm(x: Tensor) -> Tensor:
    """Normalize each row of `x [S, B, size]` to mean 0 and variance 1.

    Source: Ba, Kiros & Hinton (2016), Layer normalization.
    """
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def layer_norm_numpy(x: Array) -> Array:
    """Normalize each row of `x [S, B, size]` to mean 0 and variance 1."""
    centered = x - x.mean(-1, keepdims=True)
    return np.asarray(centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + np.float32(NORM_EPS)))


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return `x [S, B, size] * scale [S, size] + shift [S, size]`, in the blocks of rows of `linear`.

    So the gradients of scale and shift are sums over blocks of one size, and don't depend on the amount of padding.
    """
    members, rows, size = x.shape
    if rows % ROW_BLOCK:
        return x * scale.unsqueeze(-2) + shift.unsqueeze(-2)
    count = rows // ROW_BLOCK
    lanes = -(-count // SUM_LANES) * SUM_LANES
    scale, shift = (p.unsqueeze(1).expand(-1, lanes, -1)[:, :count].flatten(0, 1).unsqueeze(-2) for p in (scale, shift))
    return (x.reshape(members * count, ROW_BLOCK, size) * scale + shift).view(members, rows, size)


def orthogonal(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """Return a uniformly distributed matrix with orthonormal rows or columns, whichever are fewer."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))
    return q if rows >= columns else q.T
