"""Recurrent policies."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from pgzoo.ops.heads import ActionHead, ObsEncoder
from pgzoo.ops.nets import (
    MAX_LAYERS,
    ROW_ALIGN,
    ROW_BLOCK,
    Activation,
    init_mlp,
    layers_of,
    mlp,
    mlp_numpy,
    numpy_layers,
)
from pgzoo.ops.recurrent import CELLS, CellName, init_cell, run, run_numpy
from pgzoo.policies.mlp import LinearConfig
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, Spec


class RecurrentConfig(LinearConfig):
    """Settings of the policies `gru` and `lstm`."""

    hidden: Annotated[
        tuple[PositiveInt, ...],
        Field(max_length=MAX_LAYERS, description="sizes of the hidden layers before the recurrent one"),
    ] = (64,)
    memory: Annotated[PositiveInt, Field(description="number of units of the recurrent layer")] = 64
    activation: Annotated[Activation, Field(description="activation function of the hidden layers")] = "tanh"


class Recurrent:
    """Hidden layers, then a recurrent layer whose output determines a distribution over actions.

    The memory is reset to zero before the first step of every episode, both in acting and in learning. A critic is an
    additional output of the same recurrent layer: it needs the same information, and a separate one would double the
    most expensive part. The memory is one array `[S, N, memory_size]`; for an LSTM, the output and the cell state are
    concatenated.
    """

    def __init__(self, name: CellName, config: RecurrentConfig, spec: Spec, needs: frozenset[str]) -> None:
        who = f'policy "{name}"'
        self.name, self.cell, self.config, self.needs = name, CELLS[name], config, needs
        self.head = ActionHead(spec, config, needs, who, config.memory)
        self.encoder = ObsEncoder(spec.observation_space, who)
        self.noise, self.noise_size, self.noise_steps = self.head.noise, self.head.noise_size, self.head.noise_steps
        self.to_env = self.head.to_env
        self.without_effect = self.head.without_effect
        self.memory_size = self.cell.parts * config.memory

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's layers. The last feedforward layer computes the input part of the gates."""
        c, gates = self.config, self.cell.gates

        def layers(prefix: str, sizes: tuple[int, ...], last_gain: float) -> Params:
            made = init_mlp(rng, sizes, activation=c.activation, init=c.init, last_gain=last_gain)
            return {prefix + name: value for name, value in made.items()}

        params = layers("", (self.encoder.size, *c.hidden, gates * c.memory), gates**0.5)
        params |= {f"memory.{name}": value for name, value in init_cell(rng, self.name, c.memory, c.init).items()}
        params |= layers("head.", (c.memory, self.head.outputs), 0.01) | self.head.init()
        if "value" in self.needs:
            params |= layers("critic.", (c.memory, 1), 1.0)
        if "aux_value" in self.needs:
            params |= layers("critic.aux.", (c.memory, 1), 1.0)
        return params

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return distribution and values for sequences: obs `[S, T, B, *O]`, memory `[S, B, M]`, starts `[S, T, B]`.

        Environments are padded to a multiple of `ROW_ALIGN` and rows to one of `ROW_BLOCK`, so that the sizes of matrix
        products don't depend on the padding of a sequence.
        """
        c = self.config
        assert inputs.memory is not None and inputs.starts is not None
        steps, envs = (shape := inputs.obs.shape[:3])[1:]
        # rounds up without negative numbers, for which ONNX defines division differently
        wide = (envs + ROW_ALIGN - 1) // ROW_ALIGN * ROW_ALIGN
        rows = (steps * wide + ROW_BLOCK - 1) // ROW_BLOCK * ROW_BLOCK

        def flatten_rows(x: Tensor) -> Tensor:  # [S, T, wide, K] -> [S, rows, K]
            return F.pad(x.flatten(1, 2), (0, 0, 0, rows - steps * wide))

        def unflatten_steps(x: Tensor) -> Tensor:
            return x[:, : steps * wide].reshape(-1, steps, wide, x.shape[-1])

        x = F.pad(self.encoder.encode(inputs.obs), (0, 0, 0, wide - envs))
        x = unflatten_steps(mlp(layers_of(params), flatten_rows(x), c.activation))
        memory, starts = F.pad(inputs.memory, (0, 0, 0, wide - envs)), F.pad(inputs.starts, (0, wide - envs))
        remembered, memory = run(self.cell, x, params["memory.weight"], params["memory.bias"], memory, starts)
        features = flatten_rows(remembered)

        def read(prefix: str) -> Tensor:
            return unflatten_steps(mlp(layers_of(params, prefix), features, c.activation))[:, :, :envs]

        return Output(
            dist=self.head.distribution(read("head."), params, inputs.action_mask, remembered[:, :, :envs]),
            value=read("critic.").reshape(shape) if "value" in self.needs else None,
            memory=memory[:, :envs],
            aux_value=read("critic.aux.").reshape(shape) if "aux_value" in self.needs else None,
        )

    def actor(self, params: Params) -> RecurrentActor:
        """Return an actor on numpy views that share memory with the parameters."""
        return RecurrentActor(self, params)


class RecurrentActor:
    """Takes one step in numpy."""

    def __init__(self, policy: Recurrent, params: Params) -> None:
        self.policy, self.log_std = policy, policy.head.log_std_of(params)
        arrays = {name: value.detach().numpy() for name, value in params.items()}
        self.layers = numpy_layers({name: arrays[name] for name in layers_of(params)})
        self.weight, self.bias = arrays["memory.weight"], arrays["memory.bias"][:, None]
        self.last = [(arrays["head.weight.0"], arrays["head.bias.0"][:, None])]

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, Array]:
        """Return actions `[S, N, *A]` and the memory `[S, N, M]`, for `obs [S, N, *O]`, `noise [S, N, K]` or None."""
        policy, act = self.policy, self.policy.config.activation
        assert seen.memory is not None and seen.starts is not None
        x = mlp_numpy(self.layers, policy.encoder.encode_numpy(seen.obs), act)
        memory = run_numpy(policy.cell, x, self.weight, self.bias, seen.memory, seen.starts)
        features = memory[..., : policy.config.memory]
        outputs = mlp_numpy(self.last, features, act)
        return policy.head.choose(outputs, self.log_std, seen.action_mask, noise, features), memory


def gru(config: RecurrentConfig, spec: Spec, needs: frozenset[str]) -> Recurrent:
    """Return a policy with a layer of gated recurrent units."""
    return Recurrent("gru", config, spec, needs)


def lstm(config: RecurrentConfig, spec: Spec, needs: frozenset[str]) -> Recurrent:
    """Return a policy with a layer of long short-term memory units."""
    return Recurrent("lstm", config, spec, needs)
