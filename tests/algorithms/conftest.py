"""A tabular actor-critic, for which the loss of an algorithm can be calculated by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pgzoo.ops.distributions import Categorical
from pgzoo.types import Batch, Hyper, Inputs, Loss, Output, Params

LOG_3 = float(np.log(3.0))


class Tabular:
    """A policy and critic for two states and any T: lookups in `logits [S, 2, 2]`, `values [S, 2]` and `aux [S, 2]`."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return the output for states `[S, T, B]`."""
        one = torch.arange(len(inputs.obs))[:, None, None]
        return Output(
            Categorical(params["logits"][one, inputs.obs]),
            value=params["values"][one, inputs.obs],
            aux_value=params["aux"][one, inputs.obs],
        )

    def vectors(self, params: Params, inputs: Inputs) -> Tensor:
        """Return the states, one-hot encoded."""
        return torch.nn.functional.one_hot(inputs.obs, 2).float()


class Judged(NamedTuple):
    """The loss of one member, and its gradient with respect to each table."""

    loss: Loss
    gradients: dict[str, list[Any]]


Judge = Callable[..., Judged]


@pytest.fixture
def judge(plan: Callable[..., Any]) -> Judge:
    """Return `judge(algorithm, columns, params, loss="loss", remaining=1.0, **settings)`, which returns a `Judged`.

    `columns` are lists: states, actions, advantages, returns, weights and values; also `ratios` (new over old
    probability of the action) and `old_logits` for algorithms that compare with the old policy. The probability of
    action 1 is 3/4 in state 0, and 1/2 in state 1.
    """

    def judged(
        algorithm: str,
        columns: dict[str, Any],
        params: dict[str, Any] | None = None,
        *,
        loss: str = "loss",
        remaining: float = 1.0,
        **settings: Any,
    ) -> Judged:
        one = plan(algorithm, **settings)
        count = len(columns["states"])

        def rows(name: str, default: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(columns.get(name, [default] * count), dtype=dtype).reshape(1, 1, count)

        tables = {
            "logits": torch.tensor([[[0.0, LOG_3], [0.0, 0.0]]]),
            "values": torch.zeros(1, 2),
            "aux": torch.zeros(1, 2),
        }
        leaves = tables | {name: torch.tensor(value)[None] for name, value in (params or {}).items()}
        leaves = {n: v.clone().requires_grad_() if v.is_floating_point() else v for n, v in leaves.items()}
        inputs, actions = Inputs(rows("states", dtype=torch.int64)), rows("actions", dtype=torch.int64)
        with torch.no_grad():
            now = Tabular().apply(leaves, inputs).dist.log_prob(actions)
        old = torch.tensor(columns["old_logits"])[None, None] if "old_logits" in columns else None
        batch = Batch(
            inputs=inputs,
            actions=actions,
            timestep=torch.zeros_like(actions),
            advantages=rows("advantages"),
            returns=rows("returns"),
            weights=rows("weights", 1.0),
            values=rows("values"),
            log_probs=now - rows("ratios", 1.0).log(),
            old=None if old is None else Categorical(old),
        )
        given = dict(one.config.settings) | {"gamma": one.config.gamma, "remaining": remaining}
        expanded = {k: torch.full((1, 1, 1), v) if isinstance(v, float) else v for k, v in given.items()}
        result = getattr(one.algorithm, loss)(Tabular(), leaves, batch, Hyper(expanded))
        assert result.value.shape == (1,)
        learned = {n: v for n, v in leaves.items() if v.requires_grad}
        found = torch.autograd.grad(result.value.sum(), list(learned.values()), materialize_grads=True)
        gradients = {n: g[0].flatten().tolist() for n, g in zip(learned, found, strict=True)}
        detached: list[Any] = [v.detach() if isinstance(v, Tensor) else v for v in result]
        return Judged(Loss(*detached), gradients)

    return judged
