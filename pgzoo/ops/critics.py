"""Critics that an algorithm has in addition to the policy's: networks over observations, or observations and actions.

The policy's critic estimates V(s). An algorithm that learns something else, such as Q(s, a) or a median, has a network
of its own: it returns the parameters from its `init`, and evaluates the network in its losses.

    init(ctx, rng):   AlgorithmState(init_critic_network(rng, "mine.q.", ctx.policy.vector_size + 3, (64, 64)), {})
    loss(...):        critic_network(params, "mine.q.", torch.cat([policy.vectors(params, batch.inputs), actions], -1))

With `outputs=K`, the network has K outputs, for example one action value Q(s, a) for each of K discrete actions.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pgzoo.ops.nets import ROW_ALIGN, Activation, init_mlp, init_norms, last_layer, layers_of, norms_of, trunk
from pgzoo.types import Params

__all__ = ["critic_network", "init_critic_network"]


def init_critic_network(
    rng: np.random.Generator,
    prefix: str,
    size: int,
    hidden: tuple[int, ...],
    *,
    outputs: int | None = None,
    layer_norm: bool = False,
    activation: Activation = "tanh",
) -> Params:
    """Return one member's parameters of a multilayer perceptron from `size` numbers to `outputs` numbers.

    Args:
        rng: the member's random generator.
        prefix: start of the names of the parameters, such as "mine.q.". It must not be "policy." or "critic.".
        size: number of inputs.
        hidden: sizes of the hidden layers.
        outputs: number of outputs; None: one, and the result of `critic_network` has no axis for it. Pass the same to
            `critic_network`.
        layer_norm: normalize the inputs of each activation function.
        activation: activation function of the hidden layers; pass the same to `critic_network`.
    """
    params = init_mlp(rng, (size, *hidden, outputs or 1), activation=activation, init="orthogonal", last_gain=1.0)
    params |= init_norms(hidden if layer_norm else ())
    return {prefix + name: value for name, value in params.items()}


def critic_network(
    params: Params, prefix: str, x: Tensor, activation: Activation = "tanh", *, outputs: int | None = None
) -> Tensor:
    """Evaluate the network whose parameters are named with `prefix`.

    Shapes: `x [S, T, B, size] -> [S, T, B]`, or `[S, T, B, outputs]` if `outputs` is given.
    """
    layers, rows = layers_of(params, prefix), x.flatten(1, 2)
    count = rows.shape[1]
    rows = F.pad(rows, (0, 0, 0, -count % ROW_ALIGN))  # batches for gradient steps have this size already
    results = last_layer(layers, trunk(layers, rows, activation, norms_of(params, prefix)))
    return results[:, :count].reshape(*x.shape[:3], *(() if outputs is None else (outputs,)))
