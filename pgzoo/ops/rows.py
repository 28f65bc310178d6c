"""What a policy computes for one row, as plain functions of arrays that the compiled collector can compile.

They use the part of Python and numpy that numba compiles: numbers, arrays, loops, and functions of the same kind. Sums
run over the inputs in order, so a row's results don't depend on how many rows there are.
"""

from __future__ import annotations

import numpy as np

from pgzoo.types import Array

__all__ = [
    "CODES",
    "TANH_LIMIT",
    "choose_categorical",
    "choose_gaussian",
    "choose_rescaled",
    "mlp_row",
    "rational_tanh",
    "table_row",
]

CODES = {"identity": 0, "tanh": 1, "relu": 2, "leaky_relu": 3}
"""The activation functions that `mlp_row` knows, and the numbers that stand for them in its `sizes`."""

FEW = 3
"""With fewer outputs than this, a sum in a register is faster than vectors of sums in memory."""

TANH_LIMIT = 9.0
"""From here on, `rational_tanh` is constant: 1 in float32."""


def rational_tanh(x: float) -> float:
    """Return tanh(x) for float32 numbers, within 6e-8 of torch.tanh, by a quotient of two polynomials in float64.

    Unlike `math.tanh`, a loop over it is compiled to vector instructions: 1 ns for each number instead of 20.
    """
    x = TANH_LIMIT if x > TANH_LIMIT else x  # in this form NaN stays NaN
    x = -TANH_LIMIT if x < -TANH_LIMIT else x
    q = x * x
    p = 1.3184351262808598e-08
    p = p * q + 2.047193082397693e-05
    p = p * q + 3.4865883439974964e-03
    p = p * q + 1.337320324515577e-01
    p = p * q + 9.999999063657852e-01
    d = 7.702718106319382e-07
    d = d * q + 3.2713956871490926e-04
    d = d * q + 2.584200409739842e-02
    d = d * q + 4.670650011458878e-01
    d = d * q + 1.0
    return p * x / d


def activate(code: int, x: Array, bias: Array) -> None:
    """Add the bias to `x [size]` and apply the activation function of `CODES`, in place."""
    if code == 1:
        for j in range(len(x)):
            x[j] = rational_tanh(np.float64(x[j] + bias[j]))
    elif code == 2:
        for j in range(len(x)):
            y = x[j] + bias[j]
            x[j] = np.float32(0.0) if y < 0 else y
    elif code == 3:
        for j in range(len(x)):
            y = x[j] + bias[j]
            x[j] = y if y > 0 else np.float32(0.01) * y
    else:
        for j in range(len(x)):
            x[j] += bias[j]


def multiply(x: Array, weight: Array, out: Array) -> None:
    """Set `out [n]` to `x [m] @ weight [m * n]`; every sum runs over the inputs in order."""
    m, n = len(x), len(out)
    if n < FEW:
        for j in range(n):
            total, column = np.float32(0.0), weight[j::n]
            for i in range(m):
                total += x[i] * column[i]
            out[j] = total
        return
    for j in range(n):
        out[j] = np.float32(0.0)
    for i in range(0, m - 3, 4):  # four inputs at a time: a quarter of the loads and stores of `out`
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        start = i * n
        one, two = weight[start : start + n], weight[start + n : start + 2 * n]
        three, four = weight[start + 2 * n : start + 3 * n], weight[start + 3 * n : start + 4 * n]
        for j in range(n):
            out[j] = (((out[j] + a * one[j]) + b * two[j]) + c * three[j]) + d * four[j]
    for i in range(m - m % 4, m):
        a, one = x[i], weight[i * n : (i + 1) * n]
        for j in range(n):
            out[j] += a * one[j]


def mlp_row(obs: Array, weights: Array, sizes: Array, scratch: Array, outputs: Array) -> None:
    """Compute a multilayer perceptron for one observation.

    Args:
        obs: the observation, `[size]`; a category as `[1]`.
        weights: `[P]` float32: of each layer the weight `[in, out]`, then the bias `[out]`.
        sizes: a number of `CODES`; the number of categories, 0 for vectors, and the first of them; then the size of the
            input and of each layer.
        scratch: working memory, `[2, largest size]` float32.
        outputs: the outputs, `[size of the last layer]` float32.
    """
    code, categories, layers = sizes[0], sizes[1], len(sizes) - 4
    x, y = scratch[0], scratch[1]
    if categories == 0:
        for i in range(sizes[3]):
            x[i] = obs[i]
    at = 0
    for layer in range(layers):
        fan_in, fan_out = sizes[3 + layer], sizes[4 + layer]
        out = outputs if layer == layers - 1 else y[:fan_out]
        end = at + fan_in * fan_out
        if layer == 0 and categories > 0:  # a one-hot vector times the weight is one of its rows
            category = int(obs[0]) - sizes[2]
            if category < 0 or category >= categories:
                raise IndexError("an observation is outside its Discrete space")
            start = at + category * fan_out
            for j in range(fan_out):
                out[j] = weights[start + j]
        else:
            multiply(x[:fan_in], weights[at:end], out)
        activate(0 if layer == layers - 1 else code, out, weights[end : end + fan_out])
        at = end + fan_out
        x, y = y, x


def table_row(obs: Array, weights: Array, sizes: Array, scratch: Array, outputs: Array) -> None:
    """Look a state up in the table `weights [states * K]`; `sizes` are the number of states, and the first of them."""
    state = int(obs[0]) - sizes[1]
    if state < 0 or state >= sizes[0]:
        raise IndexError("an observation is outside its Discrete space")
    start = state * len(outputs)
    for k in range(len(outputs)):
        outputs[k] = weights[start + k]


def choose_categorical(
    outputs: Array, scale: Array, bounds: Array, noise: Array, greedy: bool, stored: Array, action: Array
) -> int:
    """Draw one of K actions as `draws.draw_categorical` does, or the most likely one.

    `outputs [K]` are logits, `bounds[0]` is the first action of the space. Stores the action, counted from 0, in
    `stored [1]` and returns that of the space; `scale` and `action` aren't used.
    """
    chosen = 0
    if greedy:
        for k in range(1, len(outputs)):
            if outputs[k] > outputs[chosen]:
                chosen = k
    elif len(outputs) == 2:
        far = np.float32(1e8)
        logistic = min(max(noise[0], -far), far)
        chosen = 1 if outputs[1] - outputs[0] > logistic else 0
    else:
        most = outputs[0]
        for k in range(1, len(outputs)):
            most = max(most, outputs[k])
        total = np.float32(0.0)
        for k in range(len(outputs)):
            total += np.exp(outputs[k] - most)
            outputs[k] = total  # the cumulative distribution, not normalized
        at = noise[0] * total
        for k in range(len(outputs) - 1):
            if outputs[k] <= at:
                chosen += 1
    stored[0] = chosen
    return chosen + int(bounds[0])


def choose_gaussian(
    outputs: Array, scale: Array, bounds: Array, noise: Array, greedy: bool, stored: Array, action: Array
) -> Array:
    """Draw independent normals as `draws.draw_normal` does, or their means.

    `outputs [A]` are the means, `scale [A]` the standard deviations, `bounds [2 * A]` the lower and the upper bounds of
    the action space. Stores the sample in `stored [A]`, and returns it clipped, in `action [A]`.
    """
    size = len(outputs)
    for j in range(size):
        sample = outputs[j] if greedy else outputs[j] + scale[j] * noise[j]
        stored[j] = sample
        low, high = bounds[j], bounds[size + j]
        action[j] = low if sample < low else high if sample > high else sample
    return action


def choose_rescaled(
    outputs: Array, scale: Array, bounds: Array, noise: Array, greedy: bool, stored: Array, action: Array
) -> Array:
    """Do what `choose_gaussian` does, but map [-1, 1] onto the action space in place of clipping the sample to it."""
    size, half, one = len(outputs), np.float32(0.5), np.float32(1.0)
    for j in range(size):
        sample = outputs[j] if greedy else outputs[j] + scale[j] * noise[j]
        stored[j] = sample
        inside = -one if sample < -one else one if sample > one else sample
        share = np.float64(half + half * inside)
        low, high = bounds[j], bounds[size + j]
        whole = low * (1 - share) + high * share
        action[j] = low if whole < low else high if whole > high else whole
    return action
