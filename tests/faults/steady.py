"""An algorithm with the same pace on every machine, which can be held while a fault is prepared."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

import pgzoo
from pgzoo.ops.losses import weighted_mean


class SteadyConfig(pgzoo.AlgorithmConfig):
    learning_rate: Annotated[float, Field(gt=0, description="Adam step size")] = 1e-2
    pause: Annotated[float, Field(ge=0, description="seconds that an update takes at least")] = 0.02


class Steady:
    """REINFORCE on windows of 200 steps, with a metric that is often NaN or infinite.

    Before update u, it waits while the file `hold-u` exists, and creates the file `held-u` to show that it waits.
    """

    collect = pgzoo.Steps(50)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 4, "total_steps": 30_000}
    updates = 0

    def loss(self, policy: Any, params: Any, batch: pgzoo.Batch, hyper: Any) -> pgzoo.Loss:
        self.updates += 1
        time.sleep(float(hyper.pause.max()))
        while Path(f"hold-{self.updates}").exists():
            Path(f"held-{self.updates}").touch()
            time.sleep(0.02)
        dist = policy.apply(params, batch.inputs).dist
        loss = -weighted_mean(dist.log_prob(batch.actions) * batch.advantages, batch.weights)
        what = (1e6 * loss.detach().abs()).long() % 3
        odd = torch.tensor([float("nan"), float("inf"), 1.0])[what]
        return pgzoo.Loss(loss, {"loss/policy": loss.detach(), "odd/sometimes": odd})


@pgzoo.hookimpl
def pgzoo_register(registry: Any) -> None:
    registry.algorithm("steady", Steady, config=SteadyConfig)
