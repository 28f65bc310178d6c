"""The algorithm's settings as tensors with a member axis, because floats may differ between members."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pgzoo.ops.members import to_device
from pgzoo.training.plan import Plan
from pgzoo.types import Hyper, Params, TrainState

__all__ = ["Hyperparameters"]


class Hyperparameters:
    """Settings that are floats as `[S, 1, 1]` tensors (`tensors`); all others, the same for every member (`others`)."""

    def __init__(self, plan: Plan) -> None:
        values = plan.settings_as_tensors(lambda config: dict(config.settings) | {"gamma": config.gamma})
        self.tensors: Params = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        self.others = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        self._device = torch.device(plan.config.device)

    @property
    def gamma(self) -> Tensor:
        """The discount factor, `[S, 1, 1]`."""
        return self.tensors["gamma"]

    def tensors_at(self, state: TrainState) -> Params:
        """Return the settings that are tensors, and `remaining`: the fraction of its run that a member has to do."""
        return self.tensors | {"remaining": self._remaining(state).reshape(-1, 1, 1)}

    def hyper(self, state: TrainState) -> Hyper:
        """Return all settings as a loss sees them."""
        return Hyper(self.others | self.tensors_at(state))

    def learning_rate(self, state: TrainState) -> Tensor:
        """Return the learning rate of each member under its schedule, `[S]`."""
        base = self.tensors["learning_rate"].reshape(-1)
        if self.others["learning_rate_schedule"] == "constant":
            return base
        return base * self._remaining(state)

    def _remaining(self, state: TrainState) -> Tensor:
        return to_device(torch.from_numpy((1.0 - state.progress).astype(np.float32)), self._device)
