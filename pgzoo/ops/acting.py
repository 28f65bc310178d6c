"""Acting with a policy: by its own fast actor, or by `apply`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pgzoo.ops.members import to_device
from pgzoo.protocols import Actor, Policy
from pgzoo.types import ActorInputs, Array, Inputs, Params

__all__ = ["ApplyActor", "actor_for", "memory_size", "noise_steps"]


def actor_for(policy: Policy, params: Params) -> Actor:
    """Return the policy's own actor, or an `ApplyActor` if it has none or its parameters are not on the CPU."""
    own = getattr(policy, "actor", None) if _device(params).type == "cpu" else None
    actor: Actor = own(params) if own else ApplyActor(policy, params)
    return actor


def memory_size(policy: Policy) -> int:
    """Return the number of floats in a policy's memory per environment; 0 without memory."""
    return int(getattr(policy, "memory_size", 0))


def noise_steps(policy: Policy) -> int | None:
    """Return for how many steps actions are sampled with the same noise, usually 1; None: in the whole collection."""
    steps: int | None = getattr(policy, "noise_steps", 1)
    return steps


class ApplyActor:
    """Acts through the policy's `apply`, on the device of its parameters, and its distribution's `draw` or `mode`."""

    def __init__(self, policy: Policy, params: Params) -> None:
        self.policy, self.params, self.device = policy, params, _device(params)

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, Array | None]:
        """Return actions `[S, N, *A]` and the memory `[S, N, M]` or None; see `protocols.Actor`."""

        def step(leaf: Array | None) -> Any:
            return None if leaf is None else torch.from_numpy(np.ascontiguousarray(leaf[:, None]))  # [S, 1, N, ...]

        memory = None if seen.memory is None else torch.from_numpy(seen.memory)
        inputs = to_device(Inputs(step(seen.obs), step(seen.action_mask), memory, step(seen.starts)), self.device)
        with torch.no_grad():
            output = self.policy.apply(self.params, inputs)
        dist: Any = output.dist
        actions = dist.mode() if noise is None else dist.draw(noise[:, None])
        return actions[:, 0], None if output.memory is None else output.memory.cpu().numpy()


def _device(params: Params) -> torch.device:
    return next((value.device for value in params.values()), torch.device("cpu"))
