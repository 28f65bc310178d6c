"""Find the first non-finite tensor of a failed member, without waiting for the device during an update."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgzoo.ops.members import map_leaves, per_member
from pgzoo.ops.optim import flatten, unflatten
from pgzoo.types import Batch, Params

__all__ = ["FailedStep", "bad_rewards", "largest"]


class FailedStep(NamedTuple):
    """The tensors of a gradient step that left some members non-finite, in the order in which they are computed.

    Shapes:
        bad: `[S]` bool, the members that the step left non-finite; only their values in the other tensors matter.
        obs, advantages: `[S]`, the largest absolute value in the batch.
        before, gradient, reached: `[S, P]`, the parameters before the step, its gradient, and the parameters after it.
        value, norm: `[S]`, the loss and the norm of its gradient.
    """

    bad: Tensor
    obs: Tensor
    advantages: Tensor
    before: Tensor
    value: Tensor
    gradient: Tensor
    norm: Tensor
    reached: Tensor

    @classmethod
    def of(
        cls, bad: Tensor, batch: Batch, params: Params, value: Tensor, gradient: Tensor, norm: Tensor, reached: Tensor
    ) -> FailedStep:
        """Return the tensors of a step on `batch` from `params`."""
        before = flatten(params.values())
        return cls(bad, largest(batch.inputs.obs), largest(batch.advantages), before, value, gradient, norm, reached)

    def merged_with(self, earlier: FailedStep) -> FailedStep:
        """Return the tensors of this step for its bad members, and those of the `earlier` step for all others."""
        found: FailedStep = map_leaves(lambda new, old: torch.where(per_member(self.bad, new), new, old), self, earlier)
        return found

    def first_non_finite(self, row: int, rewards: Tensor | None, like: Params) -> str:
        """Name the first tensor of member `row` that is not finite, such as "loss: NaN".

        `rewards [S, T, N]` are checked first; `like` has the names and shapes of the parameters.
        """
        before, gradient, reached = (unflatten(vector, like) for vector in (self.before, self.gradient, self.reached))
        candidates: list[tuple[str, Tensor]] = [
            *([] if rewards is None else [("rewards", rewards)]),
            ("observations", self.obs),
            ("advantages", self.advantages),
            *((f"parameter {name}", value) for name, value in before.items()),
            ("loss", self.value),
            *((f"gradient of {name}", value) for name, value in gradient.items()),
            ("norm of the gradient", self.norm),
            *((f"parameter {name}", value) for name, value in reached.items()),
        ]
        for name, value in candidates:
            if not torch.isfinite(value[row]).all():
                return non_finite(name, value[row])
        raise AssertionError(f"every tensor of member {row} is finite")


def bad_rewards(rewards: Tensor) -> dict[int, str]:
    """Return the members whose `rewards [S, T, N]` are not all finite, each with the reason of its failure.

    The rewards are on the CPU.
    """
    if np.isfinite(rewards.numpy()).all():  # faster than torch for few numbers
        return {}
    bad = ~torch.isfinite(rewards).all(-1).all(-1)
    return {int(row): non_finite("rewards", rewards[row]) for row in bad.nonzero().flatten()}


def non_finite(name: str, values: Tensor) -> str:
    """Return the reason of a failure: the name of a tensor, and whether it holds a NaN or only infinities."""
    beyond = "infinite or beyond single precision (3.4e38)" if name == "rewards" else "infinite"
    return f"{name}: {'NaN' if torch.isnan(values).any() else beyond}"


def largest(x: Tensor) -> Tensor:
    """Return the largest absolute value of `x [S, ...]` per member, `[S]`: NaN before inf."""
    return x.abs().flatten(1).amax(1) if x.is_floating_point() else torch.zeros(len(x), device=x.device)
