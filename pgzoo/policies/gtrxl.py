"""A gated transformer that attends to the last observations of the episode."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from pgzoo.errors import UnfitError
from pgzoo.ops.elementwise import sigmoid
from pgzoo.ops.families import FORBIDDEN
from pgzoo.ops.heads import ActionHead, ObsEncoder
from pgzoo.ops.nets import MAX_LAYERS, ROW_ALIGN, init_mlp, layer_norm, layer_norm_numpy, linear
from pgzoo.policies.mlp import LinearConfig
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, Spec

EXPANSION = 4
"""Size of the hidden layer of a block, as a multiple of the block's width."""

CHUNK = ROW_ALIGN
"""Steps of a sequence whose attention is computed together. With `ROW_ALIGN` steps of a multiple of `ROW_ALIGN`
environments, rows fill whole blocks of `linear`."""


class GTrXLConfig(LinearConfig):
    """Settings of the `gtrxl` policy."""

    width: Annotated[PositiveInt, Field(description="number of features of each block")] = 64
    blocks: Annotated[PositiveInt, Field(le=MAX_LAYERS, description="number of transformer blocks")] = 1
    heads: Annotated[PositiveInt, Field(description="number of attention heads; a divisor of the width")] = 4
    memory: Annotated[
        PositiveInt, Field(description="number of previous steps of the episode that each block attends to")
    ] = 32
    gate_bias: Annotated[
        float, Field(description="initial bias of the gates; the larger, the closer a block is to the identity")
    ] = 2.0


class GTrXL:
    """A layer that embeds the observation, then transformer blocks with gates; a smaller GTrXL.

    Each block attends to its own inputs at the current step and at the previous `memory` steps of the episode:

        h = norm(x)
        y = gate(x, relu(attention(h, memory)))
        z = gate(y, relu(W₂ relu(W₁ norm(y))))

    where gate(x, y) = (1 - u) x + u tanh(W y + U (r x)), with a reset gate r and an update gate u as in a GRU.
    The update gate is initially nearly closed, so a block begins as almost the identity.

    The memory is h of the previous steps, for each block, and the number of steps of the episode that it holds. It is
    cleared before the first step of every episode. As in Transformer-XL, gradients flow through the attention to
    earlier steps of the rollout, but not to the memory from before the rollout. A critic is an additional output.

    Differences from the paper: the term of the attention that depends on relative positions is a linear function of h
    with an output for each head and each number of steps back, instead of an embedding of sinusoids; the embedding is
    one layer with a tanh, so that all features stay between -1 and 1; and the defaults are much smaller.

    Sources:
        Parisotto et al. (2020), Stabilizing transformers for reinforcement learning, section 3.
        Dai et al. (2019), Transformer-XL, section 3.2, on the memory.
    """

    def __init__(self, config: GTrXLConfig, spec: Spec, needs: frozenset[str]) -> None:
        who = 'policy "gtrxl"'
        if config.width % config.heads:
            raise UnfitError(
                f"{who}: the width {config.width} is not a multiple of the number of heads, {config.heads}."
            )
        self.config, self.needs = config, needs
        self.head = ActionHead(spec, config, needs, who, config.width)
        self.encoder = ObsEncoder(spec.observation_space, who)
        self.noise, self.noise_size, self.noise_steps = self.head.noise, self.head.noise_size, self.head.noise_steps
        self.to_env = self.head.to_env
        self.without_effect = self.head.without_effect
        self.memory_size = config.blocks * config.memory * config.width + 1

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's layers, under the names `LAYER.weight` and `LAYER.bias`."""
        c, params = self.config, Params()

        def layer(name: str, fan_in: int, fan_out: int, gain: float = 1.0) -> None:
            new = init_mlp(rng, (fan_in, fan_out), activation="identity", init=c.init, last_gain=gain)
            params[f"{name}.weight"], params[f"{name}.bias"] = new["weight.0"], new["bias.0"]

        layer("embed", self.encoder.size, c.width, 5 / 3)
        for k in range(c.blocks):
            for name in ("query", "key", "value", "project"):
                layer(f"block.{k}.{name}", c.width, c.width)
            layer(f"block.{k}.position", c.width, c.heads * (c.memory + 1), 0.01)
            layer(f"block.{k}.hidden", c.width, EXPANSION * c.width, 2**0.5)
            layer(f"block.{k}.out", EXPANSION * c.width, c.width)
            for gate in ("attention", "feedforward"):
                name = f"block.{k}.{gate}_gate"
                layer(
                    f"{name}.new", c.width, 3 * c.width, 3**0.5
                )  # of the reset gate, the update gate and the candidate
                layer(f"{name}.old", c.width, 2 * c.width, 2**0.5)
                layer(f"{name}.reset", c.width, c.width)
                params[f"{name}.new.bias"][c.width : 2 * c.width] -= c.gate_bias
        layer("head", c.width, self.head.outputs, 0.01)
        params |= self.head.init()
        if "value" in self.needs:
            layer("critic", c.width, 1)
        if "aux_value" in self.needs:
            layer("critic.aux", c.width, 1)
        return params

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return distribution and values for sequences: obs `[S, T, B, *O]`, memory `[S, B, M]`, starts `[S, T, B]`.

        The steps of a sequence are padded to a multiple of `CHUNK`, and environments to one of `ROW_ALIGN`, so that the
        sizes of matrix products don't depend on the padding of a sequence.
        """
        c = self.config
        assert inputs.memory is not None and inputs.starts is not None
        steps, envs = (shape := inputs.obs.shape[:3])[1:]
        # rounds up without negative numbers, for which ONNX defines division differently
        more = (envs + ROW_ALIGN - 1) // ROW_ALIGN * ROW_ALIGN - envs
        later = -steps % CHUNK if steps > 1 else 0
        memory = F.pad(inputs.memory, (0, 0, 0, more))
        kept = memory[..., :-1].reshape(*memory.shape[:2], c.blocks, c.memory, c.width)  # [S, B, blocks, M, width]
        seen = _Seen.of(F.pad(inputs.starts, (0, more, 0, later)), memory[..., -1], c.memory)
        x = torch.tanh(_layer(params, "embed", F.pad(self.encoder.encode(inputs.obs), (0, 0, 0, more, 0, later))))
        after = []
        for k in range(c.blocks):
            entries = torch.cat([kept[:, :, k].transpose(1, 2), layer_norm(x)], 1)  # [S, M + T, B, width]
            x = self._block(params, f"block.{k}.", x, entries, seen)
            after.append(entries[:, steps : steps + c.memory] * seen.remembered(steps).unsqueeze(-1))
        count = seen.remembered(steps).sum(1).unsqueeze(-1)  # [S, B, 1]
        last = torch.cat([torch.stack(after, 1).permute(0, 3, 1, 2, 4).flatten(2), count], -1)

        def read(name: str) -> Tensor:
            return _layer(params, name, x)[:, :steps, :envs]

        return Output(
            dist=self.head.distribution(read("head"), params, inputs.action_mask, x[:, :steps, :envs]),
            value=read("critic").reshape(shape) if "value" in self.needs else None,
            memory=last[:, :envs],
            aux_value=read("critic.aux").reshape(shape) if "aux_value" in self.needs else None,
        )

    def actor(self, params: Params) -> GTrXLActor:
        """Return an actor on numpy views that share memory with the parameters."""
        return GTrXLActor(self, params)

    def _block(self, params: Params, name: str, x: Tensor, entries: Tensor, seen: _Seen) -> Tensor:
        """Apply a block to `x [S, T, B, width]`, whose steps attend to `entries [S, M + T, B, width]`."""
        attended = _layer(params, f"{name}project", self._attention(params, name, entries, seen))
        y = _gate(params, f"{name}attention_gate", x, torch.relu(attended))
        hidden = torch.relu(_layer(params, f"{name}hidden", layer_norm(y)))
        return _gate(params, f"{name}feedforward_gate", y, torch.relu(_layer(params, f"{name}out", hidden)))

    def _attention(self, params: Params, name: str, entries: Tensor, seen: _Seen) -> Tensor:
        """Return the attended values `[S, T, B, width]`.

        The steps of a chunk share one product with all entries that any of them may attend to. All products have the
        same size, whatever the number of chunks.
        """
        c, size = self.config, self.config.width // self.config.heads
        queries = entries[:, c.memory :]

        def heads(x: Tensor) -> Tensor:  # [S, chunks, steps, B, heads * K] -> [S, chunks, B, heads, steps, K]
            # copied, because products choose the order of summation by the layout
            return x.reshape(*x.shape[:-1], c.heads, -1).permute(0, 1, 3, 4, 2, 5).contiguous()

        def chunks(x: Tensor) -> Tensor:  # [S, T, B, K] -> [S, chunks, C, B, K]
            return x.reshape(len(x), -1, seen.chunk, *x.shape[2:])

        q = heads(chunks(_layer(params, f"{name}query", queries)))
        wide = F.pad(entries, (0, 0, 0, 0, 0, seen.padding))
        key, value = (heads(seen.windows(_layer(params, f"{name}{kind}", wide))) for kind in ("key", "value"))
        position = heads(chunks(_layer(params, f"{name}position", queries)))  # of the entries from the oldest
        scores = (q @ key.transpose(-1, -2) + _skew(position, key.shape[-2])) * size**-0.5
        weights = torch.softmax(torch.where(seen.visible, scores, FORBIDDEN), -1)
        attended = weights @ value  # [S, chunks, B, heads, C, size]
        return attended.permute(0, 1, 4, 2, 3, 5).flatten(-2).flatten(1, 2)


class _Seen(NamedTuple):
    """Which entries each step may attend to. Entries are the M of the memory, oldest first, then the T steps.

    Steps are in chunks of C, which is `CHUNK`, or 1 for a single step.

    Attributes:
        episode: the episode of each entry, `[S, M + T, B]`, counted from the first step; -1 for an entry of the memory
            that holds no step.
        visible: `[S, chunks, B, 1, C, L]` bool, for each step of a chunk and each of the L entries of its window.
        gathered: the entries of each window, `[chunks * L]`.
        padding: number of entries to append, so that all windows are complete.
    """

    episode: Tensor
    visible: Tensor
    gathered: Tensor
    padding: int

    @classmethod
    def of(cls, starts: Tensor, count: Tensor, memory: int) -> _Seen:
        """`starts [S, T, B]`; `count [S, B]` is the number of entries of the memory that hold a step."""
        steps, device = starts.shape[1], starts.device
        age = torch.arange(memory, 0, -1, device=device).reshape(1, -1, 1)
        kept = torch.where(age <= count.unsqueeze(1), 0, -1)
        episode = torch.cat([kept, starts.long().cumsum(1)], 1)
        chunk = min(steps, CHUNK)
        length = -(-(memory + chunk) // ROW_ALIGN) * ROW_ALIGN
        chunks = steps // chunk
        window = torch.arange(length, device=device)
        index = (torch.arange(chunks, device=device).unsqueeze(1) * chunk + window).flatten()
        padding = (chunks - 1) * chunk + length - memory - steps
        padding += -(memory + steps + padding) % ROW_ALIGN
        step = torch.arange(chunk, device=device).unsqueeze(1)
        near = (step <= window) & (window <= step + memory)  # [C, L]
        known = (
            F.pad(episode, (0, 0, 0, padding), value=-1).index_select(1, index).reshape(len(starts), chunks, length, -1)
        )
        own = episode[:, memory:].reshape(len(starts), chunks, chunk, -1)
        same = own.transpose(2, 3).unsqueeze(-1) == known.transpose(2, 3).unsqueeze(-2)  # [S, chunks, B, C, L]
        return cls(episode, (same & near).unsqueeze(3), index, padding)

    @property
    def chunk(self) -> int:
        """The number C of steps in a chunk."""
        return self.visible.shape[-2]

    def windows(self, entries: Tensor) -> Tensor:
        """Return the windows of all chunks: `[S, M + T + padding, B, K] -> [S, chunks, L, B, K]`."""
        chunks = self.visible.shape[1]
        return entries.index_select(1, self.gathered).reshape(len(entries), chunks, -1, *entries.shape[2:])

    def remembered(self, steps: int) -> Tensor:
        """Return which of the last M entries after `steps` steps are of the current episode, `[S, M, B]` of 0 and 1."""
        memory = self.episode.shape[1] - self.visible.shape[1] * self.chunk
        last = self.episode[:, memory + steps - 1].unsqueeze(1)
        return (self.episode[:, steps : steps + memory] == last).float()


def _layer(params: Params, name: str, x: Tensor) -> Tensor:
    """Apply a linear layer to `x [S, T, B, in]`."""
    return linear(x.flatten(1, 2), params[f"{name}.weight"], params[f"{name}.bias"]).reshape(*x.shape[:3], -1)


def _gate(params: Params, name: str, x: Tensor, y: Tensor) -> Tensor:
    """Return (1 - u) x + u tanh(W y + U (r x)), `[S, T, B, width]`."""
    (new_r, new_u, new), (old_r, old_u) = (
        _layer(params, f"{name}.new", y).chunk(3, -1),
        _layer(params, f"{name}.old", x).chunk(2, -1),
    )
    candidate = torch.tanh(new + _layer(params, f"{name}.reset", sigmoid(new_r + old_r) * x))
    return x + sigmoid(new_u + old_u) * (candidate - x)


def _skew(x: Tensor, length: int) -> Tensor:
    """Shift row i of `x [..., C, K]` by i columns to the right, in zeros `[..., C, length]`."""
    chunk = x.shape[-2]
    wide = F.pad(x, (0, length + 1 - x.shape[-1])).flatten(-2)
    return wide[..., : chunk * length].reshape(*x.shape[:-2], chunk, length)


class GTrXLActor:
    """Takes one step in numpy."""

    def __init__(self, policy: GTrXL, params: Params) -> None:
        self.policy, self.log_std = policy, policy.head.log_std_of(params)
        self.arrays = {name: value.detach().numpy() for name, value in params.items()}

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, Array]:
        """Return actions `[S, N, *A]` and the memory `[S, N, M]`, for `obs [S, N, *O]`, `noise [S, N, K]` or None."""
        c, policy = self.policy.config, self.policy
        assert seen.memory is not None and seen.starts is not None
        members, envs = seen.starts.shape
        count = np.where(seen.starts, np.float32(0), seen.memory[..., -1])
        valid = np.arange(c.memory, -1, -1) <= count[..., None]  # [S, N, M + 1], the current step last
        valid[..., -1] = True
        kept = seen.memory[..., :-1].reshape(members, envs, c.blocks, c.memory, c.width)
        after = np.empty_like(kept)
        x = np.tanh(self._layer("embed", policy.encoder.encode_numpy(seen.obs)))
        for k in range(c.blocks):
            entries = np.concatenate([kept[:, :, k], layer_norm_numpy(x)[:, :, None]], 2)  # [S, N, M + 1, width]
            entries = np.where(valid[..., None], entries, np.float32(0))
            after[:, :, k] = entries[:, :, 1:]
            x = self._block(f"block.{k}.", x, entries, valid)
        count = valid[..., 1:].sum(-1, dtype=np.float32)
        memory = np.concatenate([after.reshape(members, envs, -1), count[..., None]], -1)
        return policy.head.choose(self._layer("head", x), self.log_std, seen.action_mask, noise, x), memory

    def _layer(self, name: str, x: Array) -> Array:
        return np.asarray(x @ self.arrays[f"{name}.weight"] + self.arrays[f"{name}.bias"][:, None])

    def _block(self, name: str, x: Array, entries: Array, valid: Array) -> Array:
        """Apply a block to `x [S, N, width]`; see `GTrXL._block`."""
        attended = self._layer(f"{name}project", self._attention(name, entries, valid))
        y = self._gate(f"{name}attention_gate", x, np.maximum(attended, 0))
        hidden = np.maximum(self._layer(f"{name}hidden", layer_norm_numpy(y)), 0)
        return self._gate(f"{name}feedforward_gate", y, np.maximum(self._layer(f"{name}out", hidden), 0))

    def _attention(self, name: str, entries: Array, valid: Array) -> Array:
        """Return the attended values `[S, N, width]`, for `entries [S, N, M + 1, width]`.

        The layers of keys and values are not applied to each entry, but to the query and to the weighted mean of the
        entries: q·(W h + b) = (Wᵀ q)·h + q·b, where q·b is the same for all entries and so has no effect on the
        weights, which add up to 1.
        """
        c, size = self.policy.config, self.policy.config.width // self.policy.config.heads
        h = entries[:, :, -1]
        by_head = (*h.shape[:2], c.heads, -1)
        query = self._layer(f"{name}query", h).reshape(*by_head[:3], 1, size)
        key = self.arrays[f"{name}key.weight"].reshape(-1, 1, c.width, c.heads, size).transpose(0, 1, 3, 4, 2)
        asked = (query @ key)[..., 0, :]  # [S, N, heads, width]
        position = self._layer(f"{name}position", h).reshape(by_head)
        scores = (asked @ entries.swapaxes(-1, -2) + position) * np.float32(size**-0.5)  # [S, N, heads, M + 1]
        scores = np.where(valid[:, :, None], scores, np.float32(FORBIDDEN))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        value = self.arrays[f"{name}value.weight"].reshape(-1, 1, c.width, c.heads, size).transpose(0, 1, 3, 2, 4)
        attended = ((weights @ entries)[..., None, :] @ value)[..., 0, :]  # [S, N, heads, size]
        return np.asarray(attended.reshape(*h.shape) + self.arrays[f"{name}value.bias"][:, None])

    def _gate(self, name: str, x: Array, y: Array) -> Array:
        (new_r, new_u, new), (old_r, old_u) = (
            np.split(self._layer(f"{name}.new", y), 3, -1),
            np.split(self._layer(f"{name}.old", x), 2, -1),
        )
        candidate = np.tanh(new + self._layer(f"{name}.reset", _sigmoid(new_r + old_r) * x))
        return np.asarray(x + _sigmoid(new_u + old_u) * (candidate - x))


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))
