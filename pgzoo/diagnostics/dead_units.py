"""The fraction of hidden units that learn nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pgzoo.diagnostics.batches import batch_of, why_no_batch
from pgzoo.ops.nets import layers_of, norms_of, trunk
from pgzoo.protocols import UpdateContext
from pgzoo.types import Params, TrainState, Trajectory

POLICY = "policy."
SATURATED = 0.99
"""Absolute value from which the output of tanh is considered saturated."""


class DeadUnits:
    """The fraction of the policy's hidden units whose gradient is 0, or nearly, for every observation of an update.

    A relu unit is dead if its output is 0 for every observation. A tanh unit is dead if its output is beyond ±0.99 for
    every observation. Units of a separate critic are not counted. It needs the policy `mlp` with one of these
    activation functions.
    """

    def fits(self, plan: Any) -> str:
        """Return an empty string for the policy `mlp` with relu or tanh, else the reason why it can't measure."""
        policy = plan.config.policy
        if policy.name != "mlp":
            return f'it measures the policy "mlp", not "{policy.name}"'
        if policy.settings.activation not in ("relu", "tanh"):
            return f"it measures the activation functions relu and tanh, not {policy.settings.activation}"
        return why_no_batch(plan) if policy.settings.hidden else "the policy has no hidden layers"

    def measure(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> Tensor:
        """Return the fraction of all hidden units, `[S]`."""
        batch = batch_of(ctx, state, trajectory)
        activation: Any = ctx.config.policy.settings
        params = state.params | state.buffers
        rows = (batch.weights > 0).flatten(1).unsqueeze(-1)  # [S, B, 1]
        inputs = ctx.policy.vectors(params, batch.inputs).flatten(1, 2)  # [S, B, size]
        layers, norms = layers_of(params, POLICY), norms_of(params, POLICY)
        dead, units = torch.zeros(len(rows), device=rows.device), 0
        for depth in range(1, len(layers) // 2):
            size = trunk(_first(layers, depth + 1), inputs, activation.activation, _first(norms, depth)).abs()
            if activation.activation == "relu":
                alive = ((size > 0) & rows).any(1)  # [S, units]
            else:
                alive = ((size <= SATURATED) & rows).any(1)
            dead, units = dead + (~alive).sum(1), units + alive.shape[1]
        return dead / units


def _first(layers: Params, count: int) -> Params:
    """Return the parameters of the first `count` layers."""
    return {name: value for name, value in layers.items() if int(name.rpartition(".")[2]) < count}
