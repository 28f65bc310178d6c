"""Convolutional networks, evaluated member by member.

A convolution of several members at once (one per group of channels) is slower on a CPU than one after the other, and
its rounding depends on the number of members. So each member's network is evaluated alone, in blocks of `IMAGE_BLOCK`
rows: its results and gradients have the same bits alone and among others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.ops.entries import VECTOR, PackedSpace, entries_of, is_image
from pgzoo.ops.nets import ROW_BLOCK, Init, orthogonal
from pgzoo.types import Params, Spec

__all__ = [
    "ChannelOrder",
    "Conv",
    "ImageInputs",
    "Stack",
    "StackName",
    "by_member",
    "conv_stack",
    "init_conv",
    "recomputed_in_backward",
]

ChannelOrder = Literal["auto", "first", "last"]
StackName = Literal["nature", "impala"]

NATURE = ((8, 4), (4, 2), (3, 1))
"""Kernel size and stride of each layer of the Nature DQN, for images of at least `NATURE_SIDE` pixels."""
SMALL = ((3, 2), (3, 2), (3, 1))
"""The same for images of at least `SMALL_SIDE` pixels."""
TINY = ((3, 1), (3, 1), (3, 1))
"""The same for smaller images, such as the 10 x 10 grids of MinAtar."""
NATURE_SIDE, SMALL_SIDE = 36, 16


IMAGE_BLOCK = 32
"""Rows that are evaluated together on a CPU; larger blocks are no faster and take more memory. It divides
`nets.ROW_BLOCK`, to which batches of whole episodes are padded, and which is the size of a block on a GPU."""


ALIGNMENT = 64
"""Alignment in bytes of the tensors that torch allocates."""


class Conv(NamedTuple):
    """A convolution: numbers of input and output channels, kernel `(height, width)`, stride, and zero padding."""

    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: int = 0

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the output."""
        height, width = (
            (side + 2 * self.padding - kernel) // self.stride + 1
            for side, kernel in zip(size, self.kernel, strict=True)
        )
        return height, width


@dataclass(frozen=True)
class Stack:
    """The convolutions for images of one size.

    Attributes:
        name: "nature" (a ReLU after each convolution), or "impala" (sections of a convolution, a max-pooling of stride
            2, and two residual blocks of two convolutions each; a ReLU at the end).
        convs: the convolutions in order.
        features: number of outputs per image.
    """

    name: StackName
    convs: tuple[Conv, ...]
    features: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(c.inputs * c.outputs * prod(c.kernel) for c in self.convs)

    def kept(self, size: tuple[int, int, int]) -> int:
        """Return about how many floats a forward pass keeps per image of `size` (channels, height, width)."""
        side, kept = size[1:], 0
        for i, conv in enumerate(self.convs):
            side = conv.output_size(side)
            kept += conv.outputs * prod(side)
            if self.name == "impala" and i % 5 == 0:  # the pooling keeps its input and, in 8 bytes, its choices
                side = (side[0] + 1) // 2, (side[1] + 1) // 2
                kept += 3 * conv.outputs * prod(side)
            elif self.name == "impala":
                kept += conv.outputs * prod(side)
        return kept

    def init(self, rng: np.random.Generator, init: Init, prefix: str) -> Params:
        """Return one member's `weight.i [out, in, height, width]` and `bias.i [out]`.

        `orthogonal` has gain √2 and zero biases. The last convolution of each residual block of "impala" is scaled by
        1/√(number of blocks), as in GPT-2, so that the sum over the blocks has a size that doesn't grow with their
        number.
        """
        params: Params = {}
        blocks = 2 * len(self.convs) // 5
        for i, conv in enumerate(self.convs):
            ends_block = self.name == "impala" and i % 5 in (2, 4)
            weight, bias = init_conv(rng, conv, init)
            params[f"{prefix}weight.{i}"] = weight * blocks**-0.5 if ends_block else weight
            params[f"{prefix}bias.{i}"] = bias
        return params

    def apply(self, params: Params, prefix: str, x: Tensor) -> Tensor:
        """Return features `[rows, features]` of one member's images `[rows, channels, height, width]`."""

        def conv(i: int, x: Tensor) -> Tensor:
            c = self.convs[i]
            return F.conv2d(x, params[f"{prefix}weight.{i}"], params[f"{prefix}bias.{i}"], c.stride, c.padding)

        if self.name == "nature":
            for i in range(len(self.convs)):
                x = torch.relu_(conv(i, x))
            return x.flatten(1)
        for first in range(0, len(self.convs), 5):
            x = F.max_pool2d(conv(first, x), 3, 2, 1)
            for i in (first + 1, first + 3):
                x = x + conv(i + 1, torch.relu(conv(i, torch.relu(x))))
        return torch.relu(x).flatten(1)


def conv_stack(name: StackName, shape: tuple[int, int, int], filters: tuple[int, ...]) -> Stack:
    """Return the convolutions for images of `shape`, channels first. `filters` are the channels of layers or sections.

    "nature" has the kernels and strides of `NATURE`, or those of `SMALL` or `TINY` for small images; a kernel that is
    larger than its input is cut to it. The layer after the third repeats the kernel and stride of the third.

    Sources:
        nature: Mnih et al. (2015), Human-level control through deep reinforcement learning, Methods.
        impala: Espeholt et al. (2018), IMPALA, figure 3.
    """
    channels, *sides = shape
    size, convs = (sides[0], sides[1]), []
    side = min(size)
    table = NATURE if side >= NATURE_SIDE else SMALL if side >= SMALL_SIDE else TINY
    for i, count in enumerate(filters):
        if name == "nature":
            kernel, stride = table[min(i, len(table) - 1)]
            convs.append(Conv(channels, count, (min(kernel, size[0]), min(kernel, size[1])), stride))
            size = convs[-1].output_size(size)
        else:
            convs += [Conv(channels, count, (3, 3), 1, 1), *[Conv(count, count, (3, 3), 1, 1)] * 4]
            size = (size[0] + 1) // 2, (size[1] + 1) // 2
        channels = count
    return Stack(name, tuple(convs), channels * size[0] * size[1])


def init_conv(rng: np.random.Generator, conv: Conv, init: Init) -> tuple[Tensor, Tensor]:
    """Return one member's weight `[out, in, height, width]` and bias `[out]`.

    `orthogonal` has gain √2, the one for ReLU, and a zero bias; `default` is torch's for convolutions.
    """
    fan_in = conv.inputs * prod(conv.kernel)
    if init == "orthogonal":
        weight, bias = orthogonal(rng, conv.outputs, fan_in) * 2**0.5, np.zeros(conv.outputs)
    else:
        bound = fan_in**-0.5
        weight, bias = rng.uniform(-bound, bound, (conv.outputs, fan_in)), rng.uniform(-bound, bound, conv.outputs)
    shaped = np.ascontiguousarray(weight.reshape(conv.outputs, conv.inputs, *conv.kernel), np.float32)
    return torch.from_numpy(shaped), torch.from_numpy(bias.astype(np.float32))


def by_member(network: Any, params: Params, inputs: Mapping[str, Tensor]) -> Tensor:
    """Evaluate `network` for each member in blocks of rows, and return its results `[S, R, features]`.

    Args:
        network: maps one member's parameters and a block of its inputs, `[rows, ...]`, to `[rows, features]`.
        params: `[S, ...]`.
        inputs: `[S, R, ...]`.
    """
    first = next(iter(inputs.values()))
    each = []
    # one `unbind` for all: the gradient of `value[member]` would be as large as the parameters of all members
    members = zip(*(value.unbind() for value in params.values()), strict=True)
    for member, values in enumerate(members):
        own = {name: _aligned(value) for name, value in zip(params, values, strict=True)}
        seen = {name: value[member] for name, value in inputs.items()}
        if torch.compiler.is_exporting():
            each.append(network(own, seen))
            continue
        size = IMAGE_BLOCK if first.device.type == "cpu" else ROW_BLOCK
        blocks = zip(*(torch.split(value, size) for value in seen.values()), strict=True)
        results = (network(own, dict(zip(seen, block, strict=True))) for block in blocks)
        each.append(torch.cat(list(results)) if torch.is_grad_enabled() else _joined(results, len(first[member])))
    return torch.stack(each)


def _aligned(value: Tensor) -> Tensor:
    """Return the tensor, copied if it is not aligned: kernels choose the order of summation by alignment."""
    if torch.compiler.is_compiling():  # a traced tensor has no address
        return value
    return value if value.data_ptr() % ALIGNMENT == 0 else value.clone()


def _joined(results: Iterator[Tensor], rows: int) -> Tensor:
    """Concatenate results with `rows` rows in total, and copy each as soon as it is computed.

    Otherwise these small tensors would lie between large freed ones, whose memory then couldn't be used for the next.
    """
    block = next(results)
    joined, end = block.new_empty(rows, *block.shape[1:]), len(block)
    joined[:end] = block
    for block in results:
        joined[end : end + len(block)] = block
        end += len(block)
    return joined


@contextmanager
def recomputed_in_backward(x: Tensor, compute: Callable[[], Tensor]) -> Iterator[None]:
    """Keep no `x` for the backward pass, which calls `compute` to get the same values again.

    It is for images in float32, which take four times the memory of the pixels.
    """
    if torch.compiler.is_compiling():
        yield
        return
    address, shape = x.data_ptr(), x.shape
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: None if saved.data_ptr() == address and saved.shape == shape else saved,
        lambda kept: compute() if kept is None else kept,
    ):
        yield


@dataclass(frozen=True)
class _Image:
    """An image among the entries: its shape, whether channels come first, and whether its values are integers."""

    shape: tuple[int, ...]
    first: bool
    integers: bool

    def size(self) -> tuple[int, int, int]:
        """Return channels, height and width."""
        frames, image = self._layout()
        if len(image) == 2:
            return frames, image[0], image[1]
        channels, height, width = image if self.first else (image[2], *image[:2])
        return frames * channels, height, width

    def read(self, pixels: Tensor, divide_by: float) -> Tensor:
        """Return `[rows, channels, height, width]` in float32."""
        frames, image = self._layout()
        x = pixels.reshape(-1, frames, *image)
        if len(image) == 3 and not self.first:
            x = x.permute(0, 1, 4, 2, 3)
        x = (x / divide_by if self.integers else x).float()  # in a flattened Dict, integers may be float64
        return x.reshape(-1, *self.size())

    def _layout(self) -> tuple[int, tuple[int, ...]]:
        """Return the number of stacked frames, and the shape of one of them, with or without channels."""
        return (self.shape[0], self.shape[1:]) if len(self.shape) == 4 else (1, self.shape)


class ImageInputs:
    """The images of an observation, and the vector of all its other entries.

    Observations are one image, or a Dict or Tuple with an image among its entries. An image is a Box of two dimensions
    (one channel), of three, or of four (stacked frames, which become channels). Of two dimensions, only uint8 ones are
    images in a Dict or Tuple. With the channel order "auto", channels are in the first dimension if it is smaller than
    the last, else in the last.

    Attributes:
        sizes: channels, height and width of each image, by name.
        vector_size: number of values of the vector; Discrete entries are one-hot.
        mask: which numbers of an observation belong to images, `[*O]`; for a `PackedSpace`, which of its vector.

    Raises:
        UnfitError: there is no image.
    """

    def __init__(self, spec: Spec, who: str, channel_order: ChannelOrder, divide_by: float) -> None:
        self._space, self._divide_by = spec.observation_space, divide_by
        self._alone = isinstance(spec.original_space, gym.spaces.Box)
        self._images: dict[str, _Image] = {}
        self._cuts: list[tuple[str, int, int]] = []  # of the vector of entries that are not packed as bytes
        end = self.vector_size = 0
        for key, space in entries_of(spec.original_space):
            name = ""
            if _looks_like_image(space, alone=self._alone):
                name, shape = key or "image", space.shape or ()
                inner = shape[1:] if len(shape) == 4 else shape
                first = inner[0] < inner[-1] if channel_order == "auto" else channel_order == "first"
                self._images[name] = _Image(shape, first, np.issubdtype(space.dtype, np.integer))
            if not (isinstance(self._space, PackedSpace) and is_image(space)):
                start, end = end, end + gym.spaces.flatdim(space)
                self._cuts.append((name, start, end))
                self.vector_size += 0 if name else end - start
        if not self._images:
            raise UnfitError(
                f"{who} doesn't fit the observation space {spec.original_space}: it contains no image, which is a Box "
                "of two to four dimensions. Use --policy mlp."
            )
        self.sizes = {name: image.size() for name, image in self._images.items()}
        mask = np.concatenate([np.ones(0, np.bool_), *(np.full(b - a, bool(name)) for name, a, b in self._cuts)])
        self.mask = mask.reshape(spec.observation_space.shape or ()) if self._alone else mask

    def parts(self, obs: Any) -> dict[str, Tensor]:
        """Split observations `[S, T, B, *O]` into images and a vector, `[S, R, ...]` with R = T * B.

        Observations of a `PackedSpace` may also be given unpacked.
        """
        if self._alone:
            return {name: obs.flatten(1, 2) for name in self._images}
        if isinstance(self._space, PackedSpace):
            known = obs if isinstance(obs, Mapping) else self._space.unpack(obs)
        else:
            known = {VECTOR: obs}
        parts = {name: value.flatten(1, 2) for name, value in known.items()}
        if self._cuts:
            flat = parts.pop(VECTOR)
            parts |= {name: flat[..., start:end] for name, start, end in self._cuts if name}
            if self.vector_size:
                parts[VECTOR] = torch.cat([flat[..., start:end] for name, start, end in self._cuts if not name], -1)
        return parts

    def read(self, parts: Mapping[str, Tensor], name: str) -> Tensor:
        """Return an image of a block of rows, `[rows, channels, height, width]` in float32; integers are divided."""
        return self._images[name].read(parts[name], self._divide_by)


def _looks_like_image(space: gym.Space[Any], *, alone: bool) -> bool:
    if not isinstance(space, gym.spaces.Box):
        return False
    if len(space.shape) == 2:
        return alone or (space.dtype == np.uint8 and min(space.shape) >= SMALL_SIDE)
    return len(space.shape) in (3, 4)
