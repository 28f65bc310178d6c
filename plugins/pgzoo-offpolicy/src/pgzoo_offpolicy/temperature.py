"""The temperature α of SAC: the weight of the entropy, learned or fixed."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from pgzoo.config import Static
from pgzoo.types import Params

__all__ = ["FixedTemperature", "InitialTemperature", "init_temperature"]

FixedTemperature = Annotated[
    float | None,
    Static,
    Field(
        gt=0,
        description="fixed weight of the entropy; by default, it is learned such that the entropy approaches "
        "--target-entropy",
    ),
]
InitialTemperature = Annotated[
    float, Static, Field(gt=0, description="initial weight of the entropy, if it is learned")
]


def init_temperature(settings: Any, name: str) -> tuple[Params, Params]:
    """Return one member's parameters and buffers: ln α under `name`, a parameter if it is learned, else a buffer."""
    learned = settings.temperature is None
    log_alpha: dict[str, Tensor] = {
        name: torch.tensor(settings.temperature_init if learned else settings.temperature).log()
    }
    return (log_alpha, {}) if learned else ({}, log_alpha)
